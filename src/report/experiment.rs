//! Reads from a manifest's lineage which experiment an evaluation, an embedding or a training belongs to: its
//! method, data set, settings and run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::Error;
use super::column::{Column, column_of};
use super::settings::{PROJECTION, SECOND_STAGE, standard, words};
use crate::data::features::PASSES;
use crate::manifest::{FILE, Input, Kind, Manifest, Object, Output, key, store};
use crate::methods::classifier::Classifier;
use crate::methods::presets::{names, preset_name};
use crate::train::config::Select;

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

/// The images of a data set, over all splits. The same images may be stored in shards of another size or come
/// from the other of the two official formats.
#[derive(Clone, Debug)]
pub struct Images {
    /// How they were chosen.
    params: Object,
    /// Hashes of the images of each split; earlier versions did not record them.
    splits: Option<Value>,
    /// Hashes of the source files.
    files: Vec<String>,
}

impl Images {
    /// Returns the images of a data set that is an input.
    pub fn of(dataset: &Input) -> Images {
        let params = dataset.params.iter().filter(|(n, _)| *n != "shard_bytes");
        Images {
            params: params.map(|(n, v)| (n.clone(), v.clone())).collect(),
            splits: dataset.facts.get("images").cloned(),
            files: dataset.inputs.iter().map(|i| i.blake3.clone()).collect(),
        }
    }

    /// Returns whether both are the same images, regardless of the params that chose them. If one of the two
    /// does not record the hashes of its images, the source files are compared instead.
    fn are(&self, other: &Images) -> bool {
        match (&self.splits, &other.splits) {
            (Some(own), Some(others)) => own == others,
            _ => self.files == other.files,
        }
    }

    /// Returns whether two data sets hold the same images and were made with the same params.
    pub fn are_those_of(&self, other: &Images) -> bool {
        self.params == other.params && self.are(other)
    }

    /// Returns a hash that identifies the images: the hash of the training images from the data set's
    /// manifest or, if it has none, a hash of all source files.
    fn hash(&self) -> String {
        match self.splits.as_ref().and_then(|splits| splits["train"].as_str()) {
            Some(train) => train.to_owned(),
            None => blake3::hash(self.files.concat().as_bytes()).to_hex().to_string(),
        }
    }
}

/// Returns the experiments so that different ones can be told apart. If data sets were made with the same
/// params but hold different images, their experiments get an `images` setting with a hash, so that they are
/// never averaged. Bare files with the same name but different contents get longer names.
pub(super) fn disambiguated(all: &[&Experiment]) -> Vec<Experiment> {
    let differs = |dataset: &str, own: &Images| {
        let others = all.iter().filter(|other| other.column.dataset == dataset);
        others.filter_map(|e| e.images.as_ref()).any(|i| i.params == own.params && !i.are(own))
    };
    let told = |e: &&Experiment| {
        let mut told = (*e).clone();
        if let Some(own) = e.images.as_ref().filter(|own| differs(&e.column.dataset, own)) {
            told.settings.insert("images".into(), key::short(&own.hash()).into());
        }
        told
    };
    let mut all: Vec<Experiment> = all.iter().map(told).collect();
    name_files(&mut all);
    all
}

/// Renames bare files that share a name but not their contents: as much of the path is kept as tells them
/// apart (`a/best.safetensors`), and the hash is added if the whole paths are equal.
fn name_files(all: &mut [Experiment]) {
    // The smallest path, by name and content hash.
    let mut names: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for e in all.iter() {
        if let Some(file) = &e.file {
            let contents = names.entry(e.method.clone()).or_default();
            let first = contents.entry(e.weights.clone()).or_insert_with(|| file.clone());
            *first = file.min(first).clone();
        }
    }
    names.retain(|_, contents| contents.len() > 1);
    for e in all.iter_mut().filter(|e| e.file.is_some()) {
        if let Some(contents) = names.get(&e.method) {
            let longest = contents.values().map(|p| p.components().count()).max().unwrap_or(0);
            let ends = |n| contents.values().map(|p| end(p, n)).collect::<std::collections::BTreeSet<_>>();
            let path = &contents[&e.weights];
            e.method = match (2..=longest).find(|&n| ends(n).len() == contents.len()) {
                Some(n) => format!("{BARE}{}", end(path, n)),
                None => format!("{} {}", e.method, key::short(&e.weights)),
            };
        }
    }
}

