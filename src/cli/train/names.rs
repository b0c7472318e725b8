//! The names of runs: those that people see while a run trains, and those of directories.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::flags::Flags;
use crate::manifest::{Kind, Manifest, key};
use crate::methods::presets::preset_name;
use crate::report::experiment::second_stage;
use crate::report::settings::departs;
use crate::train::config::Config;
use crate::train::recipe::Recipe;
use crate::train::schedule::Origin;

/// Returns the name of a run while it trains, with its data set if there are several.
pub fn name(config: &Config, dataset: Option<&Manifest>) -> String {
    let params = config.params();
    let method = match params.get("classifier") {
        Some(classifier) => second_stage(&params, classifier),
        None => preset_name(&params),
    };
    let run = format!("{method} {} seed {}", config.arch, config.seed);
    match dataset.and_then(|d| d.dir().ok()?.file_name()) {
        Some(dir) => format!("{} {run}", dir.to_string_lossy()),
        None => run,
    }
}

/// Returns `--out`, with one directory per seed inside it if there are several, or a name that tells runs
/// apart.
pub fn directory(flags: &Flags, config: &Config, dataset: &Manifest, key: &str) -> PathBuf {
    let seed = config.seed;
    match (&flags.common.out, &flags.seeds) {
        (Some(out), None) => out.clone(),
        (Some(out), Some(_)) => out.join(format!("seed-{seed}")),
        (None, _) => {
            // Earlier versions used this name; the directory is used if it exists.
            let (method, key) = (config.method().name(), key::short(key));
            let earlier = Path::new("runs").join(format!("{method}-{}-s{seed}-{key}", config.arch));
            if earlier.exists() {
                earlier
            } else {
                Path::new("runs").join(directory_name(config, dataset, key))
            }
        }
    }
}

/// Maximum number of bytes of a directory's name before its key.
const LONGEST: usize = 160;

/// Returns a name such as `remix-resnet20-cifar10-exp-100-s0-tau-0.3-epochs-10-KEY`: the method, the network,
/// the data, the seed, and what departs from the defaults, as far as there is room for it. It has no `=`,
/// after which shells begin another word to complete.
fn directory_name(config: &Config, dataset: &Manifest, key: &str) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(Value::to_string).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    };
    let mut name = match config.classifier.map(|c| serde_json::json!(c)) {
        None => format!("{}-{}", config.method().name(), config.arch),
        Some(classifier) => {
            let option = ["tau_norm", "neighbours"].into_iter().find_map(|name| classifier[name].as_f64());
            let option = option.map_or(String::new(), |value| format!("-{value}"));
            let stage = format!("{}{option}", classifier["name"].as_str().unwrap_or_default());
            format!("{stage}-{}-{}", config.method().name(), config.arch)
        }
    };
    for part in ["dataset", "imb_type", "imb_ratio"].iter().filter_map(|part| dataset.params.get(*part)) {
        name += &format!("-{}", text(part));
    }
    name += &format!("-s{}", config.seed);
    let params = config.params();
    let mut defaults = Config::new(config.method());
    if let Some(classifier) = config.classifier {
        let usual = Recipe::second_stage(classifier.is_trained());
        (defaults.epochs, defaults.schedule, defaults.augment) =
            (usual.epochs, usual.schedule, usual.augment);
        defaults.milestones = vec![];
    }
    let defaults = defaults.params();
    let method = preset_name(&params);
    let options = method.split_once('(').map_or("", |(_, options)| options.trim_end_matches(')'));
    // The milestones follow from the recipe, unless it is a custom one, and the first epoch of a deferred rule
    // from either.
    let follows: &[&str] = match config.recipe {
        Origin::Custom if !config.milestones.is_empty() => &["recipe"],
        Origin::Custom => &["recipe", "rule_from"],
        _ => &["milestones", "rule_from"],
    };
    // The normalisation is the data set's.
    let others =
        ["mix", "loss", "rule", "arch", "seed", "mean", "std", "preprocess", "class_names", "classifier"];
    let is_told = |name: &str| !others.contains(&name) && !follows.contains(&name);
    let own = params.iter().filter(|(n, v)| is_told(n) && defaults.get(*n) != Some(v));
    // Features are described by their network, so their settings are left out.
    let is_features = dataset.kind == Kind::Embedding;
    let of_data =
        |name: &str| !is_features && !["dataset", "imb_type", "imb_ratio", "shard_bytes"].contains(&name);
    let of_data = dataset.params.iter().filter(|(n, v)| of_data(n) && departs(n, v));
    let told = own.chain(of_data).map(|(name, value)| format!("{name}-{}", text(value)));
    let options = options.split(',').filter(|o| !o.is_empty()).map(|o| o.replace('=', "-"));
    for setting in options.chain(told) {
        if name.len() + setting.len() < LONGEST {
            name += &format!("-{}", setting.replace('_', "-"));
        }
    }
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-+.".contains(c) { c } else { '-' };
    format!("{}-{key}", name.chars().map(safe).take(LONGEST).collect::<String>())
}
