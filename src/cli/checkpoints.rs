//! What `eval` and `embed` share: checkpoints, the data set that each is run on, and running the network.
//!
//! What is made of the logits is up to each tool.

mod infer;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use clap_complete::ArgValueCandidates;
use serde_json::json;

pub use self::infer::Rows;
use super::generate::architectures;
use super::trained::{Trained, normalise};
use super::{Common, only_on_cpu};
use crate::data::{self, Normalise, features};
use crate::interrupt;
use crate::manifest::{self, FILE, Input, Kind, Manifest, Object, key, source, store};
use crate::methods::classifier::Classifier;
use crate::net::Arch;
use crate::net::files::Form;
use crate::report::experiment::{Images, images_of};

/// The splits that `train` records in a checkpoint's input `dataset`.
const TRAINED_ON: [&str; 2] = ["train", "test"];

/// Flags that choose checkpoints and images.
#[derive(Args, Clone, Debug)]
pub struct Choice {
    /// Checkpoints: manifests (or their directories), or bare weights with PyTorch's parameter names, as
    /// safetensors or as written by torch.save [default: stdin]
    #[arg(value_name = "MANIFEST|WEIGHTS")]
    pub checkpoints: Vec<PathBuf>,

    /// Split of the data set to run over
    #[arg(long, default_value = "test", value_parser = ["test", "val", "train"])]
    pub split: String,

    /// Which weights of a checkpoint to use: those of its last or of its best epoch
    #[arg(long, default_value = "last", value_parser = ["last", "best"])]
    pub checkpoint: String,

    /// Data set to run over [default: the one that the checkpoint was trained on]
    #[arg(long, value_name = "MANIFEST")]
    pub data: Option<PathBuf>,

    /// Architecture of bare weights, such as resnet32 or resnet50 (checkpoints record theirs)
    #[arg(long, value_name = "ARCH", add = ArgValueCandidates::new(architectures))]
    pub arch: Option<Arch>,
}

/// Weights with the data set to run them on.
pub struct Subject {
    /// Where the weights come from.
    weights: Weights,
    /// The network.
    pub arch: Arch,
    /// The normalisation of its images.
    pub normalise: Normalise,
    /// `last` or `best` epoch of a checkpoint; `file` for bare weights, whose epoch is unknown.
    pub which: String,
    /// The data set to run over.
    pub(super) dataset: Manifest,
    /// The classes of the data set.
    pub info: data::Info,
    /// Name of the checkpoint's directory, or of the bare file without its extension.
    pub name: String,
    /// Whether the class counts are those that the weights were trained on, as far as that is known.
    pub has_own_counts: bool,
    /// Inputs of the roles `checkpoint` (only the weights that are used) and `dataset` (only the split that
    /// is used).
    pub inputs: Vec<Input>,
}

/// Where weights come from.
pub(super) enum Weights {
    /// A checkpoint.
    Checkpoint(Box<Manifest>),
    /// A file of bare weights.
    File(PathBuf),
}

/// Finds the checkpoints and their data sets, and does the tool's work on each.
///
/// Checkpoints given as arguments are all found before any work, so that a bad one is reported at once. Those
/// from stdin are worked on as they arrive, while `train` is still busy with the next one; with `--out`,
/// which is for a single checkpoint, they are counted first.
///
/// # Errors
/// Returns an error if an input is not a checkpoint, if a data set is missing or has changed, if bare weights
/// come without --arch and --data, if a GPU is asked for that would do nothing, or if the work fails, and
/// [`interrupt::Interrupted`] after a signal.
pub fn for_each(
    flags: &Choice,
    tool: &'static str,
    common: &Common,
    mut work: impl FnMut(&Subject) -> Result<()>,
) -> Result<()> {
    let given = flags.data.as_deref().map(|p| dataset_at(p, tool)).transpose()?;
    let subject = |weights: Weights| -> Result<Subject> {
        let subject = match weights {
            Weights::Checkpoint(m) => checkpoint(*m, flags, given.as_ref(), tool)?,
            Weights::File(file) => bare(&file, flags, given.as_ref())?,
        };
        check_device(&common.device, subject.dataset.kind).with_context(|| subject.name.clone())?;
        Ok(subject)
    };
    let mut one = |subject: Subject| -> Result<()> {
        interrupt::check()?;
        work(&subject)?;
        // After a signal, no tool waits for further input.
        Ok(interrupt::check()?)
    };
    if flags.checkpoints.is_empty() && common.out.is_none() {
        let mut found = source::read_stdin(tool, vec![Kind::Checkpoint]);
        return found.try_for_each(|m| one(subject(Weights::Checkpoint(Box::new(m?)))?));
    }
    let all = find(flags, tool)?.into_iter().map(subject).collect::<Result<Vec<Subject>>>()?;
    check_out(common.out.as_deref(), all.len())?;
    all.into_iter().try_for_each(one)
}

