//! What an evaluation, an embedding or a training is of: method, data set, settings and seed, read from lineage.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::Error;
use super::record::place;
use crate::manifest::{Input, Kind, Manifest, Object, key};
use crate::methods::presets::{names, preset_name};

/// One training with one seed, and which of its epochs is looked at on which images.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Where in the tables it stands.
    pub column: Column,
    /// `last`, `best`, or `file` for bare weights.
    pub which: String,
    /// Preset that the run is closest to, or `weights NAME` for a bare file.
    pub method: String,
    /// The method's options that are not the preset's, as `preset_name` writes them.
    pub options: String,
    /// Everything else that could matter, by name. Two experiments with different settings are never averaged.
    pub settings: BTreeMap<String, Value>,
    /// Seed of the training.
    pub seed: Option<u64>,
    /// What it was trained on; nothing where that is not known.
    pub images: Option<Images>,
}

/// Which images a data set has, of all splits: shards of other sizes, and the other of the two official forms, hold the same ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// How they were chosen.
    params: Object,
    /// Hash of the images.
    hash: String,
}

impl Images {
    /// Those of a data set that is an input. Where an earlier version did not say, the files that they were made from stand for them.
    pub fn of(dataset: &Input) -> Images {
        let params = dataset.params.iter().filter(|(n, _)| *n != "shard_bytes");
        let files = || dataset.inputs.iter().map(|i| Value::from(i.blake3.as_str())).collect();
        let what: Value = dataset.facts.get("images").cloned().unwrap_or_else(files);
        let hash = blake3::hash(key::canonical(&what).as_bytes()).to_hex().to_string();
        Images { params: params.map(|(n, v)| (n.clone(), v.clone())).collect(), hash }
    }
}

/// The experiments, where those on images that were chosen alike say in their settings which these are if they differ: so that they are never
/// averaged, whatever their params say.
pub(super) fn told_apart(all: &[&Experiment]) -> Vec<Experiment> {
    let differs = |own: &&Images| {
        all.iter().filter_map(|e| e.images.as_ref()).any(|i| i.params == own.params && i.hash != own.hash)
    };
    let told = |e: &&Experiment| {
        let mut told = (*e).clone();
        if let Some(own) = e.images.as_ref().filter(differs) {
            told.settings.insert("images".into(), key::short(&own.hash).into());
        }
        told
    };
    all.iter().map(told).collect()
}

/// The training data of a column of the table; ordered as columns are: exp, step, balanced, the largest ratio first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// `cifar10`, `cifar100`, `synthetic`.
    pub dataset: String,
    /// `exp`, `step` or `none`.
    pub imb_type: String,
    /// Images of the largest class by those of the smallest, as printed: `100`, `1.5`.
    pub imb_ratio: String,
}

impl Column {
    /// As `published.json` names it: `cifar10/exp/100`.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.dataset, self.imb_type, self.imb_ratio)
    }
}

impl Ord for Column {
    fn cmp(&self, other: &Self) -> Ordering {
        let place = |c: &Column| (c.dataset.clone(), c.imb_type == "none", c.imb_type.clone());
        let ratio = |c: &Column| c.imb_ratio.parse::<f64>().unwrap_or(0.0);
        place(self)
            .cmp(&place(other))
            .then(ratio(other).total_cmp(&ratio(self)))
            .then(self.imb_ratio.cmp(&other.imb_ratio))
    }
}

impl PartialOrd for Column {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Parameters of a data set that choose no images.
const NEUTRAL: [&str; 4] = ["dataset", "imb_type", "imb_ratio", "shard_bytes"];

impl Experiment {
    /// Reads the lineage of a metrics or embedding manifest, or a checkpoint's own params (its last epoch).
    ///
    /// # Errors
    /// One without the lineage that `eval`, `embed` and `train` write.
    pub fn of(m: &Manifest) -> Result<Experiment, Error> {
        let bad = |why: &str| Error::Foreign { path: place(m), why: why.into(), tool: m.kind.tool() };
        if m.kind == Kind::Checkpoint {
            let trained = m.input("dataset").ok_or_else(|| bad("no data set in its lineage"))?;
            return Experiment::new(&m.params, "", &m.inputs, trained, "last".into(), &Object::new(), &bad);
        }
        let checkpoint = m.input("checkpoint").ok_or_else(|| bad("no checkpoint in its lineage"))?;
        let evaluated = m.input("dataset").ok_or_else(|| bad("no data set in its lineage"))?;
        let which = m.params.get("which").and_then(Value::as_str).map(str::to_owned);
        let which = which.ok_or_else(|| bad("params.which is missing"))?;
        let file = checkpoint.path.file_name().unwrap_or_default().to_string_lossy();
        Experiment::new(&checkpoint.params, &file, &checkpoint.inputs, evaluated, which, &m.params, &bad)
    }

