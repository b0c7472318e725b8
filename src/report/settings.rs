//! Settings of a run in words: what a row of a table must say so that it is taken for no other experiment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::experiment::{Experiment, SECOND_STAGE};
use crate::data::features::PASSES;
use crate::manifest::Object;
use crate::methods::presets::preset;
use crate::train::config::Config;

/// What train and mk-imbalance do unless told otherwise, so that only departures from it are told. Settings
/// that are not here are told where they vary.
static STANDARD: LazyLock<Object> = LazyLock::new(|| {
    let mut all = Config::new(preset("erm").expect("it is in the table")).params();
    all.insert("split".into(), "test".into());
    all.insert("select".into(), "test".into());
    // Of evaluations.
    all.insert("adjust".into(), Value::Null);
    all.insert("test_prior".into(), "uniform".into());
    all.insert("rand_number".into(), 0.into());
    all.insert("val_fraction".into(), 0.into());
    all.insert("minority_fraction".into(), json!(0.5));
    // Of image files.
    all.insert("test_fraction".into(), json!(0.2));
    all.insert("split_seed".into(), 0.into());
    for name in ["class_order", "max_per_class", "drop_empty", "resize", "squash", "on_error", "max_pixels"] {
        all.insert(name.into(), Value::Null);
    }
    // Of trainings, where they are as in the papers.
    all.insert("schedule".into(), "step".into());
    all.insert("nesterov".into(), false.into());
    for name in ["crop_padding", "color_jitter", "rand_augment"] {
        all.insert(name.into(), Value::Null);
    }
    // Of the synthetic set.
    all.insert("train_per_class".into(), 500.into());
    all.insert("test_per_class".into(), 100.into());
    all.insert("images".into(), "the published ones".into());
    // Trained from random weights, all layers.
    for name in ["init", "init_checkpoint", "new_classifier", "freeze", SECOND_STAGE, PASSES] {
        all.insert(name.into(), Value::Null);
    }
    all
});

/// The standard value of a setting.
pub(super) fn standard(name: &str) -> Option<&'static Value> {
    STANDARD.get(name)
}

/// The standard settings in words, for the notes of a table.
pub(super) fn standard_in_words() -> String {
    let of = |name| standard(name).map_or(String::new(), |v| v.to_string().replace('"', ""));
    let [arch, epochs, batch] = ["arch", "epochs", "batch_size"].map(of);
    let recipe = standard("recipe").map_or(String::new(), |v| words("recipe", v));
    format!("{arch}, {epochs} epochs, batch {batch}, {recipe}")
}

/// Equal as numbers, where both are numbers: JSON tells 0 from 0.0.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}

/// What a table says of its settings.
pub(super) struct Telling {
    /// Settings that all records have with one value, which is not the standard one, in words: said once, and
    /// in no row.
    pub common: Vec<String>,
    /// Settings without a standard value that rows must tell, or rows that were never averaged would look the
    /// same.
    varying: BTreeSet<String>,
    shared: BTreeSet<String>,
}

/// What must be said of the settings of a table's records, and where.
pub(super) fn telling(records: &[&Experiment]) -> Telling {
    let names: BTreeSet<&String> = records.iter().flat_map(|r| r.settings.keys()).collect();
    let mut telling = Telling { common: vec![], varying: BTreeSet::new(), shared: BTreeSet::new() };
    for name in names {
        let values: BTreeSet<String> =
            records.iter().filter_map(|r| Some(words(name, r.settings.get(name)?))).collect();
        let mut per_method: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
        for r in records {
            per_method.entry(&r.method).or_default().insert(r.settings.contains_key(name));
        }
        if values.len() == 1 && records.iter().all(|r| r.settings.contains_key(name)) {
            telling.common.extend(values.into_iter().filter(|_| departs(name, &records[0].settings[name])));
            telling.shared.insert(name.clone());
        } else if standard(name).is_none()
            && (values.len() > 1 || per_method.values().any(|has| has.len() > 1))
        {
            telling.varying.insert(name.clone());
        }
    }
    telling
}

/// Whether a value is not the standard one; where there is none, every value departs.
pub(crate) fn departs(name: &str, value: &Value) -> bool {
    standard(name).is_none_or(|s| !same(s, value))
}

/// What departs from the preset and the standard settings, in words, without what is said once for all rows.
pub(super) fn variant(r: &Experiment, telling: &Telling) -> String {
    in_words(r, |name| {
        !telling.shared.contains(name) && (standard(name).is_some() || telling.varying.contains(name))
    })
}

/// The same, whatever other rows have: for records that are read alone.
pub(super) fn departures(r: &Experiment, telling: &Telling) -> String {
    in_words(r, |name| standard(name).is_some() || telling.varying.contains(name))
}

/// Options that are not the preset's, and those of the settings to tell that depart from the standard.
fn in_words(r: &Experiment, tell: impl Fn(&str) -> bool) -> String {
    let options = options(r);
    let told = r.settings.iter().filter(|(name, value)| tell(name) && departs(name, value));
    options.chain(told.map(|(name, value)| words(name, value))).collect::<Vec<_>>().join(", ")
}

/// Options of the method that are not the preset's, in words, as their flags are called.
pub(super) fn options(r: &Experiment) -> impl Iterator<Item = String> {
    let all = r.options.split(',').filter(|o| !o.is_empty());
    all.map(|o| o.replace('=', " ").replace('_', "-"))
}

/// A setting in words. Numbers are written alike whatever their JSON: 0.0 as 0.
pub(super) fn words(name: &str, value: &Value) -> String {
    let rounded = |v: &Value| v.as_f64().map_or_else(|| v.to_string(), |v| format!("{v:.3}"));
    let text = match value {
        Value::Array(all) if name.ends_with("mean") || name.ends_with("std") => {
            all.iter().map(rounded).collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text.clone(),
        Value::Number(n) => {
            n.as_f64().filter(|_| n.is_f64()).map_or_else(|| n.to_string(), |v| v.to_string())
        }
        other => other.to_string(),
    };
    match name {
        "arch" | "precision" | SECOND_STAGE => text,
        "select" if text == "last" => "the last epoch for the best".into(),
        "select" => format!("selected by {text}"),
        // What manifests call seed is the recipe of the report's code.
        "recipe" if text == "seed" => "recipe report".into(),
        "projection.method" if text == "tsne" => "t-SNE".into(),
        "projection.method" => text.to_uppercase(),
        "projection.early_exaggeration" => format!("early exaggeration {text}"),
        "projection.perplexity" | "projection.iterations" => {
            format!("{} {text}", &name["projection.".len()..])
        }
        "epochs" => format!("{text} epoch{}", if text == "1" { "" } else { "s" }),
        // As the flag is called.
        name => format!("{} {text}", name.replace('_', "-")),
    }
}