/// Refuses a GPU for a data set of features, over which no network is run.
fn check_device(device: &str, kind: Kind) -> Result<()> {
    if kind == Kind::Embedding { only_on_cpu(device, "a classifier on features") } else { Ok(()) }
}

/// Refuses `--out` for several checkpoints.
pub(super) fn check_out(out: Option<&Path>, n: usize) -> Result<()> {
    if let (Some(out), 2..) = (out, n) {
        let out = out.display();
        bail!("--out {out}: is for one checkpoint, but {n} were given; omit --out, or give one checkpoint");
    }
    Ok(())
}

/// Returns the checkpoints and the files of bare weights that the arguments name, or the checkpoints of stdin
/// if there is no argument.
pub(super) fn find(flags: &Choice, tool: &'static str) -> Result<Vec<Weights>> {
    let stdin = [PathBuf::from("-")];
    let args = if flags.checkpoints.is_empty() { &stdin[..] } else { &flags.checkpoints };
    let mut all = Vec::new();
    for arg in args {
        if is_bare(arg) {
            all.push(Weights::File(arg.clone()));
            continue;
        }
        let found = source::read_all(std::slice::from_ref(arg), tool, Kind::Checkpoint);
        // Whoever names an architecture means weights.
        let found = found.map_err(|e| match e {
            manifest::Error::NotAManifest { path, why } if flags.arch.is_some() => anyhow!(
                "{}: is neither a file of weights, as safetensors or as written by torch.save, nor a manifest: \
                 {why}",
                path.display()
            ),
            e => e.into(),
        });
        all.extend(found?.into_iter().map(|m| Weights::Checkpoint(Box::new(m))));
    }
    if let Some(Weights::File(file)) = all.first()
        && flags.checkpoint != "last"
        && all.iter().all(|weights| matches!(weights, Weights::File(_)))
    {
        bail!(
            "{}: is a file of weights, and --checkpoint {} is for checkpoints; omit it",
            file.display(),
            flags.checkpoint
        );
    }
    Ok(all)
}

/// Extensions of files that are taken for weights even if they are missing or damaged.
const WEIGHTS: [&str; 7] = ["safetensors", "pth", "pt", "th", "bin", "tar", "ckpt"];

/// Returns whether an argument is a file of bare weights and not of manifests. The content of the file
/// decides, or its name if the content shows neither.
pub fn is_bare(path: &Path) -> bool {
    let called =
        || path.extension().is_some_and(|e| WEIGHTS.iter().any(|known| e.eq_ignore_ascii_case(known)));
    match head(path) {
        Some((head, len)) => Form::of(&head, len).is_some() || called() && !is_json(&head),
        None => called() && !path.exists(),
    }
}

/// Returns the first bytes of a regular file and its length. A pipe is not read, because its bytes would be
/// lost.
fn head(path: &Path) -> Option<(Vec<u8>, u64)> {
    let len = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
    let mut head = vec![];
    fs::File::open(path).ok()?.take(Form::HEAD as u64).read_to_end(&mut head).ok()?;
    Some((head, len))
}

/// Returns whether a text begins like a JSON object.
fn is_json(head: &[u8]) -> bool {
    head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start().starts_with(b"{")
}

fn checkpoint(m: Manifest, flags: &Choice, given: Option<&Manifest>, tool: &'static str) -> Result<Subject> {
    let dir = m.dir()?.to_owned();
    let file = dir.join(FILE);
    let here = file.display();
    let input = m.as_input("checkpoint", &[&flags.checkpoint])?;
    let arch = arch_of(&m, flags)?;
    let trained = m.input("dataset").with_context(|| {
        format!("{here}: does not say what it was trained on; train the checkpoint again")
    })?;
    let dataset = given.map_or_else(|| own_dataset(&dir, trained, tool), |d| Ok(d.clone()))?;
    if dataset.kind == Kind::Dataset {
        refuse_without_network(&m, arch)?;
    }
    if given.is_some() {
        check_network(&m, &input, &dataset)?;
        if !is_content_of(trained, &dataset) {
            let d = dataset.path.as_deref().unwrap_or(Path::new("--data")).display();
            log::warn!("{here}: was trained on a data set other than {d}; the result records this");
        }
    }
    let name = name_of(&dir);
    subject(Weights::Checkpoint(Box::new(m)), arch, &flags.checkpoint, dataset, name, input, flags)
}

