//! `--init`: the weights that trainings start from, as an input of their results.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::{checkpoints, models, trained};
use crate::data::Normalise;
use crate::data::files::Preprocess;
use crate::manifest::{FILE, Input, Kind, Manifest, key, source, store};
use crate::net::Arch;
use crate::train::start::{Classes, Start};

/// Weights to start from.
#[derive(Clone)]
pub struct Init {
    /// The file of the weights, and their classes.
    pub start: Start,
    /// The weights as an input of the result.
    pub input: Input,
    /// Which weights of a checkpoint they are, if not the last ones.
    pub which: Option<String>,
}

impl Init {
    /// Finds the weights at a path: the `last` or `best` ones of a checkpoint, or a file.
    ///
    /// # Errors
    /// Returns an error if files are missing or damaged, or are something else.
    pub fn of(path: &Path, which: Option<&str>) -> Result<Init> {
        let names = |m: &Manifest| Ok(models::class_names(m)?.map_or(Classes::Unreadable, Classes::Named));
        Init::with(path, which, &names)
    }

    /// Does the same as [`Init::of`], with `classes` finding those of a checkpoint.
    fn with(
        path: &Path,
        which: Option<&str>,
        classes: &dyn Fn(&Manifest) -> Result<Classes>,
    ) -> Result<Init> {
        if checkpoints::is_bare(path) {
            if let Some(which) = which {
                bail!("is a file of weights, and --init-checkpoint {which} is for checkpoints; omit it");
            }
            let input = Input::of_file("init", path)?;
            let start = Start { file: input.path.clone(), classes: Classes::NotStated };
            return Ok(Init { start, input, which: None });
        }
        if path != Path::new("-") && fs::metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            bail!(
                "there is no such file; pass a checkpoint (its manifest.json or directory) or a file of weights"
            );
        }
        let mut found = source::read_all(&[path.to_owned()], "train", Kind::Checkpoint)?;
        let (Some(m), None) = (found.pop(), found.pop()) else {
            bail!("holds several checkpoints, not one");
        };
        let which = which.unwrap_or("last");
        let input = m.as_input("init", &[which])?;
        let file = m.checked(which)?.swap_remove(0);
        let which = (which != "last").then(|| which.to_owned());
        let classes = classes(&m)?;
        Ok(Init { start: Start { file, classes }, input, which })
    }

    /// Refuses weights of another network, and a run that would replace the weights that it starts from.
    ///
    /// # Errors
    /// Returns an error in either case.
    pub fn check(&self, arch: Arch, dir: &Path) -> Result<()> {
        let file = self.start.file.display();
        match self.input.params.get("arch").and_then(|said| said.as_str()) {
            Some(said) if said != arch.to_string() => {
                bail!("--init: {file} is a {said}, not the {arch} of this run; use --arch {said}")
            }
            _ => {}
        }
        let real = |dir: &Path| dir.canonicalize().ok();
        let own = self.start.file.parent().and_then(real);
        if own.is_some() && own == real(dir) {
            bail!("--out {}: holds the weights of --init; choose another directory", dir.display());
        }
        Ok(())
    }

    /// Warns if a checkpoint's images were normalised or preprocessed differently. Skips bare weights.
    ///
    /// # Errors
    /// Returns an error if the checkpoint's params cannot be parsed.
    pub fn compare(&self, normalise: Normalise, preprocess: Option<Preprocess>) -> Result<()> {
        if self.input.key.is_none() {
            return Ok(());
        }
        let own = trained::normalise(&self.input.params).context("--init")?;
        if own != normalise {
            log::warn!(
                "--init: its training images were normalised by mean {:.3?} and standard deviation {:.3?}, \
                 but those of this data set by {:.3?} and {:.3?}",
                own.mean,
                own.std,
                normalise.mean,
                normalise.std
            );
        }
        let own = self.input.params.get("preprocess").cloned().map(serde_json::from_value).transpose()?;
        let [own, now] = [own, preprocess].map(|p: Option<Preprocess>| p.unwrap_or(Preprocess::CIFAR));
        if own != now {
            log::warn!(
                "--init: was trained on images preprocessed to {own}, but these were preprocessed to {now}"
            );
        }
        Ok(())
    }

    /// Returns its name in parameters: the beginning of the hash.
    pub fn name(&self) -> String {
        key::short(&self.input.blake3).to_owned()
    }
}

/// Returns the network that computed features, and its weights, which must still be the ones that it had
/// then. Imported features have no weights.
///
/// # Errors
/// Returns an error if the features are not a data set, or if the weights are missing or have changed.
pub fn network_of(features: &Manifest) -> Result<(Arch, Option<Init>)> {
    let here = features.dir()?.join(FILE).display().to_string();
    let text = |name: &str| features.params.get(name).and_then(|v| v.as_str());
    if features.outputs_of("train").next().is_none() {
        bail!("{here}: has no features of the training images; make them with embed --splits train,test");
    }
    let arch = text("arch").with_context(|| format!("{here}: params.arch is missing"))?;
    let arch: Arch = arch.parse().map_err(|e| anyhow::anyhow!("{here}: params.arch: {e}"))?;
    if let Arch::Features(_) = arch {
        return Ok((arch, None));
    }
    let checkpoint = features.input("checkpoint").with_context(|| format!("{here}: names no checkpoint"))?;
    let path = store::beside(features.dir()?, &checkpoint.path);
    let which = text("which").filter(|which| *which != "file");
    let hint = || format!("{here}: its network cannot be read; make the features again with embed --splits");
    // The classes are those of the features, so the checkpoint's are not needed.
    let init = Init::with(&path, which, &|_| Ok(Classes::NotStated)).with_context(hint)?;
    if init.input.blake3 != checkpoint.blake3 {
        bail!(
            "{}: is no longer the network that {here} was made with; make the features again with \
             embed --splits",
            path.display()
        );
    }
    Ok((arch, Some(init)))
}