/// The prefix of the names of bare files.
pub(super) const BARE: &str = "weights ";

/// Returns the last components of a path, joined by slashes.
fn end(path: &Path, components: usize) -> String {
    let all: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    all[all.len().saturating_sub(components)..].join("/")
}

/// Returns the names of bare files that had to be lengthened, by the hash of their contents. They depend on
/// paths, which are not part of any key, so a report that shows them records them in its params.
pub fn longer_names(all: &[&Experiment]) -> Object {
    let told = disambiguated(all);
    let longer = all.iter().zip(&told).filter(|(own, told)| own.method != told.method);
    longer.map(|(_, told)| (told.weights.clone(), told.method.clone().into())).collect()
}

/// Returns, for each experiment, the index of its representative. Among runs with the same settings and
/// byte-identical weights, the representative is the first that records what computed it, or else the first.
pub(super) fn representatives(all: &[&Experiment]) -> Vec<usize> {
    let identity = |e: &&Experiment| {
        let settings: Vec<String> = e.settings.iter().map(|(name, v)| words(name, v)).collect();
        json!([e.column.name(), e.which, e.method, e.options, settings, e.seed, e.weights]).to_string()
    };
    let identities: Vec<String> = all.iter().map(identity).collect();
    let mut chosen: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, identity) in identities.iter().enumerate() {
        let best = chosen.entry(identity).or_insert(i);
        if all[*best].computed_by.is_none() && all[i].computed_by.is_some() {
            *best = i;
        }
    }
    identities.iter().map(|identity| chosen[identity.as_str()]).collect()
}

/// Params of a data set that are not settings: they are in the column already or do not affect its images.
const NEUTRAL: [&str; 4] = ["dataset", "imb_type", "imb_ratio", "shard_bytes"];

/// Params of a training that follow from a data set of image files, whose own params already include them.
const OF_FILES: [&str; 4] = ["mean", "std", "preprocess", "class_names"];

impl Experiment {
    /// Reads the experiment from the lineage of a metrics or embedding manifest, or from a checkpoint's own
    /// params, which describe its last epoch.
    ///
    /// # Errors
    /// Returns an error if the manifest lacks the lineage that `eval`, `embed` and `train` write.
    pub fn of(m: &Manifest) -> Result<Experiment, Error> {
        let bad = |why: &str| Error::Foreign { path: place(m), why: why.into(), tool: m.kind.tool() };
        let dataset = || m.input("dataset").ok_or_else(|| bad("no data set in its lineage"));
        if m.kind == Kind::Checkpoint {
            // Weights tell runs apart. Without weights the log does, but it contains times.
            let outputs = |role| m.outputs_of(role).collect::<Vec<&Output>>();
            let outputs = [outputs("last"), outputs("log")].into_iter().find(|o| !o.is_empty());
            let of = Trained {
                params: &m.params,
                inputs: &m.inputs,
                facts: &m.facts(),
                weights: key::content(&outputs.unwrap_or_default()),
                file: None,
            };
            return Experiment::new(of, dataset()?, "last".into(), &Object::new(), &place(m));
        }
        let checkpoint = m.input("checkpoint").ok_or_else(|| bad("no checkpoint in its lineage"))?;
        let evaluated = dataset()?;
        let which = m.params.get("which").and_then(Value::as_str).map(str::to_owned);
        let which = which.ok_or_else(|| bad("params.which is missing"))?;
        let here = place(m);
        let file = here.parent().unwrap_or(Path::new("")).join(&checkpoint.path);
        let of = Trained {
            params: &checkpoint.params,
            inputs: &checkpoint.inputs,
            facts: &checkpoint.facts,
            weights: checkpoint.blake3.clone(),
            file: (which == "file").then(|| store::absolute(&file)),
        };
        Experiment::new(of, evaluated, which, &m.params, &here)
    }

