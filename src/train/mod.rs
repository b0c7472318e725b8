//! Training: what to do ([`config`]), at which learning rate ([`schedule`]), on which batches ([`plan`]).

pub mod config;
pub mod plan;
pub mod schedule;

use std::path::Path;

use crate::cli::Done;
use crate::manifest::Manifest;
use config::Config;

/// Version of what `train` means; raised when the same params would give another result.
pub const SEMANTICS: u32 = 1;

/// What one epoch came to.
#[derive(Clone, Copy, Debug)]
pub struct EpochReport {
    /// Seed of the run.
    pub seed: u64,
    /// The epoch that has ended, from 1.
    pub epoch: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Learning rate of the epoch.
    pub lr: f32,
    /// Mean training loss of the epoch.
    pub loss: f64,
    /// Share of training images classified right while training, 0–1.
    pub train_top1: f64,
    /// Share of test images classified right after the epoch, 0–1.
    pub test_top1: f64,
    /// Training images a second.
    pub images_per_second: f64,
    /// Seconds of the epoch, evaluation included.
    pub seconds: f64,
}

/// Trains, or goes on where an earlier call was stopped.
///
/// # Errors
/// Not built yet.
pub fn run(
    _config: &Config,
    _dataset: &Manifest,
    _dir: &Path,
    _force: bool,
    _on_epoch: &mut dyn FnMut(&EpochReport),
) -> anyhow::Result<Done> {
    anyhow::bail!("not built")
}
