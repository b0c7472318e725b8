//! Reads from a manifest's lineage which experiment an evaluation, an embedding or a training belongs to: its
//! method, data set, settings and run.

mod images;
mod lineage;
mod names;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;

pub use self::images::Images;
use self::lineage::Lineage;
pub use self::lineage::second_stage;
pub use self::names::longer_names;
pub(super) use self::names::{BARE, disambiguated, representatives};
use super::column::{Column, column_of};
use super::{Error, foreign};
use crate::manifest::{FILE, Input, Kind, Manifest, Object, Output, key, store};
use crate::methods::presets;

/// One training run, with the epoch that was evaluated and the images it was evaluated on.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// The column of the tables that it belongs to.
    pub column: Column,
    /// `last`, `best`, or `file` for bare weights.
    pub which: String,
    /// The preset that the run is closest to, or `weights NAME` for a bare file.
    pub method: String,
    /// The options of the method that differ from the preset's, as `preset_name` writes them.
    pub options: String,
    /// All other settings that could matter, by name. Two experiments with different settings are never
    /// averaged.
    pub settings: BTreeMap<String, Value>,
    /// Seed of the training.
    pub seed: Option<u64>,
    /// Seed of the network's training, if this is a classifier trained on the network's features.
    pub network_seed: Option<u64>,
    /// The training images; `None` if they are not known.
    pub images: Option<Images>,
    /// The instruction set or GPU on which it was trained; not known for bare files and for results of
    /// earlier versions.
    pub computed_by: Option<String>,
    /// Version of `train` that trained it; not known for bare files.
    pub semantics: Option<u64>,
    /// Hash of the evaluated weights.
    pub weights: String,
    /// Where the weights were, if they are a bare file.
    pub file: Option<PathBuf>,
}

impl Experiment {
    /// Reads the experiment from the lineage of a metrics or embedding manifest, or from a checkpoint's own
    /// params, which describe its last epoch.
    ///
    /// # Errors
    /// Returns an error if the manifest lacks the lineage that `eval`, `embed` and `train` write.
    pub fn of(m: &Manifest) -> Result<Experiment, Error> {
        let bad = |why: &str| foreign(m, why);
        if m.kind == Kind::Embedding && m.input("images").is_some() {
            let why = "is of images without true classes; make one of a data set with embed --project tsne";
            return Err(Error::Unfit { path: path_of(m), why: why.into() });
        }
        let dataset = || m.input("dataset").ok_or_else(|| bad("has no data set in its lineage"));
        if m.kind == Kind::Checkpoint {
            // Weights tell runs apart. Without weights the log does, but it contains times.
            let outputs = |role| m.outputs_of(role).collect::<Vec<&Output>>();
            let outputs = [outputs("last"), outputs("log")].into_iter().find(|o| !o.is_empty());
            let of = Lineage {
                own: &m.params,
                inputs: &m.inputs,
                facts: &m.facts(),
                weights: key::content(&outputs.unwrap_or_default()),
                file: None,
                evaluated: dataset()?,
                which: "last".into(),
                params: &Object::new(),
            };
            return Experiment::new(of, &path_of(m));
        }
        let checkpoint = m.input("checkpoint").ok_or_else(|| bad("has no checkpoint in its lineage"))?;
        let evaluated = dataset()?;
        let which = m.params.get("which").and_then(Value::as_str).map(str::to_owned);
        let which = which.ok_or_else(|| bad("params.which is missing"))?;
        let path = path_of(m);
        let file = store::beside(path.parent().unwrap_or(Path::new("")), &checkpoint.path);
        let of = Lineage {
            own: &checkpoint.params,
            inputs: &checkpoint.inputs,
            facts: &checkpoint.facts,
            weights: checkpoint.blake3.clone(),
            file: (which == "file").then_some(file),
            evaluated,
            which,
            params: &m.params,
        };
        Experiment::new(of, &path)
    }

    /// Reads the experiment from the lineage in the manifest at `path`.
    fn new(of: Lineage, path: &Path) -> Result<Experiment, Error> {
        let column = column_of(of.dataset()).ok_or_else(|| Error::Unfit {
            path: path.to_owned(),
            why:
                "the params of its data set have no `dataset`, or an imb_type without imb_ratio; add what is \
                 missing to the data set's manifest, or make the data set with mk-imbalance"
                    .into(),
        })?;
        let (method, options) = of.method().ok_or_else(|| {
            let why = "its checkpoint's params name no method".into();
            Error::Foreign { path: path.to_owned(), why, tool: "train" }
        })?;
        let (seed, network_seed) = of.seeds();
        Ok(Experiment {
            column,
            method,
            options,
            settings: of.settings(),
            seed,
            network_seed,
            images: Some(Images::of(of.dataset())),
            computed_by: of.computed_by(),
            semantics: of.semantics(),
            which: of.which,
            weights: of.weights,
            file: of.file,
        })
    }
}

/// Returns the path of a manifest, or the path it was written to when it was made.
pub(super) fn path_of(m: &Manifest) -> PathBuf {
    let run = |name| m.run.get(name).and_then(Value::as_str).unwrap_or_default();
    m.path.clone().unwrap_or_else(|| PathBuf::from(run("cwd")).join(run("out")).join(FILE))
}

/// Returns the data set that an input's images come from: the input itself, or the data set behind it if it
/// holds the features of a network.
pub(crate) fn images_of(input: &Input) -> &Input {
    let own = input.inputs.iter().find(|i| i.role == "dataset");
    match own.filter(|_| !input.params.contains_key("dataset")) {
        Some(own) => images_of(own),
        None => input,
    }
}

/// Returns the rank of a method in tables and legends: the order of the presets, by mix, loss and rule. A
/// method with other options has the rank of its preset.
pub(super) fn order(method: &str) -> usize {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| presets::names().collect());
    let name = method.split('(').next().unwrap_or(method);
    NAMES.iter().position(|m| m == name).unwrap_or(NAMES.len())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of Remix on CIFAR-10, exp 100, without further settings.
    pub fn experiment() -> Experiment {
        let column = Column { dataset: "cifar10".into(), imb_type: "exp".into(), imb_ratio: "100".into() };
        Experiment {
            column,
            which: "last".into(),
            method: "remix".into(),
            options: String::new(),
            settings: BTreeMap::new(),
            seed: Some(0),
            network_seed: None,
            images: None,
            computed_by: None,
            semantics: Some(1),
            weights: "0".into(),
            file: None,
        }
    }
}