/// Reads the data set that the checkpoint in a directory was trained on.
fn own_dataset(dir: &Path, trained: &Input, tool: &'static str) -> Result<Manifest> {
    let file = dir.join(FILE);
    let here = file.display();
    let path = store::beside(dir, &trained.path);
    let maker = if trained.params.contains_key("splits") { "embed" } else { "mk-imbalance" };
    let hint = || {
        format!(
            "{here}: its data set cannot be read; make it again with {maker}, or give its path with --data"
        )
    };
    let dataset = dataset_at(&path, tool).with_context(hint)?;
    if !is_content_of(trained, &dataset) {
        bail!(
            "{}: is no longer the data set that {here} was trained on (whose content was {}); make that one \
             again with {maker}, or use this one anyway with --data",
            path.display(),
            key::short(&trained.blake3),
        );
    }
    Ok(dataset)
}

/// Returns the name of a checkpoint's directory.
pub(super) fn name_of(dir: &Path) -> String {
    dir.file_name().map_or_else(|| "checkpoint".into(), |name| name.to_string_lossy().into_owned())
}

/// Refuses to run a checkpoint on images if it can only classify features.
pub(super) fn refuse_without_network(m: &Manifest, arch: Arch) -> Result<()> {
    let why = match Classifier::of(&m.params) {
        Some(Classifier::Knn { .. }) => "a kNN classifier can only classify features",
        _ if matches!(arch, Arch::Features(_)) => {
            "was trained on imported features, so it has no network to run on images"
        }
        _ => return Ok(()),
    };
    let here = m.dir()?.join(FILE);
    bail!(
        "{}: {why}; evaluate it on features: call eval without --data, or with --data FEATURES",
        here.display()
    )
}

/// Returns the architecture of a checkpoint.
pub(super) fn arch_of(m: &Manifest, flags: &Choice) -> Result<Arch> {
    let file = m.dir()?.join(FILE);
    let here = file.display();
    let said = m.params.get("arch").and_then(serde_json::Value::as_str);
    let said = said.with_context(|| format!("{here}: params.arch is missing; train the checkpoint again"))?;
    let arch: Arch = said.parse().map_err(|e| anyhow!("{here}: params.arch: {e}"))?;
    if let Some(asked) = flags.arch
        && asked != arch
    {
        bail!("{here}: is a {arch}, not the {asked} of --arch; omit --arch, which is for bare weights");
    }
    Ok(arch)
}

pub(super) fn bare(file: &Path, flags: &Choice, given: Option<&Manifest>) -> Result<Subject> {
    let form = head(file).and_then(|(head, len)| Form::of(&head, len));
    if let Some(refusal) = form.and_then(Form::refusal) {
        bail!("{}: {refusal}", file.display());
    }
    let (Some(arch), Some(dataset)) = (flags.arch, given) else {
        let mut missing = vec![];
        if flags.arch.is_none() {
            missing.push("--arch (the network, such as resnet32)");
        }
        if given.is_none() {
            missing.push("--data (the manifest of a data set)");
        }
        bail!(
            "{}: bare weights record neither network nor data set; add {}",
            file.display(),
            missing.join(" and ")
        );
    };
    let input = Input::of_file("checkpoint", file)?;
    let file = input.path.clone();
    let name = file.file_stem().map_or_else(|| "weights".into(), |n| n.to_string_lossy().into_owned());
    subject(Weights::File(file), arch, "file", dataset.clone(), name, input, flags)
}

