//! One evaluation as the table sees it: which experiment, which seed, what accuracy. Read from the lineage inside a
//! metrics manifest.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::Error;
use crate::manifest::{FILE, Input, Manifest, Object, key, store};
use crate::methods::presets::preset_name;

/// An evaluation.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where in the tables it stands.
    pub column: Column,
    /// `last`, `best`, or `file` for bare weights.
    pub which: String,
    /// Preset that the run is closest to, or `weights NAME` for a bare file.
    pub method: String,
    /// The method's options that are not the preset's, as `preset_name` writes them.
    pub options: String,
    /// Everything else that could matter, by name. Two records with different settings are never averaged.
    pub settings: BTreeMap<String, Value>,
    /// Seed of the training.
    pub seed: Option<u64>,
    /// Percent.
    pub top1: f64,
    /// Key of the metrics manifest.
    pub key: String,
    /// The metrics manifest, for messages.
    pub place: PathBuf,
}

/// The training data of a column of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Parameters of a data set that choose no images.
const NEUTRAL: [&str; 4] = ["dataset", "imb_type", "imb_ratio", "shard_bytes"];

impl Record {
    /// Reads a metrics manifest.
    ///
    /// # Errors
    /// One without top-1 accuracy, or without the lineage that `eval` writes.
    pub fn of(m: &Manifest) -> Result<Record, Error> {
        let place = place(m);
        let bad = |why: &str| Error::Foreign { path: place.clone(), why: why.into() };
        let checkpoint = m.input("checkpoint").ok_or_else(|| bad("no checkpoint in its lineage"))?;
        let evaluated = m.input("dataset").ok_or_else(|| bad("no data set in its lineage"))?;
        let trained = checkpoint.inputs.iter().find(|i| i.role == "dataset");
        let column = column(trained.unwrap_or(evaluated))
            .ok_or_else(|| bad("its data set's params lack dataset, imb_type or imb_ratio"))?;
        let top1 = m.metrics.get("top1").and_then(Value::as_f64);
        let top1 =
            top1.filter(|v| (0.0..=100.0).contains(v)).ok_or_else(|| bad("metrics.top1 is no percentage"))?;
        let text = |name| m.params.get(name).and_then(Value::as_str).map(str::to_owned);
        let which = text("which").ok_or_else(|| bad("params.which is missing"))?;

        let mut settings = BTreeMap::new();
        let (method, options) = match preset_name(&checkpoint.params) {
            _ if which == "file" => {
                let name = checkpoint.path.file_name().unwrap_or_default().to_string_lossy();
                (format!("weights {name}"), String::new())
            }
            name if name == "unknown" => return Err(bad("its checkpoint's params name no method")),
            name => match name.split_once('(') {
                Some((base, options)) => (base.to_owned(), options.trim_end_matches(')').to_owned()),
                None => (name, String::new()),
            },
        };
        // The presets `erm-rs` and `rs` would be the same thing.
        let method = method.strip_prefix("erm-").map_or(method.clone(), str::to_owned);
        for (name, value) in &checkpoint.params {
            if !["mix", "loss", "rule", "method", "seed"].contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        // The milestones follow from the recipe, unless they were chosen by hand.
        let custom = settings.get("recipe").is_none_or(|r| r == "custom");
        settings.remove(if custom { "recipe" } else { "milestones" });
        if let Some(arch) = m.params.get("arch") {
            settings.insert("arch".into(), arch.clone());
        }
        for (name, value) in trained.unwrap_or(evaluated).params.iter() {
            if !NEUTRAL.contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        if let Some(split) = m.params.get("split") {
            settings.insert("split".into(), split.clone());
        }
        if let Some(trained) = trained
            && trained.key != evaluated.key
        {
            let on = self::column(evaluated).map_or_else(|| "another data set".into(), |c| c.name());
            let key = evaluated.key.as_deref().map_or("", key::short);
            settings.insert("evaluated on".into(), json!(format!("{on} {key}").trim()));
        }
        let seed = checkpoint.params.get("seed").and_then(Value::as_u64);
        Ok(Record { column, which, method, options, settings, seed, top1, key: m.key.clone(), place })
    }
}

fn column(dataset: &Input) -> Option<Column> {
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

fn flatten(name: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{name}.{k}"), v, all)),
        v => {
            all.insert(name.to_owned(), v.clone());
        }
    }
}

/// Where a metrics manifest is, or was when it was made.
fn place(m: &Manifest) -> PathBuf {
    let run = |name| m.run.get(name).and_then(Value::as_str).unwrap_or_default();
    m.path.clone().unwrap_or_else(|| PathBuf::from(run("cwd")).join(run("out")).join(FILE))
}

/// A metrics manifest as the input of a report. Its content is what a table is drawn from: numbers, params and lineage;
/// not paths and times, so copies of one evaluation are the same input wherever they lie.
pub fn input(m: &Manifest) -> Input {
    let place = place(m);
    let mut inputs = m.inputs.clone();
    if let Some(dir) = place.parent() {
        crate::manifest::for_each_path(&mut inputs, &mut |p| *p = store::absolute(&dir.join(&*p)));
    }
    let content = json!({"params": m.params, "metrics": m.metrics, "inputs": lineage(&m.inputs)});
    Input {
        role: "metrics".into(),
        key: Some(m.key.clone()),
        path: place,
        blake3: blake3::hash(key::canonical(&content).as_bytes()).to_hex().to_string(),
        params: m.params.clone(),
        inputs,
    }
}

fn lineage(inputs: &[Input]) -> Value {
    let one = |i: &Input| {
        let name: Object = match i.key {
            Some(_) => Object::new(),
            // A bare file is known by its name.
            None => [("name".to_owned(), json!(i.path.file_name().map(|n| n.to_string_lossy())))]
                .into_iter()
                .collect(),
        };
        json!({"role": i.role, "blake3": i.blake3, "params": i.params, "file": name, "inputs": lineage(&i.inputs)})
    };
    inputs.iter().map(one).collect()
}
