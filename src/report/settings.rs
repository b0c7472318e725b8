//! Settings of a run: their standard values and their wording.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::plural;
use crate::data::features::PASSES;
use crate::manifest::Object;
use crate::methods::presets::preset;
use crate::train::config::Config;

/// The prefix of a projection's settings.
pub(super) const PROJECTION: &str = "projection";

/// The name of the setting that describes a classifier on features.
pub(super) const SECOND_STAGE: &str = "second_stage";

/// Settings that each row of a table and each label of a figure states, even if all runs share them: the
/// classifier on features, and how logits are corrected. Without them the method's name would be wrong.
pub(super) const ALWAYS: [&str; 3] = [SECOND_STAGE, "adjust", "test_prior"];

/// The standard values of settings: what the tools do by default. Only departures from them are reported.
/// Settings without a standard value are reported where they vary.
static STANDARD: LazyLock<Object> = LazyLock::new(|| {
    let mut all = Config::new(preset("erm").expect("it is in the table")).params();
    all.insert("split".into(), "test".into());
    all.insert("select".into(), "test".into());
    // Evaluations.
    all.insert("adjust".into(), Value::Null);
    all.insert("test_prior".into(), "uniform".into());
    all.insert("rand_number".into(), 0.into());
    all.insert("val_fraction".into(), 0.into());
    all.insert("minority_fraction".into(), json!(0.5));
    // Image files.
    all.insert("test_fraction".into(), json!(0.2));
    all.insert("split_seed".into(), 0.into());
    for name in ["class_order", "max_per_class", "drop_empty", "resize", "squash", "on_error", "max_pixels"] {
        all.insert(name.into(), Value::Null);
    }
    // Trainings, as in the papers.
    all.insert("schedule".into(), "step".into());
    all.insert("nesterov".into(), false.into());
    for name in ["crop_padding", "color_jitter", "rand_augment"] {
        all.insert(name.into(), Value::Null);
    }
    // The synthetic set.
    all.insert("train_per_class".into(), 500.into());
    all.insert("test_per_class".into(), 100.into());
    all.insert("images".into(), "the published ones".into());
    // All layers trained from random weights.
    for name in ["init", "init_checkpoint", "new_classifier", "freeze", SECOND_STAGE, PASSES] {
        all.insert(name.into(), Value::Null);
    }
    all
});

/// Returns the standard value of a setting.
pub(super) fn standard(name: &str) -> Option<&'static Value> {
    STANDARD.get(name)
}

/// Returns the standard settings in words, for the notes of a table.
pub(super) fn standard_in_words() -> String {
    let of = |name| standard(name).map_or(String::new(), |v| v.to_string().replace('"', ""));
    let [arch, epochs, batch] = ["arch", "epochs", "batch_size"].map(of);
    let recipe = standard("recipe").map_or(String::new(), |v| words("recipe", v));
    format!("{arch}, {epochs} epochs, batch size {batch} and the {recipe}")
}

/// Returns the epochs from which the learning rate is lower, in words: `milestones 30, 60 and 80`.
pub(super) fn milestones_in_words(milestones: &[u32]) -> String {
    match milestones {
        [] => "no milestones".into(),
        [one] => format!("milestone {one}"),
        [others @ .., last] => {
            let others: Vec<String> = others.iter().map(u32::to_string).collect();
            format!("milestones {} and {last}", others.join(", "))
        }
    }
}

/// Returns whether two values are equal, comparing numbers by value: JSON distinguishes 0 from 0.0.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| b.as_f64() == Some(a))
}

/// Returns whether a value differs from the standard one; without a standard value, every value does.
pub(crate) fn departs(name: &str, value: &Value) -> bool {
    standard(name).is_none_or(|s| !same(s, value))
}

/// Returns a setting in words. Numbers have one format whatever their JSON form: 0.0 becomes 0.
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
        "select" if text == "last" => "last epoch used as the best".into(),
        "select" => format!("selected by {text}"),
        // The recipe that manifests call `seed` is that of the report's code.
        "recipe" if text == "seed" => "recipe report".into(),
        "projection.method" if text == "tsne" => "t-SNE".into(),
        "projection.method" => text.to_uppercase(),
        "projection.early_exaggeration" => format!("early exaggeration {text}"),
        "projection.perplexity" | "projection.iterations" => {
            format!("{} {text}", &name["projection.".len()..])
        }
        "epochs" => plural(text, "epoch"),
        "milestones" => match serde_json::from_value::<Vec<u32>>(value.clone()) {
            Ok(milestones) => milestones_in_words(&milestones),
            Err(_) => format!("milestones {text}"),
        },
        // All other settings are named like their flags.
        name => format!("{} {text}", name.replace('_', "-")),
    }
}