    /// Creates an experiment from the trained weights, the data set they were evaluated on, and the
    /// evaluation's params.
    fn new(
        of: Trained,
        evaluated: &Input,
        which: String,
        params: &Object,
        place: &Path,
    ) -> Result<Experiment, Error> {
        let Trained { params: own, inputs, facts, weights, file } = of;
        // A classifier on features is described by the network that produced the features, plus its second
        // stage.
        let network = inputs.iter().find(|i| i.role == "init" && !i.params.is_empty());
        let network = network.filter(|_| own.contains_key("classifier"));
        let checkpoint = network.map_or(own, |network| &network.params);
        let trained = inputs.iter().find(|i| i.role == "dataset").map(images_of);
        let evaluated = images_of(evaluated);
        let version = || facts.get("semantics").and_then(Value::as_u64).unwrap_or(1);
        let column = column_of(trained.unwrap_or(evaluated))
            .ok_or_else(|| Error::Unfit {
                path: place.to_owned(),
                why: "the params of its data set name no `dataset`, or an imb_type without imb_ratio; add them to the data set's \
                      manifest, or make it with mk-imbalance"
                    .into(),
            })?;
        let mut settings = BTreeMap::new();
        let (method, options) = match (&file, preset_name(checkpoint)) {
            (Some(file), _) => (format!("{BARE}{}", end(file, 1)), String::new()),
            (None, name) if name == "unknown" => {
                let why = "its checkpoint's params name no method".into();
                return Err(Error::Foreign { path: place.to_owned(), why, tool: "train" });
            }
            (None, name) => match name.split_once('(') {
                Some((base, options)) => (base.to_owned(), options.trim_end_matches(')').to_owned()),
                None => (name, String::new()),
            },
        };
        // `erm-rs` and the preset `rs` are the same method.
        let method = method.strip_prefix("erm-").map_or(method.clone(), str::to_owned);
        let of_files = checkpoint.contains_key("preprocess");
        // A classifier on imported features is described by its second stage alone.
        let alone = network.is_none() && own.contains_key("classifier");
        for (name, value) in checkpoint.iter().filter(|_| !alone) {
            let follows = of_files && OF_FILES.contains(&name.as_str());
            if !follows && !["mix", "loss", "rule", "method", "seed"].contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        // Initial weights are described by how they were trained, without the seed, so that runs from several
        // seeds count as one setting.
        let init = network.map_or(inputs, |network| &network.inputs).iter();
        if let Some(init) = init.clone().find(|i| i.role == "init" && !i.params.is_empty()) {
            let own: Object = init.params.clone().into_iter().filter(|(name, _)| name != "seed").collect();
            let trained = init.inputs.iter().find(|i| i.role == "dataset").and_then(|i| i.key.as_deref());
            let hash = blake3::hash(key::canonical(&json!([own, trained])).as_bytes()).to_hex();
            let name = format!("{} {}", preset_name(&init.params), key::short(&hash));
            settings.insert("init".into(), name.into());
        }
        if let Some(classifier) = own.get("classifier") {
            settings.insert(SECOND_STAGE.into(), second_stage(own, classifier).into());
            let features = inputs.iter().find(|i| i.role == "dataset");
            if let Some(passes) = features.and_then(|features| features.params.get(PASSES)) {
                settings.insert(PASSES.into(), passes.clone());
            }
        }
        let first = network.and_then(|network| network.inputs.iter().find(|i| i.role == "dataset"));
        if let (Some(first), Some(trained)) = (first, trained)
            && first.key != trained.key
            && !Images::of(first).are_those_of(&Images::of(trained))
        {
            let on = column_of(first).map_or_else(|| "another data set".into(), |c| c.name());
            settings.insert("network trained on".into(), on.into());
        }
        // The milestones and the first epoch of a deferred rule follow from the recipe, unless they were set
        // by hand.
        let custom = settings.get("recipe").is_none_or(|r| r == "custom");
        let follows: &[&str] = if custom { &["recipe"] } else { &["milestones", "rule_from"] };
        settings.retain(|name, _| !follows.contains(&name.as_str()));
        if let Some(arch) = params.get("arch") {
            settings.insert("arch".into(), arch.clone());
        }
        for (name, value) in trained.unwrap_or(evaluated).params.iter() {
            let of_features = alone && ["arch", "class_names", "splits"].contains(&name.as_str());
            if !of_features && !NEUTRAL.contains(&name.as_str()) {
                flatten(name, value, &mut settings);
            }
        }
        for name in ["split", "adjust", "test_prior"] {
            if let Some(value) = params.get(name) {
                settings.insert(name.into(), value.clone());
            }
        }
        if let Some(projection) = params.get("project") {
            flatten(PROJECTION, projection, &mut settings);
        }
        // Keys also differ between the two official formats and between shard sizes, so the images are
        // compared too.
        if let Some(trained) = trained
            && trained.key != evaluated.key
            && !Images::of(trained).are_those_of(&Images::of(evaluated))
        {
            let on = column_of(evaluated).map_or_else(|| "another data set".into(), |c| c.name());
            let key = evaluated.key.as_deref().map_or("", key::short);
            settings.insert("evaluated on".into(), json!(format!("{on} {key}").trim()));
        }
        // Which epoch is best depends on the split used for selection; version 1 of `train` could use only
        // the test split.
        settings.remove("select");
        if which == "best" {
            let cut = settings.get("val_fraction").and_then(Value::as_f64).is_some_and(|f| f > 0.0);
            let has_val = |i: &Input| i.facts.get("images").is_some_and(|images| images.get("val").is_some());
            let held_out = cut || has_val(trained.unwrap_or(evaluated));
            let usual = Select::usual(held_out && version() > 1).name();
            settings.insert("select".into(), own.get("select").cloned().unwrap_or(usual.into()));
        }
        // A classifier that is computed in closed form has no seed of its own; the network's seed is used.
        let is_trained =
            !own.contains_key("classifier") || Classifier::of(own).is_some_and(Classifier::is_trained);
        let seed_of = |params: &Object| params.get("seed").and_then(Value::as_u64);
        let seed = seed_of(if is_trained { own } else { checkpoint });
        let network_seed = network.filter(|_| is_trained).and_then(|network| seed_of(&network.params));
        if [trained, Some(evaluated)]
            .into_iter()
            .flatten()
            .any(|i| i.facts.get("official") == Some(&false.into()))
        {
            settings.insert("images".into(), "not the published ones".into());
        }
        let images = Some(Images::of(trained.unwrap_or(evaluated)));
        let computed_by = facts.get("computed_by").and_then(Value::as_str).map(str::to_owned);
        let semantics = file.is_none().then(version);
        Ok(Experiment {
            column,
            which,
            method,
            options,
            settings,
            seed,
            network_seed,
            images,
            computed_by,
            semantics,
            weights,
            file,
        })
    }
}

/// Weights, with what their manifest or lineage records about them.
struct Trained<'a> {
    params: &'a Object,
    inputs: &'a [Input],
    facts: &'a Object,
    /// Hash of the weights.
    weights: String,
    /// Where the weights were, if they are a bare file.
    file: Option<PathBuf>,
}

