//! Checkpoints with everything needed to run them on images that are in no data set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::checkpoints::{self, Choice, Subject, Weights, dataset_at};
use super::trained::{Trained, normalise};
use crate::data::files::Preprocess;
use crate::data::{self, Normalise};
use crate::manifest::{FILE, Input, Manifest, store};
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
    let path = store::beside(m.dir()?, &dataset.path);
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
    let names = given.as_ref().map(data::Info::of).transpose()?.map(|info| info.class_names);
    let model = |weights: Weights| match weights {
        Weights::Checkpoint(m) => Model::of_checkpoint(&m, flags, names.as_deref()),
        Weights::File(file) => Model::of_file(&file, flags, given.as_ref()),
    };
    checkpoints::find(flags, tool)?.into_iter().map(model).collect()
}

impl Model {
    /// Reads what a checkpoint states; `names` are those of the classes of `--data`.
    fn of_checkpoint(m: &Manifest, flags: &Choice, names: Option<&[String]>) -> Result<Model> {
        let dir = m.dir()?;
        let here = || dir.join(FILE).display().to_string();
        let arch = checkpoints::arch_of(m, flags)?;
        checkpoints::refuse_without_network(m, arch)?;
        let input = m.as_input("checkpoint", &[&flags.checkpoint])?;
        let class_names = match names {
            Some(names) => names.to_owned(),
            None => class_names(m).with_context(here)?.with_context(|| {
                format!("{}: its class names are unknown; give its data set with --data", here())
            })?,
        };
        Ok(Model {
            weights: m.checked(&flags.checkpoint)?.swap_remove(0),
            arch,
            normalise: normalise(&m.params).with_context(here)?,
            preprocess: Trained::of(m).with_context(here)?.preprocess.unwrap_or(Preprocess::CIFAR),
            class_names,
            which: flags.checkpoint.clone(),
            name: checkpoints::name_of(dir),
            input,
        })
    }

    /// Takes what a file of bare weights does not state from the data set of `--data`.
    fn of_file(file: &Path, flags: &Choice, given: Option<&Manifest>) -> Result<Model> {
        let subject = checkpoints::bare(file, flags, given)?;
        let Subject { arch, normalise, which, info, name, inputs, .. } = subject;
        let input = inputs.into_iter().next().context("the weights are the first input")?;
        let (weights, preprocess) = (input.path.clone(), info.preprocess.unwrap_or(Preprocess::CIFAR));
        let class_names = info.class_names;
        Ok(Model { weights, arch, normalise, preprocess, class_names, which, name, input })
    }
}
