//! What a manifest's lineage says of a training and its evaluation: method, settings and seeds.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::names::{BARE, end};
use super::{Images, images_of};
use crate::data::features::PASSES;
use crate::manifest::compare::flatten;
use crate::manifest::{Input, Object, key};
use crate::methods::classifier::Classifier;
use crate::methods::presets::{preset, preset_name};
use crate::report::column::column_of;
use crate::report::settings::{PROJECTION, SECOND_STAGE, standard, words};
use crate::train::config::Select;
use crate::train::recipe::Recipe;

/// Params of a data set that are not settings: they are in the column already or do not affect its images.
const NEUTRAL: [&str; 4] = ["dataset", "imb_type", "imb_ratio", "shard_bytes"];

/// Params of a training that follow from a data set of image files, whose own params already include them.
const OF_FILES: [&str; 4] = ["mean", "std", "preprocess", "class_names"];

/// Weights, with what their manifest or lineage records about them, and their evaluation.
pub(super) struct Lineage<'a> {
    /// Params of the training.
    pub own: &'a Object,
    /// Inputs of the training.
    pub inputs: &'a [Input],
    pub facts: &'a Object,
    /// Hash of the weights.
    pub weights: String,
    /// Where the weights were, if they are a bare file.
    pub file: Option<PathBuf>,
    /// The data set that they were evaluated on.
    pub evaluated: &'a Input,
    /// `last`, `best` or `file`.
    pub which: String,
    /// Params of the evaluation.
    pub params: &'a Object,
}

type Settings = BTreeMap<String, Value>;

impl<'a> Lineage<'a> {
    /// Returns the network that produced the features, if the weights are a classifier on features.
    fn network(&self) -> Option<&'a Input> {
        let network = self.inputs.iter().find(|i| i.role == "init" && !i.params.is_empty());
        network.filter(|_| self.own.contains_key("classifier"))
    }

    /// Returns the params of the training that names the method: the network's, if the weights are a
    /// classifier on its features, which is described as its second stage.
    fn checkpoint(&self) -> &'a Object {
        self.network().map_or(self.own, |network| &network.params)
    }

    /// Returns whether the weights are a classifier on imported features, which is described by its second
    /// stage alone.
    fn is_alone(&self) -> bool {
        self.network().is_none() && self.own.contains_key("classifier")
    }

    /// Returns the data set of the training's images.
    fn trained(&self) -> Option<&'a Input> {
        dataset_of(self.inputs).map(images_of)
    }

    /// Returns the data set of the images that were evaluated.
    fn evaluated(&self) -> &'a Input {
        images_of(self.evaluated)
    }

    /// Returns the data set that names the column.
    pub fn dataset(&self) -> &'a Input {
        self.trained().unwrap_or(self.evaluated())
    }

    /// Returns the version of `train` that trained the weights.
    fn version(&self) -> u64 {
        self.facts.get("semantics").and_then(Value::as_u64).unwrap_or(1)
    }

    /// Returns the version of `train`, which is not known for a bare file.
    pub fn semantics(&self) -> Option<u64> {
        self.file.is_none().then(|| self.version())
    }

    /// Returns what computed the training.
    pub fn computed_by(&self) -> Option<String> {
        self.facts.get("computed_by").and_then(Value::as_str).map(str::to_owned)
    }

    /// Returns the method and those of its options that differ from the preset's; `None` if the params name
    /// no method.
    pub fn method(&self) -> Option<(String, String)> {
        if let Some(file) = &self.file {
            return Some((format!("{BARE}{}", end(file, 1)), String::new()));
        }
        let name = preset_name(self.checkpoint());
        let (method, options) = name.split_once('(').unwrap_or((&name, ""));
        // `erm-rs` and the preset `rs` are the same method.
        let method = method.strip_prefix("erm-").unwrap_or(method);
        (name != "unknown").then(|| (method.to_owned(), options.trim_end_matches(')').to_owned()))
    }

    /// Returns all settings, by name.
    pub fn settings(&self) -> Settings {
        let mut settings = self.of_training();
        self.add_init(&mut settings);
        self.add_second_stage(&mut settings);
        // The milestones and the first epoch of a deferred rule follow from the recipe, unless they were set
        // by hand.
        let custom = settings.get("recipe").is_none_or(|r| r == "custom");
        let follows: &[&str] = if custom { &["recipe"] } else { &["milestones", "rule_from"] };
        settings.retain(|name, _| !follows.contains(&name.as_str()));
        if let Some(arch) = self.params.get("arch") {
            settings.insert("arch".into(), arch.clone());
        }
        self.add_dataset(&mut settings);
        self.add_evaluation(&mut settings);
        self.add_selection(&mut settings);
        settings
    }

    fn of_training(&self) -> Settings {
        let mut settings = Settings::new();
        let checkpoint = self.checkpoint();
        let of_files = checkpoint.contains_key("preprocess");
        for (name, value) in checkpoint.iter().filter(|_| !self.is_alone()) {
            let follows = of_files && OF_FILES.contains(&name.as_str());
            if !follows && !["mix", "loss", "rule", "method", "seed"].contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        settings
    }

    /// Adds how the initial weights were trained, without the seed, so that runs from several seeds count as
    /// one setting.
    fn add_init(&self, settings: &mut Settings) {
        let inputs = self.network().map_or(self.inputs, |network| &network.inputs);
        let Some(init) = inputs.iter().find(|i| i.role == "init" && !i.params.is_empty()) else { return };
        let own: Object = init.params.clone().into_iter().filter(|(name, _)| name != "seed").collect();
        let trained = dataset_of(&init.inputs).and_then(|i| i.key.as_deref());
        let hash = blake3::hash(key::canonical(&json!([own, trained])).as_bytes()).to_hex();
        let name = format!("{} {}", preset_name(&init.params), key::short(&hash));
        settings.insert("init".into(), name.into());
    }

    /// Adds the second stage, if the weights are a classifier on features.
    fn add_second_stage(&self, settings: &mut Settings) {
        if let Some(classifier) = self.own.get("classifier") {
            settings.insert(SECOND_STAGE.into(), second_stage(self.own, classifier).into());
            if let Some(passes) = dataset_of(self.inputs).and_then(|features| features.params.get(PASSES)) {
                settings.insert(PASSES.into(), passes.clone());
            }
        }
        let first = self.network().and_then(|network| dataset_of(&network.inputs));
        if let (Some(first), Some(trained)) = (first, self.trained())
            && let Some(name) = other_than(first, trained)
        {
            settings.insert("network trained on".into(), name.into());
        }
    }

    fn add_dataset(&self, settings: &mut Settings) {
        for (name, value) in &self.dataset().params {
            let of_features = self.is_alone() && ["arch", "class_names", "splits"].contains(&name.as_str());
            if !of_features && !NEUTRAL.contains(&name.as_str()) {
                flatten(name, value, settings);
            }
        }
        let datasets = self.trained().into_iter().chain([self.evaluated()]);
        if datasets.into_iter().any(|i| i.facts.get("official") == Some(&false.into())) {
            settings.insert("images".into(), "not the published ones".into());
        }
    }

    fn add_evaluation(&self, settings: &mut Settings) {
        for name in ["split", "adjust", "test_prior"] {
            if let Some(value) = self.params.get(name) {
                settings.insert(name.into(), value.clone());
            }
        }
        if let Some(projection) = self.params.get("project") {
            flatten(PROJECTION, projection, settings);
        }
        let evaluated = self.evaluated();
        if let Some(on) = self.trained().and_then(|trained| other_than(evaluated, trained)) {
            let key = evaluated.key.as_deref().map_or("", key::short);
            settings.insert("evaluated on".into(), format!("{on} {key}").trim().into());
        }
    }

    /// Adds the split that selected the best epoch; version 1 of `train` could use only the test split.
    fn add_selection(&self, settings: &mut Settings) {
        settings.remove("select");
        if self.which == "best" {
            let cut = settings.get("val_fraction").and_then(Value::as_f64).is_some_and(|f| f > 0.0);
            let has_val = |i: &Input| i.facts.get("images").is_some_and(|images| images.get("val").is_some());
            let held_out = cut || has_val(self.dataset());
            let usual = Select::usual(held_out && self.version() > 1).name();
            settings.insert("select".into(), self.own.get("select").cloned().unwrap_or(usual.into()));
        }
    }

    /// Returns the seed of the training, and that of the network if this is a classifier trained on its
    /// features. A classifier that is computed in closed form has no seed of its own; the network's is used.
    pub fn seeds(&self) -> (Option<u64>, Option<u64>) {
        let is_trained = !self.own.contains_key("classifier")
            || Classifier::of(self.own).is_some_and(Classifier::is_trained);
        let seed_of = |params: &Object| params.get("seed").and_then(Value::as_u64);
        if !is_trained {
            return (seed_of(self.checkpoint()), None);
        }
        (seed_of(self.own), self.network().and_then(|network| seed_of(&network.params)))
    }
}

