//! The precision of a training run.

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
