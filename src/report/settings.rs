//! Settings of a run in words: what a row of a table must say so that it is taken for no other experiment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::experiment::Experiment;
use crate::manifest::Object;
use crate::methods::loss::Loss;
use crate::methods::mix::Mix;
use crate::methods::presets::Method;
use crate::methods::rule::Rule;
use crate::train::config::Config;

/// What train and mk-imbalance do unless told otherwise, so that only departures from it are told. Settings that are not
/// here are told where they vary.
static STANDARD: LazyLock<Object> = LazyLock::new(|| {
    let erm = Method { mix: Mix::None, loss: Loss::Ce, rule: Rule::None };
    let mut all = Config::new(erm).params();
    all.insert("split".into(), "test".into());
    all.insert("rand_number".into(), 0.into());
    all.insert("val_fraction".into(), 0.into());
    all.insert("minority_fraction".into(), json!(0.5));
    all.insert("images".into(), "the published ones".into());
    all
});

fn standard(name: &str) -> Option<&'static Value> {
    STANDARD.get(name)
}

/// The standard settings in words, for the notes of a table.
pub(super) fn standard_in_words() -> String {
    let of = |name| standard(name).map_or(String::new(), |v| v.to_string().replace('"', ""));
    let [arch, epochs, batch, recipe] = ["arch", "epochs", "batch_size", "recipe"].map(of);
    format!("{arch}, {epochs} epochs, batch {batch}, recipe {recipe}")
}

/// Equal as numbers, where both are numbers: JSON tells 0 from 0.0.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}

/// Settings without a standard value that differ between records of a table, or that only some records of one method
/// have: these must be told, or rows that were never averaged would look the same.
pub(super) fn telling(records: &[&Experiment]) -> BTreeSet<String> {
    let names: BTreeSet<&String> = records.iter().flat_map(|r| r.settings.keys()).collect();
    let varies = |name: &String| {
        let values: BTreeSet<String> =
            records.iter().filter_map(|r| r.settings.get(name)).map(Value::to_string).collect();
        let mut per_method: BTreeMap<&str, BTreeSet<bool>> = BTreeMap::new();
        for r in records {
            per_method.entry(&r.method).or_default().insert(r.settings.contains_key(name));
        }
        values.len() > 1 || per_method.values().any(|has| has.len() > 1)
    };
    names.into_iter().filter(|n| standard(n).is_none() && varies(n)).cloned().collect()
}

/// What departs from the preset and the standard settings, in words.
pub(super) fn variant(r: &Experiment, telling: &BTreeSet<String>) -> String {
    let mut parts: Vec<String> =
        r.options.split(',').filter(|o| !o.is_empty()).map(|o| o.replace('=', " ")).collect();
    for (name, value) in &r.settings {
        if standard(name).is_some_and(|s| !same(s, value)) || telling.contains(name) {
            parts.push(words(name, value));
        }
    }
    parts.join(", ")
}

/// Whether published values are of this setting: the standard one, and what the paper's text leaves open, the second milestone and the
/// norm of class weights. In bf16 it is the same experiment, rounded.
pub(super) fn is_published(r: &Experiment) -> bool {
    let open = ["recipe", "milestones", "precision"];
    let recipe = r.settings.get("recipe").is_none_or(|v| v == "seed" || v == "paper");
    let standard = r.settings.iter().all(|(name, value)| {
        open.contains(&name.as_str()) || standard(name).map_or(name != "evaluated on", |s| same(s, value))
    });
    let options = r.options.split(',').all(|o| o.is_empty() || o.starts_with("rw_norm="));
    standard && recipe && options && !r.settings.contains_key("milestones")
}

/// Settings that every record has with the same value and that no row tells.
pub(super) fn common(records: &[&Experiment], telling: &BTreeSet<String>) -> Vec<String> {
    let everywhere = |name: &String| records.iter().all(|r| r.settings.contains_key(name));
    let first = records[0].settings.iter();
    first
        .filter(|(name, _)| standard(name).is_none() && !telling.contains(*name) && everywhere(name))
        .map(|(name, value)| words(name, value))
        .collect()
}

pub(super) fn words(name: &str, value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match name {
        "arch" | "precision" => text,
        "epochs" => format!("{text} epoch{}", if text == "1" { "" } else { "s" }),
        name => format!("{name} {text}"),
    }
}
