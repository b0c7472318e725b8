//! Stub of the network API: to be replaced by the real one when the branches meet.

use std::path::Path;

use crate::data;
pub use crate::train::config::Arch;

/// What the network says of a split.
pub struct Inference {
    /// (N, classes)
    pub logits: Vec<f32>,
    /// (N, feature_len)
    pub features: Vec<f32>,
    /// Number of classes.
    pub classes: usize,
    /// Length of a feature vector.
    pub feature_len: usize,
}

/// Stub: logits that depend on the weights' bytes and on each image, nothing else.
pub fn infer(
    weights: &Path,
    _arch: Arch,
    split: &data::shard::Split,
    info: &data::Info,
    _batch: usize,
) -> anyhow::Result<Inference> {
    let bytes = std::fs::read(weights)?;
    safetensors::SafeTensors::deserialize(&bytes)
        .map_err(|e| anyhow::anyhow!("{}: not a safetensors file: {e}", weights.display()))?;
    let pull = bytes.iter().map(|&b| u32::from(b)).sum::<u32>() % 7;
    let (n, c) = (split.len(), info.classes);
    let logit = |i: usize, k: usize| {
        let hit = split.label(i) == k && !(split.image(i)[0] as u32 + pull).is_multiple_of(3);
        f32::from(u8::from(hit)) + (k as f32) * 0.01
    };
    let logits = (0..n * c).map(|j| logit(j / c, j % c)).collect();
    Ok(Inference { logits, features: vec![0.5; n * 64], classes: c, feature_len: 64 })
}
