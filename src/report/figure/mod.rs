//! Figures: draws each kind as SVG text from manifests and, for some kinds, from the files that they list.
//!
//! Figures fit one column of a paper: 3.3 inches wide, with no text under 6 points. `svg` does the drawing,
//! and `png` rasterises an SVG; there is no other way to make a picture. The output depends on the inputs
//! alone, byte for byte.

mod axis;
pub(super) mod class_counts;
pub(super) mod confusion;
mod curves;
mod palette;
mod per_class;
pub(crate) mod png;
mod reliability;
mod svg;
pub(super) mod sweep;
pub mod text;
mod tsne;

use serde_json::Value;

use super::experiment::{Experiment, path_of};
use super::series::{Series, series};
use super::{Error, foreign};
use crate::manifest::{self, Manifest};

/// The most methods or data sets in one drawing: each needs its own colour.
const MOST: usize = palette::METHODS.len();

/// The most classes whose names are written along an axis; the names of more would run into each other.
const NAMED: usize = 20;

/// A kind of figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The projected features of each model, by true class and by prediction; from embed --project (also
    /// called figure1)
    #[value(alias = "figure1")]
    Tsne,
    /// Confusion matrix, in percent of the true class; from eval
    Confusion,
    /// Accuracy of each class by method, with its number of training images; from eval
    PerClass,
    /// Training images of each class; from mk-imbalance
    ClassCounts,
    /// Loss and test accuracy by epoch; from train
    Curves,
    /// Accuracy by confidence, with the calibration error; from eval
    Reliability,
    /// Accuracy by the value of a flag; from eval --sweep, or from evaluations of the runs of train --sweep
    Sweep,
}

impl Kind {
    /// Returns the name in manifests and in the names of files, which is also accepted on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tsne => "figure1",
            Kind::Confusion => "confusion",
            Kind::PerClass => "per-class",
            Kind::ClassCounts => "class-counts",
            Kind::Curves => "curves",
            Kind::Reliability => "reliability",
            Kind::Sweep => "sweep",
        }
    }

    /// Returns the name in the help and in messages.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Tsne => "tsne",
            other => other.name(),
        }
    }

    /// Returns the kind of manifest that the figure is drawn from.
    pub fn takes(self) -> manifest::Kind {
        match self {
            Kind::Tsne => manifest::Kind::Embedding,
            Kind::ClassCounts => manifest::Kind::Dataset,
            Kind::Curves => manifest::Kind::Checkpoint,
            Kind::Confusion | Kind::PerClass | Kind::Reliability | Kind::Sweep => manifest::Kind::Metrics,
        }
    }

    /// Returns the roles of the outputs that drawing opens.
    pub fn roles(self) -> &'static [&'static str] {
        match self {
            Kind::Tsne => &["features"],
            Kind::Curves => &["log"],
            Kind::Confusion => &["confusion"],
            Kind::ClassCounts | Kind::PerClass | Kind::Reliability | Kind::Sweep => &[],
        }
    }

    /// Draws the figure at a width in points.
    ///
    /// # Errors
    /// Returns an error if the manifests lack what the figure shows or do not belong together, or if files
    /// are missing or damaged.
    pub fn draw(self, found: &[&Manifest], width: f64) -> Result<String, Error> {
        // Data sets are not experiments.
        let of = if self == Kind::ClassCounts { Ok(vec![]) } else { experiments(found) };
        self.draw_as(found, &of?.iter().collect::<Vec<_>>(), width)
    }

    /// Draws the figure for manifests whose experiments have already been read, so that runs have the same
    /// names in all figures of a page.
    pub(super) fn draw_as(
        self,
        found: &[&Manifest],
        of: &[&Experiment],
        width: f64,
    ) -> Result<String, Error> {
        match self {
            Kind::Tsne => tsne::draw(found, of, width),
            Kind::Confusion => confusion::draw(found, of, width),
            Kind::PerClass => per_class::draw(found, of, width),
            Kind::ClassCounts => class_counts::draw(found, width),
            Kind::Curves => curves::draw(found, of, width),
            Kind::Reliability => reliability::draw(found, of, width),
            Kind::Sweep => sweep::draw(found, of, width),
        }
    }
}

/// Reads the experiments of manifests.
///
/// # Errors
/// Returns an error if a manifest lacks the lineage that `eval`, `embed` and `train` write.
pub fn experiments(found: &[&Manifest]) -> Result<Vec<Experiment>, Error> {
    found.iter().map(|m| Experiment::of(m)).collect()
}

/// Groups the runs by method, of which a drawing holds at most [`MOST`].
fn methods(of: &[&Experiment], kind: &'static str) -> Result<Vec<Series>, Error> {
    let groups = series(of);
    if groups.len() > MOST {
        let why = format!("shows at most {MOST} methods, but {} were given", groups.len());
        return Err(Error::Inputs { kind, why });
    }
    Ok(groups)
}

/// Names and training image counts of the classes, which must be the same in all manifests.
struct Classes {
    names: Vec<String>,
    counts: Vec<u64>,
}

impl Classes {
    fn of(found: &[&Manifest]) -> Result<Classes, Error> {
        let mut all: Option<(Classes, &Manifest)> = None;
        for m in found {
            let names: Option<Vec<String>> = list(m, "class_names", |v| v.as_str().map(str::to_owned));
            let counts = list(m, "cls_num_list", Value::as_u64);
            let (Some(names), Some(counts)) = (names, counts) else {
                return Err(foreign(m, "metrics lack class_names or cls_num_list"));
            };
            if names.len() != counts.len() || names.is_empty() {
                return Err(foreign(
                    m,
                    "metrics.class_names and metrics.cls_num_list are empty or differ in length",
                ));
            }
            match &all {
                None => all = Some((Classes { names, counts }, m)),
                Some((c, _)) if c.names == names && c.counts == counts => {}
                Some((_, first)) => {
                    let first = path_of(first);
                    let why = format!(
                        "its classes or class counts differ from those of {}; draw one training set per figure",
                        first.display()
                    );
                    return Err(Error::Unfit { path: path_of(m), why });
                }
            }
        }
        all.map(|(c, _)| c).ok_or_else(|| Error::Inputs { kind: "figure", why: "nothing to draw".into() })
    }

    fn len(&self) -> usize {
        self.names.len()
    }
}

/// Returns a list from a manifest's metrics, if every item is valid.
fn list<T>(m: &Manifest, name: &str, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    m.metrics.get(name)?.as_array()?.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns an evaluation with some metrics, as far as drawing reads it.
    pub(super) fn evaluation(metrics: Value) -> Manifest {
        let m = json!({
            "schema": manifest::SCHEMA, "kind": "metrics", "key": "0", "semantics": 1, "params": {},
            "inputs": [], "metrics": metrics,
        });
        serde_json::from_value(m).expect("a manifest")
    }
}
