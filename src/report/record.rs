//! One evaluation as the tables see it (its experiment and its accuracy), and as the input of a report.

use serde_json::{Value, json};

use super::experiment::{Experiment, path_of};
use super::{Error, foreign};
use crate::manifest::{Input, Manifest, Object, Output, key, store};

/// A metric of an evaluation other than its top-1 accuracy.
pub struct Other {
    /// The name in `metrics`.
    pub name: &'static str,
    /// The heading in tables.
    pub title: &'static str,
    /// The number of meaningful decimals: two for percentages.
    pub decimals: usize,
}

/// The name of the balanced accuracy, which equals top-1 if all classes of the split have equally many images.
pub const BALANCED: &str = "balanced_accuracy";

/// The metrics that are shown for every cell that has them.
pub const OTHERS: [Other; 8] = [
    Other { name: "top5", title: "top-5", decimals: 2 },
    Other { name: BALANCED, title: "balanced", decimals: 2 },
    Other { name: "many", title: "many", decimals: 2 },
    Other { name: "medium", title: "medium", decimals: 2 },
    Other { name: "few", title: "few", decimals: 2 },
    Other { name: "macro_f1", title: "macro-F1", decimals: 3 },
    Other { name: "nll", title: "NLL", decimals: 3 },
    Other { name: "ece", title: "ECE", decimals: 3 },
];

/// An evaluation.
#[derive(Clone, Debug)]
pub struct Record {
    /// What was evaluated.
    pub of: Experiment,
    /// Top-1 accuracy in percent.
    pub top1: f64,
    /// The other metrics, in the order of [`OTHERS`]; `None` if the evaluation does not have them.
    pub others: [Option<f64>; OTHERS.len()],
    /// Key of the metrics manifest.
    pub key: String,
    /// Hash of its content. Evaluations of the same weights share a key, even if their lineage describes the
    /// weights differently.
    pub content: String,
}

impl Record {
    /// Reads a metrics manifest; `input` is that manifest as an input.
    ///
    /// # Errors
    /// Returns an error if the manifest lacks top-1 accuracy or the lineage that `eval` writes.
    pub fn of(m: &Manifest, input: &Input) -> Result<Record, Error> {
        let of = Experiment::of(m)?;
        let top1 = m.metrics.get("top1").and_then(Value::as_f64).filter(|v| (0.0..=100.0).contains(v));
        let top1 = top1.ok_or_else(|| foreign(m, "metrics.top1 is not a percentage"))?;
        let others = OTHERS.map(|o| m.metrics.get(o.name).and_then(Value::as_f64));
        let content = input.blake3.clone();
        Ok(Record { of, top1, others, key: m.key.clone(), content })
    }
}

/// Returns a manifest as the input of a report, with the outputs that the report opens. Its hash covers what
/// the report is made from: metrics, params, lineage and those outputs. It does not cover paths and times, so
/// copies of one evaluation are the same input wherever they are.
pub fn input(m: &Manifest, roles: &[&str]) -> Input {
    let path = path_of(m);
    let mut inputs = m.inputs.clone();
    if let Some(dir) = path.parent() {
        crate::manifest::for_each_path(&mut inputs, &mut |p| *p = store::beside(dir, p));
    }
    let mut content = json!({"params": m.params, "metrics": m.metrics, "inputs": lineage(&m.inputs)});
    let used: Vec<&Output> = m.outputs.iter().filter(|o| roles.contains(&o.role.as_str())).collect();
    // Evaluations with few classes have no files. Leaving the field out keeps their hash as it was before
    // evaluations with many classes had a file.
    if !used.is_empty() {
        content["outputs"] = key::content(&used).into();
    }
    let hash = blake3::hash(key::canonical(&content).as_bytes()).to_hex().to_string();
    Input {
        key: Some(m.key.clone()),
        params: m.params.clone(),
        inputs,
        ..Input::new(m.kind.name(), path, hash)
    }
}

fn lineage(inputs: &[Input]) -> Value {
    let one = |i: &Input| {
        let name: Object = match i.key {
            Some(_) => Object::new(),
            // A bare file is identified by its name.
            None => [("name".to_owned(), json!(i.path.file_name().map(|n| n.to_string_lossy())))]
                .into_iter()
                .collect(),
        };
        json!({"role": i.role, "blake3": i.blake3, "params": i.params, "facts": i.facts, "file": name, "inputs": lineage(&i.inputs)})
    };
    inputs.iter().map(one).collect()
}