    /// From the checkpoint's params, file name and inputs, the data set that it is judged on, and the params of that.
    fn new(
        checkpoint: &Object,
        file: &str,
        inputs: &[Input],
        evaluated: &Input,
        which: String,
        params: &Object,
        bad: &dyn Fn(&str) -> Error,
    ) -> Result<Experiment, Error> {
        let trained = inputs.iter().find(|i| i.role == "dataset");
        let column = column_of(trained.unwrap_or(evaluated))
            .ok_or_else(|| bad("its data set's params lack dataset, imb_type or imb_ratio"))?;
        let mut settings = BTreeMap::new();
        let (method, options) = match preset_name(checkpoint) {
            _ if which == "file" => (format!("weights {file}"), String::new()),
            name if name == "unknown" => return Err(bad("its checkpoint's params name no method")),
            name => match name.split_once('(') {
                Some((base, options)) => (base.to_owned(), options.trim_end_matches(')').to_owned()),
                None => (name, String::new()),
            },
        };
        // The presets `erm-rs` and `rs` would be the same thing.
        let method = method.strip_prefix("erm-").map_or(method.clone(), str::to_owned);
        for (name, value) in checkpoint {
            if !["mix", "loss", "rule", "method", "seed"].contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        // The milestones follow from the recipe, unless they were chosen by hand.
        let custom = settings.get("recipe").is_none_or(|r| r == "custom");
        settings.remove(if custom { "recipe" } else { "milestones" });
        if let Some(arch) = params.get("arch") {
            settings.insert("arch".into(), arch.clone());
        }
        for (name, value) in trained.unwrap_or(evaluated).params.iter() {
            if !NEUTRAL.contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        if let Some(split) = params.get("split") {
            settings.insert("split".into(), split.clone());
        }
        // The keys of the other form of the official files, or of shards of another size, differ.
        if let Some(trained) = trained
            && trained.key != evaluated.key
            && Images::of(trained) != Images::of(evaluated)
        {
            let on = column_of(evaluated).map_or_else(|| "another data set".into(), |c| c.name());
            let key = evaluated.key.as_deref().map_or("", key::short);
            settings.insert("evaluated on".into(), json!(format!("{on} {key}").trim()));
        }
        let seed = checkpoint.get("seed").and_then(Value::as_u64);
        if [trained, Some(evaluated)]
            .into_iter()
            .flatten()
            .any(|i| i.facts.get("official") == Some(&false.into()))
        {
            settings.insert("images".into(), "not the published ones".into());
        }
        let images = trained.map(Images::of);
        Ok(Experiment { column, which, method, options, settings, seed, images })
    }
}

/// The column that a data set belongs in, from its params.
pub(super) fn column_of(dataset: &Input) -> Option<Column> {
    let text = |name| dataset.params.get(name).and_then(Value::as_str).map(str::to_owned);
    let imb_type = text("imb_type")?;
    let imb_ratio = match dataset.params.get("imb_ratio").and_then(Value::as_f64) {
        // f64 prints 100.0 as 100 and 1.5 as 1.5.
        Some(ratio) => ratio.to_string(),
        None if imb_type == "none" => "1".into(),
        None => return None,
    };
    Some(Column { dataset: text("dataset")?, imb_type, imb_ratio })
}

/// Values by name, those of objects by `name.inner`.
pub(super) fn flatten(name: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{name}.{k}"), v, all)),
        v => {
            all.insert(name.to_owned(), v.clone());
        }
    }
}

/// Place of a method in tables and legends: that of the presets, by mix, loss and rule; the same with other options beside it.
pub(super) fn order(method: &str) -> usize {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| names().collect());
    let name = method.split('(').next().unwrap_or(method);
    NAMES.iter().position(|m| m == name).unwrap_or(NAMES.len())
}
