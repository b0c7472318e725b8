//! Figures: one drawing of each kind as SVG text, from manifests and, for scatter plots and curves, the files
//! that they list.
//!
//! Drawn for one column of a paper: 3.3 inches wide, no text under 6 points. [`svg`] is the pen, [`png`]
//! turns an SVG into pixels; there is no other path to a picture. Bytes follow from the inputs alone.

mod axis;
pub(super) mod class_counts;
pub(super) mod confusion;
mod curves;
mod figure1;
mod palette;
mod per_class;
pub mod png;
mod reliability;
pub mod svg;
mod sweep;
pub mod text;

use serde_json::Value;

use super::Error;
use super::experiment::Experiment;
use super::experiment::place;
use super::series::{Series, series};
use crate::manifest::{self, Manifest};

/// The most methods, or data sets, in a drawing: each has a colour.
const MOST: usize = palette::METHODS.len();

/// What to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The projected features of each model, by true class and by prediction; from embed --project (also
    /// called figure1)
    #[value(name = "tsne", alias = "figure1")]
    Figure1,
    /// Which class is taken for which, in percent of the true class; from eval
    Confusion,
    /// Accuracy of each class by method, below its training images; from eval
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
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Figure1 => "figure1",
            Kind::Confusion => "confusion",
            Kind::PerClass => "per-class",
            Kind::ClassCounts => "class-counts",
            Kind::Curves => "curves",
            Kind::Reliability => "reliability",
            Kind::Sweep => "sweep",
        }
    }

    /// The manifests that it is drawn from.
    pub fn takes(self) -> manifest::Kind {
        match self {
            Kind::Figure1 => manifest::Kind::Embedding,
            Kind::ClassCounts => manifest::Kind::Dataset,
            Kind::Curves => manifest::Kind::Checkpoint,
            Kind::Confusion | Kind::PerClass | Kind::Reliability | Kind::Sweep => manifest::Kind::Metrics,
        }
    }

    /// Roles of the outputs that it opens.
    pub fn roles(self) -> &'static [&'static str] {
        match self {
            Kind::Figure1 => &["features"],
            Kind::Curves => &["log"],
            Kind::Confusion => &["confusion"],
            _ => &[],
        }
    }

    /// Draws a figure of a width in points.
    ///
    /// # Errors
    /// Manifests that lack what the figure shows or do not go together; files that are missing or damaged.
    pub fn draw(self, found: &[&Manifest], width: f64) -> Result<String, Error> {
        // Data sets are no experiments.
        let of = if self == Kind::ClassCounts { Ok(vec![]) } else { experiments(found) };
        self.draw_as(found, &of?.iter().collect::<Vec<_>>(), width)
    }

    /// The same of manifests whose experiments were read already, so that runs have the same names in all
    /// figures of a page.
    pub(super) fn draw_as(
        self,
        found: &[&Manifest],
        of: &[&Experiment],
        width: f64,
    ) -> Result<String, Error> {
        match self {
            Kind::Figure1 => figure1::draw(found, of, width),
            Kind::Confusion => confusion::draw(found, of, width),
            Kind::PerClass => per_class::draw(found, of, width),
            Kind::ClassCounts => class_counts::draw(found, width),
            Kind::Curves => curves::draw(found, of, width),
            Kind::Reliability => reliability::draw(found, of, width),
            Kind::Sweep => sweep::draw(found, of, width),
        }
    }
}

/// The experiments of manifests.
///
/// # Errors
/// Manifests without the lineage that `eval`, `embed` and `train` write.
pub fn experiments(found: &[&Manifest]) -> Result<Vec<Experiment>, Error> {
    found.iter().map(|m| Experiment::of(m)).collect()
}

/// The runs, grouped by method, of which a drawing has only so many.
fn methods(of: &[&Experiment], kind: &'static str) -> Result<Vec<Series>, Error> {
    let groups = series(of);
    if groups.len() > MOST {
        let why = format!("{} methods; give at most {MOST}", groups.len());
        return Err(Error::Inputs { kind, why });
    }
    Ok(groups)
}

/// Names and training images of the classes, which must be the same in all manifests.
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
                return Err(foreign(m, "metrics.class_names and cls_num_list disagree"));
            }
            match &all {
                None => all = Some((Classes { names, counts }, m)),
                Some((c, _)) if c.names == names && c.counts == counts => {}
                Some((_, first)) => {
                    let first = place(first);
                    let why = format!(
                        "has other classes or class counts than {}; draw one training set a figure",
                        first.display()
                    );
                    return Err(Error::Unfit { path: place(m), why });
                }
            }
        }
        all.map(|(c, _)| c).ok_or_else(|| Error::Inputs { kind: "figure", why: "nothing to draw".into() })
    }

    fn len(&self) -> usize {
        self.names.len()
    }
}

/// A list in a manifest's metrics, if each item is as it should be.
fn list<T>(m: &Manifest, name: &str, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    m.metrics.get(name)?.as_array()?.iter().map(item).collect()
}

fn foreign(m: &Manifest, why: &str) -> Error {
    Error::Foreign { path: place(m), why: why.into(), tool: m.kind.tool() }
}

/// Labels of the class axis: at most about twenty, so that those of a hundred classes do not run into each
/// other.
fn class_label(k: usize, names: &[String]) -> Option<&str> {
    (names.len() <= 20).then(|| names[k].as_str())
}
