//! The plain values that engines take and return.

use candle_core::DType;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The arithmetic of the forward and backward passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// Store images, activations and their gradients in bf16 and sum products in 32 bits; parameters,
    /// statistics, loss and evaluation stay in 32 bits
    Bf16,
}

impl Precision {
    /// Returns the type that activations are stored as.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// The hyperparameters of a step.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Whether to use Nesterov's momentum.
    pub nesterov: bool,
}

/// Normalised value of each byte in each channel: `(byte/255 − mean)/std`.
pub type Levels = Vec<[f32; 256]>;

/// Returns the table of normalised values.
pub fn levels(mean: &[f64], std: &[f64]) -> Levels {
    let level = |byte: usize, m: f64, s: f64| ((byte as f64 / 255.0 - m) / s) as f32;
    mean.iter().zip(std).map(|(&m, &s)| std::array::from_fn(|byte| level(byte, m, s))).collect()
}

/// The outputs of a network for a whole split, row-major, in the order of the split.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// The logits, (N, classes).
    pub logits: Vec<f32>,
    /// Pooled features, (N, `feature_len`).
    pub features: Vec<f32>,
    /// Number of classes.
    pub classes: usize,
    /// Length of a feature vector.
    pub feature_len: usize,
}
