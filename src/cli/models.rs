//! Checkpoints with everything needed to run them on images that are in no data set.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::checkpoints::{Choice, FEATURES_ONLY, NO_NETWORK, Subject, arch_of, bare, dataset_at, is_bare};
use super::trained::{Trained, normalise};
use crate::data::files::Preprocess;
use crate::data::{self, Normalise};
use crate::manifest::{FILE, Input, Kind, Manifest, source, store};
use crate::methods::classifier::Classifier;
use crate::net::Arch;

/// Returns the names of the classes that a checkpoint was trained on, or `None`, with a warning, if they are
/// not known. Checkpoints of earlier versions have them in their data set alone.
///
/// # Errors
/// Returns an error if the checkpoint's metrics cannot be parsed, or if it does not state its data set.
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

/// Weights with everything needed to run them on images that are in no data set.
pub struct Model {
    /// The file.
    pub weights: PathBuf,
    /// The network.
    pub arch: Arch,
    /// The normalisation of the images.
    pub normalise: Normalise,
    /// How image files are preprocessed.
    pub preprocess: Preprocess,
    /// Names of the classes.
    pub class_names: Vec<String>,
    /// `last` or `best` epoch of a checkpoint; `file` for bare weights.
    pub which: String,
    /// Name of the checkpoint's directory, or of the bare file without its extension.
    pub name: String,
    /// The weights as an input of a result.
    pub input: Input,
}

/// Returns the checkpoints of the arguments or of stdin, without their data sets. For bare weights, `--data`
/// says which images they take and what their classes are.
///
/// # Errors
/// Returns an error if an input is not a checkpoint, or does not state everything that is needed.
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
                bail!("{}: {NO_NETWORK}", here());
            }
            let input = m.as_input("checkpoint", &[&flags.checkpoint])?;
            let class_names = match &info {
                Some(info) => info.class_names.clone(),
                None => class_names(&m).with_context(here)?.with_context(|| {
                    format!("{}: its class names are unknown; give its data set with --data", here())
                })?,
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
