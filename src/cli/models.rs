//! What checkpoints say of the images that they are for: classes, preprocessing and normalisation; and
//! models, which are checkpoints without the data set that they were trained on.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::checkpoints::{Choice, FEATURES_ONLY, Subject, arch_of, bare, dataset_at, is_bare};
use crate::data::files::Preprocess;
use crate::data::{self, Normalise};
use crate::manifest::{FILE, Input, Kind, Manifest, Object, source, store};
use crate::methods::classifier::Classifier;
use crate::net::Arch;

/// What a checkpoint carries of the data set that it was trained on.
pub struct Trained {
    /// Names of the classes.
    pub class_names: Option<Vec<String>>,
    /// How image files were preprocessed.
    pub preprocess: Option<Preprocess>,
}

impl Trained {
    /// What a checkpoint says.
    ///
    /// # Errors
    /// Metrics that are not to be understood.
    pub fn of(m: &Manifest) -> Result<Trained> {
        let value = |name: &str| m.metrics.get(name).cloned();
        let preprocess = value("preprocess").map(serde_json::from_value).transpose();
        let class_names = value("class_names").map(serde_json::from_value).transpose();
        Ok(Trained {
            class_names: class_names.context("metrics.class_names")?,
            preprocess: preprocess.context("metrics.preprocess")?,
        })
    }

    /// Says where a data set differs, so that results are hardly what was meant.
    ///
    /// # Errors
    /// The same classes in another order: their labels mean others.
    pub fn compare(&self, info: &data::Info, name: &str) -> Result<()> {
        let names = self.class_names.as_ref().filter(|names| names.len() == info.classes);
        if let Some(names) = names.filter(|names| **names != info.class_names) {
            let [mut own, mut others] = [names.clone(), info.class_names.clone()];
            own.sort_unstable();
            others.sort_unstable();
            if own == others {
                bail!(
                    "{name}: the data set has the classes of the checkpoint in another order, so its labels mean others; \
                     make it with mk-imbalance --class-order FILE, which lists them in the checkpoint's"
                );
            }
            log::warn!("{name}: the data set has other class names than the checkpoint");
        }
        let (own, theirs) = (self.preprocess, info.preprocess);
        let [said, found] = [own, theirs].map(|p| p.unwrap_or(Preprocess::CIFAR));
        if said != found {
            log::warn!("{name}: was trained on images of {said}, and these are of {found}");
        }
        Ok(())
    }
}

/// What a checkpoint's params say of the normalisation.
///
/// # Errors
/// Something else than three numbers each.
pub fn normalise(params: &Object) -> Result<Normalise> {
    let of = |name: &str, usual: [f64; 3]| -> Result<[f64; 3]> {
        let Some(said) = params.get(name) else { return Ok(usual) };
        let values: Option<[f64; 3]> = serde_json::from_value(said.clone()).ok();
        let sound =
            |v: &[f64; 3]| v.iter().all(|x| x.is_finite()) && (name == "mean" || v.iter().all(|x| *x > 0.0));
        values.filter(sound).with_context(|| {
            format!(
                "params.{name} is {said}, not a number for each of three channels; train the checkpoint again"
            )
        })
    };
    let usual = Normalise::CIFAR;
    Ok(Normalise { mean: of("mean", usual.mean)?, std: of("std", usual.std)? })
}

/// Names of the classes that a checkpoint was trained on; None, with a warning, where they are not known.
/// Those of earlier versions have them in the data set alone.
///
/// # Errors
/// A checkpoint that is not to be understood.
pub fn class_names(m: &Manifest) -> Result<Option<Vec<String>>> {
    if let Some(names) = Trained::of(m)?.class_names {
        return Ok(Some(names));
    }
    let dataset = m.input("dataset").context("the checkpoint does not say what it was trained on")?;
    let path = store::absolute(&m.dir()?.join(&dataset.path));
    let names = dataset_at(&path, "train").and_then(|d| Ok(data::Info::of(&d)?.class_names));
    Ok(names
        .inspect_err(|e| {
            log::warn!(
                "the data set of the checkpoint cannot be read, so the names of its classes are not known ({e:#})"
            );
        })
        .ok())
}

/// Weights with all that they need to be run on images that are in no data set.
pub struct Model {
    /// The file.
    pub weights: PathBuf,
    /// The network.
    pub arch: Arch,
    /// What images are normalised by.
    pub normalise: Normalise,
    /// How image files are preprocessed.
    pub preprocess: Preprocess,
    /// Names of the classes.
    pub class_names: Vec<String>,
    /// `last` or `best` epoch of a checkpoint; `file` for bare weights.
    pub which: String,
    /// Name of the checkpoint's directory, or of the bare file without its ending.
    pub name: String,
    /// What the weights are to a result.
    pub input: Input,
}

/// The checkpoints of the arguments or of stdin, without their data sets. Bare weights are told by `--data`
/// what images they take, and their classes.
///
/// # Errors
/// Input that is no checkpoint, or that does not say all of it.
pub fn models(flags: &Choice, tool: &'static str) -> Result<Vec<Model>> {
    let given = flags.data.as_deref().map(|p| dataset_at(p, tool)).transpose()?;
    let info = given.as_ref().map(data::Info::of).transpose()?;
    let mut all = vec![];
    let stdin = [PathBuf::from("-")];
    for arg in if flags.checkpoints.is_empty() { &stdin[..] } else { &flags.checkpoints } {
        if is_bare(arg) {
            let subject = bare(arg, flags, given.as_ref())?;
            let Subject { arch, normalise, which, info, name, inputs, .. } = subject;
            let input = inputs.into_iter().next().context("the weights are the first input")?;
            let (weights, preprocess) = (input.path.clone(), info.preprocess.unwrap_or(Preprocess::CIFAR));
            let class_names = info.class_names;
            all.push(Model { weights, arch, normalise, preprocess, class_names, which, name, input });
            continue;
        }
        for m in source::read_all(std::slice::from_ref(arg), tool, Kind::Checkpoint)? {
            let dir = m.dir()?.to_owned();
            let here = || dir.join(FILE).display().to_string();
            if let Some(Classifier::Knn { .. }) = Classifier::of(&m.params) {
                bail!("{}: {FEATURES_ONLY}", here());
            }
            if let Arch::Features(_) = arch_of(&m, flags)? {
                bail!(
                    "{}: was trained on imported features, without a network that images could go through",
                    here()
                );
            }
            let input = m.as_input("checkpoint", &[&flags.checkpoint])?;
            let class_names = match &info {
                Some(info) => info.class_names.clone(),
                None => class_names(&m)
                    .with_context(here)?
                    .with_context(|| format!("{}: say with --data what its classes are", here()))?,
            };
            all.push(Model {
                weights: m.checked(&flags.checkpoint)?.swap_remove(0),
                arch: arch_of(&m, flags)?,
                normalise: normalise(&m.params).with_context(here)?,
                preprocess: Trained::of(&m).with_context(here)?.preprocess.unwrap_or(Preprocess::CIFAR),
                class_names,
                which: flags.checkpoint.clone(),
                name: dir.file_name().map_or_else(|| "checkpoint".into(), |n| n.to_string_lossy().into()),
                input,
            });
        }
    }
    Ok(all)
}