/// Describes a second stage in words: its usual name, if it has one, and the settings that differ from the
/// usual training.
fn second_stage(params: &Object, classifier: &Value) -> String {
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
        let usual = [
            ("epochs", json!(10)),
            ("schedule", json!("cosine")),
            ("batch_size", json!(128)),
            ("lr", json!(0.1)),
            ("momentum", json!(0.9)),
            ("weight_decay", json!(2e-4)),
            ("warmup", json!(0)),
            ("milestones", json!([])),
            ("nesterov", json!(false)),
            ("rule_from", Value::Null),
        ];
        for (name, usual) in usual {
            // Params omit settings that equal a network's training defaults.
            let own = params.get(name).or_else(|| standard(name)).unwrap_or(&Value::Null);
            if *own != usual && !own.is_null() {
                text += &format!(" {}", words(name, own));
            }
        }
    }
    if let Some(which) = params.get("init_checkpoint").and_then(Value::as_str) {
        text += &format!(" on the {which} epoch");
    }
    text
}

/// Returns the path of a manifest, or the path it was written to when it was made.
pub(super) fn place(m: &Manifest) -> PathBuf {
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

/// Adds values by name; the fields of objects are named `name.inner`.
pub(super) fn flatten(name: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{name}.{k}"), v, all)),
        v => {
            all.insert(name.to_owned(), v.clone());
        }
    }
}