fn subject(
    weights: Weights,
    arch: Arch,
    which: &str,
    dataset: Manifest,
    name: String,
    checkpoint: Input,
    flags: &Choice,
) -> Result<Subject> {
    let info = data::Info::of(&dataset)?;
    let images =
        dataset.as_input("dataset", &[&flags.split]).with_context(|| format!("--split {}", flags.split))?;
    let normalise = match &weights {
        // Bare weights do not state their normalisation.
        Weights::File(_) => info.normalise.unwrap_or(Normalise::CIFAR),
        Weights::Checkpoint(m) => {
            let at = || checkpoint.path.display().to_string();
            Trained::of(m).with_context(at)?.compare(&info, &at())?;
            normalise(&checkpoint.params).with_context(at)?
        }
    };
    let has_own_counts = match &weights {
        Weights::File(_) => true,
        Weights::Checkpoint(m) => m.input("dataset").is_some_and(|trained| {
            let counts = trained.params.get("cls_num_list");
            is_content_of(trained, &dataset) || counts == Some(&json!(info.cls_num_list))
        }),
    };
    let inputs = vec![checkpoint, images];
    Ok(Subject { weights, arch, normalise, which: which.into(), dataset, info, name, has_own_counts, inputs })
}

/// Reads the manifest of a data set, of images or of features.
pub(super) fn dataset_at(path: &Path, tool: &'static str) -> Result<Manifest> {
    let found = source::read_kinds(&[path.to_owned()], tool, &[Kind::Dataset, Kind::Embedding])?;
    let [m] = <[Manifest; 1]>::try_from(found)
        .map_err(|all| anyhow!("{}: holds {} manifests, not one", path.display(), all.len()))?;
    Ok(m)
}

/// Refuses features of a network other than the checkpoint's own: a classifier cannot be evaluated on them.
fn check_network(m: &Manifest, checkpoint: &Input, dataset: &Manifest) -> Result<()> {
    let own = if Classifier::of(&m.params).is_some() { m.input("init") } else { Some(checkpoint) };
    let (Some(own), Some(theirs)) = (own, dataset.input("checkpoint")) else { return Ok(()) };
    if dataset.kind == Kind::Embedding && own.blake3 != theirs.blake3 {
        bail!(
            "{}: has the features of another network ({}, not {}); make the features again with embed \
             --splits, from the network of {}",
            dataset.dir()?.display(),
            key::short(&theirs.blake3),
            key::short(&own.blake3),
            m.dir()?.display()
        );
    }
    Ok(())
}

/// Returns whether a checkpoint's dataset input is this data set, by content.
fn is_content_of(trained: &Input, dataset: &Manifest) -> bool {
    let now = dataset.as_input("dataset", &TRAINED_ON);
    now.is_ok_and(|now| {
        // Either may be features of the images.
        let is_features = |input: &Input| !std::ptr::eq(images_of(input), input);
        let (now, trained) = match (is_features(&now), is_features(trained)) {
            (true, true) => (&now, trained),
            _ => (images_of(&now), images_of(trained)),
        };
        Images::of(now).are_those_of(&Images::of(trained))
    })
}

impl Subject {
    /// Returns the default directory of a result: `<root>/<checkpoint>-<split>-<which>-<key>`.
    pub fn dir(&self, root: &str, split: &str, key: &str) -> PathBuf {
        Path::new(root).join(format!("{}-{split}-{}-{}", self.name, self.which, key::short(key)))
    }

    /// Adds the images' preprocessing and classes to params if they are not those of CIFAR: they change the
    /// result, but are not part of the content of the weights or of the images.
    pub fn add_preprocessing(&self, params: &mut Object) {
        if let Some(preprocess) = self.info.preprocess {
            params.insert("preprocess".into(), json!(preprocess));
        }
        if let Some(names) = self.info.names_id() {
            params.insert("class_names".into(), names.into());
        }
        let (own, usual) = (self.normalise, Normalise::CIFAR);
        for (name, own, usual) in [("mean", own.mean, usual.mean), ("std", own.std, usual.std)] {
            if own != usual {
                params.insert(name.into(), json!(own));
            }
        }
    }

    /// Returns splits of the data set as an input of a result.
    ///
    /// # Errors
    /// Returns an error that names the first one that the data set does not have.
    pub fn splits(&self, role: &str, splits: &[&str]) -> Result<Input> {
        for &split in splits {
            self.dataset.as_input(role, &[split])?;
        }
        Ok(self.dataset.as_input(role, splits)?)
    }

    /// Returns the number of images in a split, according to the data set's manifest.
    pub fn images(&self, split: &str) -> usize {
        let rows = self.dataset.outputs_of(split).filter_map(|o| o.rows).sum::<u64>();
        (rows / features::passes(&self.dataset, split).max(1)) as usize
    }
}

#[cfg(test)]
mod tests;
