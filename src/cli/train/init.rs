//! `--init`: the weights that trainings start from, as an input of their results.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::{checkpoints, models};
use crate::data::Normalise;
use crate::data::files::Preprocess;
use crate::manifest::{Input, Kind, key, source};
use crate::net::Arch;
use crate::train::start::{Classes, Start};

/// Weights to start from.
pub struct Init {
    /// Where they are.
    pub start: Start,
    /// What they are to the result.
    pub input: Input,
    /// Which weights of a checkpoint, if not the last ones.
    pub which: Option<String>,
}

impl Init {
    /// The weights at a path: the `last` or `best` ones of a checkpoint, or a file.
    ///
    /// # Errors
    /// Files that are missing, damaged or something else.
    pub fn of(path: &Path, which: Option<&str>) -> Result<Init> {
        if checkpoints::is_bare(path) {
            if let Some(which) = which {
                bail!("is a file of weights; --init-checkpoint {which} is for checkpoints, leave it away");
            }
            let input = checkpoints::input_of("init", path)?;
            let start = Start { file: input.path.clone(), classes: Classes::Unsaid };
            return Ok(Init { start, input, which: None });
        }
        let mut found = source::read_all(&[path.to_owned()], "train", Kind::Checkpoint)?;
        let (Some(m), None) = (found.pop(), found.pop()) else {
            bail!("holds several checkpoints, not one");
        };
        let which = which.unwrap_or("last");
        let input = m.as_input("init", &[which])?;
        let file = m.checked(which)?.swap_remove(0);
        let which = (which != "last").then(|| which.to_owned());
        let classes = models::class_names(&m)?.map_or(Classes::Lost, Classes::Named);
        Ok(Init { start: Start { file, classes }, input, which })
    }

    /// Refuses weights of another network, and a run that would replace the weights that it starts from.
    ///
    /// # Errors
    /// Either.
    pub fn check(&self, arch: Arch, dir: &Path) -> Result<()> {
        let file = self.start.file.display();
        match self.input.params.get("arch").and_then(|said| said.as_str()) {
            Some(said) if said != arch.name() => {
                bail!("--init: {file} is a {said}, not the {arch} of --arch")
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

    /// Says where a checkpoint's images were normalised or preprocessed otherwise. Bare weights do not say.
    ///
    /// # Errors
    /// A checkpoint whose params are not to be understood.
    pub fn compare(&self, normalise: Normalise, preprocess: Option<Preprocess>) -> Result<()> {
        if self.input.key.is_none() {
            return Ok(());
        }
        let own = models::normalise(&self.input.params).context("--init")?;
        if own != normalise {
            log::warn!(
                "--init: its images were normalised by mean {:.3?} and standard deviation {:.3?}, those of this data \
                 set are by {:.3?} and {:.3?}",
                own.mean,
                own.std,
                normalise.mean,
                normalise.std
            );
        }
        let own = self.input.params.get("preprocess").cloned().map(serde_json::from_value).transpose()?;
        let [own, now] = [own, preprocess].map(|p: Option<Preprocess>| p.unwrap_or(Preprocess::CIFAR));
        if own != now {
            log::warn!("--init: was trained on images of {own}, and these are of {now}");
        }
        Ok(())
    }

    /// Its name in parameters: the beginning of the hash.
    pub fn name(&self) -> String {
        key::short(&self.input.blake3).to_owned()
    }
}