/// Returns the rank of a method in tables and legends: the order of the presets, by mix, loss and rule. A
/// method with other options has the rank of its preset.
pub(super) fn order(method: &str) -> usize {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| names().collect());
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

    fn bare(path: &str, weights: &str) -> Experiment {
        let method = format!("{BARE}{}", end(Path::new(path), 1));
        Experiment { method, weights: weights.into(), file: Some(path.into()), seed: None, ..experiment() }
    }

    fn names(all: &[Experiment]) -> Vec<String> {
        let told = disambiguated(&all.iter().collect::<Vec<_>>());
        let again = disambiguated(&told.iter().collect::<Vec<_>>());
        let names = |all: Vec<Experiment>| all.into_iter().map(|e| e.method).collect::<Vec<_>>();
        assert_eq!(names(told.clone()), names(again), "once is enough");
        names(told)
    }

    #[test]
    fn bare_files_of_one_name_are_told_apart() {
        let (a, b) = ("/x/a/ckpt.best.safetensors", "/x/b/ckpt.best.safetensors");
        let plain = "weights ckpt.best.safetensors";
        assert_eq!(names(&[bare(a, "1")]), [plain]);
        assert_eq!(names(&[bare(a, "1"), bare(b, "1")]), [plain, plain], "the same content is the same file");
        let named = ["weights a/ckpt.best.safetensors", "weights b/ckpt.best.safetensors"];
        assert_eq!(names(&[bare(a, "1"), bare(b, "2")]), named);
        let deep = ["/r/1/out/w.safetensors", "/r/2/out/w.safetensors", "/q/v.safetensors"];
        let all: Vec<_> = deep.iter().zip(["1", "2", "3"]).map(|(p, w)| bare(p, w)).collect();
        let named = ["weights 1/out/w.safetensors", "weights 2/out/w.safetensors", "weights v.safetensors"];
        assert_eq!(names(&all), named);
        // The file was replaced between two evaluations.
        let named = names(&[bare(a, "0123456789abcdef"), bare(a, "fedcba9876543210")]);
        assert_eq!(named, [format!("{plain} 0123456789ab"), format!("{plain} fedcba987654")]);
    }

    #[test]
    fn byte_identical_runs_have_one_representative() {
        let by = |computed_by: Option<&str>, weights: &str| Experiment {
            computed_by: computed_by.map(str::to_owned),
            weights: weights.into(),
            ..experiment()
        };
        let all = [by(None, "1"), by(Some("avx2"), "1"), by(Some("avx512"), "1"), by(None, "2")];
        assert_eq!(representatives(&all.iter().collect::<Vec<_>>()), [1, 1, 1, 3]);
        let other = Experiment { method: "mixup".into(), ..by(None, "1") };
        assert_eq!(
            representatives(&[&all[0], &other]),
            [0, 1],
            "Remix with τ = 0 is Mixup, in a row of its own"
        );
    }
}
