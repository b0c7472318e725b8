//! `embed --project`: its flags, and the step from a file of features to one that also has the map.

use std::fs;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::safetensors::load_buffer;
use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;

use super::{FEATURES, produced};
use crate::cli::whole_number;
use crate::manifest::store::{Done, Writer, write_atomic};
use crate::manifest::{Manifest, Object};
use crate::project::tsne::Tsne;
use crate::project::{Rows, pca};

/// Flags that choose a projection.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Projection")]
pub struct Projection {
    /// Also project the features to two dimensions: with t-SNE (exact gradient, initialised by PCA), or onto
    /// the first two principal components
    #[arg(long, value_enum, value_name = "METHOD")]
    pub project: Option<Name>,

    /// t-SNE: effective number of neighbours of an image; at least 1, and less than a third of the number of
    /// images [default: 30]
    #[arg(long, value_name = "P")]
    pub perplexity: Option<f64>,

    /// t-SNE: number of steps, of which the first 250 (at most a third) use early exaggeration [default: 750]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1, 1_000_000))]
    pub iterations: Option<u32>,

    /// t-SNE: factor of early exaggeration, which multiplies the affinities; 1 for none [default: 12]
    #[arg(long, value_name = "F")]
    pub early_exaggeration: Option<f64>,
}

/// Names of projections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// t-distributed stochastic neighbour embedding
    Tsne,
    /// Principal component analysis
    Pca,
}

/// A projection with all its parameters, as the manifest has them.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum Chosen {
    /// t-SNE.
    Tsne(Tsne),
    /// PCA.
    Pca,
}

impl Projection {
    /// Returns the projection that the flags ask for.
    ///
    /// # Errors
    /// Returns an error if parameters of t-SNE are given without t-SNE, or are out of range.
    pub(super) fn chosen(&self) -> Result<Option<Chosen>> {
        if self.project == Some(Name::Tsne) {
            let tsne = Tsne {
                perplexity: self.perplexity.unwrap_or(30.0),
                iterations: self.iterations.unwrap_or(750),
                early_exaggeration: self.early_exaggeration.unwrap_or(12.0),
            };
            let Tsne { perplexity, early_exaggeration, .. } = tsne;
            ensure!(
                perplexity >= 1.0 && perplexity.is_finite(),
                "--perplexity {perplexity}: must be at least 1 and finite, such as 30"
            );
            ensure!(
                (1.0..=1e3).contains(&early_exaggeration),
                "--early-exaggeration {early_exaggeration}: must be between 1 (none) and 1000"
            );
            return Ok(Some(Chosen::Tsne(tsne)));
        }
        let given = [
            ("perplexity", self.perplexity.is_some()),
            ("iterations", self.iterations.is_some()),
            ("early-exaggeration", self.early_exaggeration.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            bail!("--{flag}: does nothing without --project tsne; add that, or omit --{flag}");
        }
        Ok(self.project.map(|_| Chosen::Pca))
    }
}

impl Chosen {
    /// Returns the value of `--project`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Chosen::Tsne(_) => "tsne",
            Chosen::Pca => "pca",
        }
    }

    /// Refuses parameters that do not suit a number of images, before any work.
    pub(super) fn fits(self, images: usize) -> Result<()> {
        match self {
            Chosen::Tsne(tsne) => Ok(tsne.fits(images)?),
            Chosen::Pca => Ok(()),
        }
    }
}

/// Writes the features again, together with their `projection`.
pub(super) fn work(writer: &Writer, features: &Manifest, chosen: Chosen) -> Result<Done> {
    writer.begin(&[FEATURES])?;
    let path = features.checked("features")?.swap_remove(0);
    let at = || path.display().to_string();
    let bytes = fs::read(&path).with_context(at)?;
    let mut tensors = load_buffer(&bytes, &Device::Cpu).with_context(at)?;
    drop(bytes);
    let tensor = tensors.get("features").with_context(|| format!("{}: has no features", at()))?;
    let (DType::F32, &[_, width @ 1..=usize::MAX]) = (tensor.dtype(), tensor.dims()) else {
        bail!("{}: features is {:?}, not F32 (N, D); run embed with --force", at(), tensor.dims());
    };
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    let rows = Rows::new(&values, width)?;

    let started = Instant::now();
    let mut metrics = features.metrics.clone();
    let projection = match chosen {
        Chosen::Tsne(tsne) => {
            log::info!("t-SNE of {} images × {width} features", rows.len());
            let map = tsne.run(rows)?;
            log::info!(
                "KL divergence {:.4} after {} iterations at perplexity {}, early exaggeration {}: {:.1} s",
                map.kl_divergence,
                tsne.iterations,
                tsne.perplexity,
                tsne.early_exaggeration,
                started.elapsed().as_secs_f64()
            );
            metrics.insert("kl_divergence".into(), json!(map.kl_divergence));
            map.projection.into_flattened()
        }
        Chosen::Pca => {
            let found = pca::pca(rows, 2)?;
            log::info!(
                "PCA: {:.1} % and {:.1} % of the variance",
                100.0 * found.explained[0],
                100.0 * found.explained[1]
            );
            metrics.insert("explained_variance_ratio".into(), json!(found.explained));
            found.projection.into_iter().map(|x| x as f32).collect()
        }
    };
    let seconds = started.elapsed().as_secs_f64();

    tensors.insert("projection".into(), Tensor::from_vec(projection, (rows.len(), 2), &Device::Cpu)?);
    let bytes = safetensors::serialize(tensors, None)?;
    writer.withdraw()?;
    write_atomic(&writer.dir().join(FEATURES), |f| f.write_all(&bytes))?;
    let mut run = Object::new();
    run.insert("projection_seconds".into(), json!((seconds * 1e3).round() / 1e3));
    Ok(Done { outputs: vec![produced(rows.len())], metrics, run })
}