fn dataset_of(inputs: &[Input]) -> Option<&Input> {
    inputs.iter().find(|i| i.role == "dataset")
}

/// Returns the name of a data set if its images are not those of the other. Keys also differ between the two
/// official formats and between shard sizes, so the images are compared too.
fn other_than(dataset: &Input, other: &Input) -> Option<String> {
    let same = dataset.key == other.key || Images::of(dataset).are_those_of(&Images::of(other));
    (!same).then(|| column_of(dataset).map_or_else(|| "another data set".into(), |c| c.name()))
}

/// The settings of a second stage, in the order in which those that differ from the usual ones are named.
const OF_SECOND_STAGE: [&str; 10] = [
    "epochs",
    "schedule",
    "batch_size",
    "lr",
    "momentum",
    "weight_decay",
    "warmup",
    "milestones",
    "nesterov",
    "rule_from",
];

/// Describes a second stage in words: its usual name, if it has one, and the settings that differ from the
/// usual training.
pub fn second_stage(params: &Object, classifier: &Value) -> String {
    let name = classifier["name"].as_str().unwrap_or_default();
    let method = preset_name(params);
    let mut text = match (name, &*method) {
        ("linear", "rs(rs=inverse)") => "cRT".into(),
        ("lws", "rs(rs=inverse)") => "LWS".into(),
        ("tau-norm", _) => match classifier["tau_norm"].as_f64() {
            Some(tau) => format!("tau-norm {tau}"),
            None => "tau-norm auto".into(),
        },
        ("ncm", _) => "NCM".into(),
        ("ncm-cosine", _) => "cosine NCM".into(),
        ("knn", _) => format!("{}-NN", classifier["neighbours"]),
        (name, "erm") => format!("{name} classifier"),
        (name, method) => format!("{name} classifier by {method}"),
    };
    if Classifier::of(params).is_some_and(Classifier::is_trained) {
        let erm = preset("erm").expect("it is in the table");
        let usual = Recipe::second_stage(true).config(erm).params();
        for name in OF_SECOND_STAGE {
            // Params omit settings that equal a network's training defaults.
            let [own, usual] = [params, &usual]
                .map(|params| params.get(name).or_else(|| standard(name)).unwrap_or(&Value::Null));
            if own != usual && !own.is_null() {
                text += &format!(" {}", words(name, own));
            }
        }
    }
    if let Some(which) = params.get("init_checkpoint").and_then(Value::as_str) {
        text += &format!(" on the {which} epoch");
    }
    text
}
