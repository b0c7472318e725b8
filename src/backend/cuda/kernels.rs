//! The source of the kernels, and their names.

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

/// Blocks of a grid at most: sums of so many are exact, and numbers of so many blocks are divided exactly.
pub const MOST_BLOCKS: usize = 1 << 20;

/// All kernels; those of convolutions are named after channels in and out and the stride.
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

// Places in `NAMES`; those of convolutions and blends are of the first.

pub const LOAD: usize = 0;
pub const FORWARD: usize = 1;
pub const HEAD: usize = 7;
pub const BACKWARD: usize = 8;
pub const STEP: usize = 14;
pub const FOLD: usize = 15;
pub const BLEND: usize = 16;
pub const UNBLEND: usize = 18;

/// The source for a type of activations, behind what the place needs where it runs (`device.h` or
/// `emulator.h`).
pub fn source(place: &str, precision: Precision) -> String {
    let bf16 = u8::from(precision == Precision::Bf16);
    let declared = declarations();
    format!("#define REMIX_BF16 {bf16}\n#define REMIX_MOST_BLOCKS {MOST_BLOCKS}\n{place}{declared}{SOURCE}")
}
