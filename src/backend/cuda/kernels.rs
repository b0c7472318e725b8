//! The source of the kernels, and the kernels' names.

use super::args::declarations;
use crate::backend::Precision;

const SOURCE: &str = concat!(
    include_str!("kernels/common.cu"),
    include_str!("kernels/conv.cu"),
    include_str!("kernels/load.cu"),
    include_str!("kernels/head.cu"),
    include_str!("kernels/blend.cu"),
    include_str!("kernels/sgd.cu"),
);

/// Largest number of blocks of a grid: sums over so many blocks are exact, and block numbers up to this are
/// divided exactly.
pub const MAX_BLOCKS: usize = 1 << 20;

/// The names of all kernels; those of convolutions end in their channels in, channels out and stride.
pub const NAMES: [&str; 20] = [
    "remix_load",
    "remix_forward_3_16_1",
    "remix_forward_16_16_1",
    "remix_forward_16_32_2",
    "remix_forward_32_32_1",
    "remix_forward_32_64_2",
    "remix_forward_64_64_1",
    "remix_head",
    "remix_backward_3_16_1",
    "remix_backward_16_16_1",
    "remix_backward_16_32_2",
    "remix_backward_32_32_1",
    "remix_backward_32_64_2",
    "remix_backward_64_64_1",
    "remix_step",
    "remix_fold",
    "remix_blend_16",
    "remix_blend_32",
    "remix_unblend_16",
    "remix_unblend_32",
];

// Indices into `NAMES`; for convolutions and blends, the index of the first kernel of the kind.

pub const LOAD: usize = 0;
pub const FORWARD: usize = 1;
pub const HEAD: usize = 7;
pub const BACKWARD: usize = 8;
pub const STEP: usize = 14;
pub const FOLD: usize = 15;
pub const BLEND: usize = 16;
pub const UNBLEND: usize = 18;

/// Returns the source for a type of activations. The `header` has the definitions that it needs for a GPU
/// (`device.h`) or for the emulator (`emulator.h`).
pub fn source(header: &str, precision: Precision) -> String {
    let bf16 = u8::from(precision == Precision::Bf16);
    let declared = declarations();
    format!("#define REMIX_BF16 {bf16}\n#define REMIX_MAX_BLOCKS {MAX_BLOCKS}\n{header}{declared}{SOURCE}")
}
