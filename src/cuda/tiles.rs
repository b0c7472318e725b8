//! How a convolution is cut into the tiles of blocks, as `kernels/conv.cu` has it: what to tune first on a GPU.

use super::kernels::THREADS;
use crate::ops::conv::Geometry;
use crate::train::config::Precision;

/// Blocks of the weight gradient; each has 16 channels out of some images.
const WEIGHT_BLOCKS: usize = 128;

/// Floats of shared memory that the sums of a block's threads take.
pub const SCRATCH: usize = 16 * (THREADS + 4) + THREADS;

/// Pixels of a block's tile at most, for channels out: `PIXELS`.
fn pixels(channels: usize) -> usize {
    if channels == 16 { 512 } else { 4096 / channels }
}

/// The same for the weight gradient: `WEIGHT_PIXELS`.
fn weight_pixels(channels: usize) -> usize {
    4096 / channels
}

/// Channels in as the kernels have them: whole tiles of 16.
pub fn padded(geo: Geometry) -> usize {
    geo.cin.next_multiple_of(16)
}

/// Rows of a tile of so many pixels.
fn rows(pixels: usize, width: usize, height: usize) -> usize {
    (pixels / width).clamp(1, height)
}

/// Bytes of an activation.
pub fn bytes_of(precision: Precision) -> usize {
    if precision == Precision::Bf16 { 2 } else { 4 }
}

/// What a launch of a layer looks like.
pub struct Tiles {
    /// Rows of output a block of the forward pass.
    pub forward: usize,
    /// Rows of input a block of the input gradient.
    pub input: usize,
    /// Rows of output that the weight gradient takes at a time.
    pub weight_rows: usize,
    /// Blocks of the forward pass.
    pub forward_blocks: usize,
    /// Blocks of the input gradient.
    pub input_blocks: usize,
    /// Blocks of the weight gradient.
    pub weight_blocks: usize,
    /// Parts of the weight gradient.
    pub groups: usize,
    /// Bytes of shared memory a block.
    pub forward_shared: usize,
    /// Bytes of shared memory a block.
    pub backward_shared: usize,
}

impl Tiles {
    /// For some images, of values of `bytes` bytes.
    pub fn new(geo: Geometry, images: usize, bytes: usize) -> Tiles {
        let (cin, cout, s) = (padded(geo), geo.cout, geo.stride);
        let (height, width) = (geo.out_height(), geo.out_width());
        let forward = rows(pixels(cout), width, height);
        let input = rows(pixels(cin), geo.width, geo.height);
        let weight_rows = rows(weight_pixels(cout), width, height);
        let pad = 16 / bytes;
        let tile = |rows: usize, channels: usize| rows * (geo.width + 2) * (channels + pad) * bytes;
        let result = |channels: usize| pixels(channels) * (channels + 4) * 4;
        let reduce = SCRATCH * 4;
        let source = |rows: usize| tile((rows - 1) * s + 3, cin);
        let staged = if bytes == 2 { 9 * cin * cout * bytes } else { 0 };
        // Two tiles of the input, one of 16 channels of the gradient with a number for each pixel; at the end the sums of nine taps' third.
        let weight = 2 * source(weight_rows) + weight_pixels(cout) * ((16 + pad) * bytes + 4);
        let sums = 3 * (THREADS / 32) * 256 * 4;
        let all = images * height.div_ceil(forward);
        let parts = cout / 16;
        let groups = (images * height.div_ceil(weight_rows)).min(WEIGHT_BLOCKS / parts);
        Tiles {
            forward,
            input,
            weight_rows,
            forward_blocks: all,
            input_blocks: images * geo.height.div_ceil(input),
            weight_blocks: groups * parts,
            groups,
            forward_shared: staged + source(forward).max(result(cout)).max(reduce),
            backward_shared: (staged + tile(input + 2, cout).max(result(cin)).max(reduce))
                .max(weight)
                .max(sums),
        }
    }
}
