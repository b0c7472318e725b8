//! `--init`: the weights that trainings start from, as an input of their results.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::checkpoints;
use crate::data::Info;
use crate::manifest::{Input, Kind, Manifest, key, source, store};
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
        Ok(Init { start: Start { file, classes: classes(&m)? }, input, which })
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

    /// Its name in parameters: the beginning of the hash.
    pub fn name(&self) -> String {
        key::short(&self.input.blake3).to_owned()
    }
}

/// The classes that a checkpoint was trained on. Those of earlier versions have their names in the data set
/// alone.
fn classes(m: &Manifest) -> Result<Classes> {
    if let Some(names) = m.metrics.get("class_names") {
        return Ok(Classes::Named(serde_json::from_value(names.clone()).context("metrics.class_names")?));
    }
    let dataset = m.input("dataset").context("the checkpoint does not say what it was trained on")?;
    let path = store::absolute(&m.dir()?.join(&dataset.path));
    let read = || -> Result<Classes> {
        let found = source::read_all(std::slice::from_ref(&path), "train", Kind::Dataset)?;
        Ok(Classes::Named(Info::of(found.first().context("no manifest")?)?.class_names))
    };
    read().or_else(|e| {
        log::warn!(
            "the data set of the checkpoint cannot be read, so the names of its classes are not known ({e:#})"
        );
        Ok(Classes::Lost)
    })
}
