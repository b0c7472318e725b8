//! What checkpoints state about the images that they are for: classes, preprocessing and normalisation.

use anyhow::{Context, Result, bail};

use crate::data::files::Preprocess;
use crate::data::{self, Normalise};
use crate::manifest::{Manifest, Object};

/// What a checkpoint states about the data set that it was trained on.
pub struct Trained {
    /// Names of the classes.
    pub class_names: Option<Vec<String>>,
    /// How image files were preprocessed.
    pub preprocess: Option<Preprocess>,
}

impl Trained {
    /// Reads it from the manifest of a checkpoint.
    ///
    /// # Errors
    /// Returns an error if the metrics cannot be parsed.
    pub fn of(m: &Manifest) -> Result<Trained> {
        let value = |name: &str| m.metrics.get(name).cloned();
        let preprocess = value("preprocess").map(serde_json::from_value).transpose();
        let class_names = value("class_names").map(serde_json::from_value).transpose();
        Ok(Trained {
            class_names: class_names.context("metrics.class_names")?,
            preprocess: preprocess.context("metrics.preprocess")?,
        })
    }

    /// Warns if a data set differs, so that results are hardly what was meant.
    ///
    /// # Errors
    /// Returns an error if the data set has the same classes in another order, because its labels then mean
    /// other classes.
    pub fn compare(&self, info: &data::Info, name: &str) -> Result<()> {
        let names = self.class_names.as_ref().filter(|names| names.len() == info.classes);
        if let Some(names) = names.filter(|names| **names != info.class_names) {
            let [mut own, mut others] = [names.clone(), info.class_names.clone()];
            own.sort_unstable();
            others.sort_unstable();
            if own == others {
                bail!(
                    "{name}: the data set has the checkpoint's classes in another order, so its labels mean \
                     other classes; make it again with mk-imbalance --class-order FILE, where FILE lists the \
                     classes in the checkpoint's order"
                );
            }
            log::warn!("{name}: the class names of the data set differ from those of the checkpoint");
        }
        let (own, theirs) = (self.preprocess, info.preprocess);
        let [said, found] = [own, theirs].map(|p| p.unwrap_or(Preprocess::CIFAR));
        if said != found {
            log::warn!(
                "{name}: was trained on images preprocessed to {said}, but these were preprocessed to {found}"
            );
        }
        Ok(())
    }
}

/// Reads the normalisation from a checkpoint's params.
///
/// # Errors
/// Returns an error if the mean or the standard deviation is not three valid numbers.
pub fn normalise(params: &Object) -> Result<Normalise> {
    let of = |name: &str, usual: [f64; 3]| -> Result<[f64; 3]> {
        let Some(said) = params.get(name) else { return Ok(usual) };
        let values: Option<[f64; 3]> = serde_json::from_value(said.clone()).ok();
        let sound =
            |v: &[f64; 3]| v.iter().all(|x| x.is_finite()) && (name == "mean" || v.iter().all(|x| *x > 0.0));
        values.filter(sound).with_context(|| {
            format!(
                "params.{name} is {said}, not three valid numbers, one per channel; train the checkpoint \
                 again"
            )
        })
    };
    let usual = Normalise::CIFAR;
    Ok(Normalise { mean: of("mean", usual.mean)?, std: of("std", usual.std)? })
}
