//! How a convolution is cut into the tiles of blocks, as `kernels/conv.cu` has it: what to tune first on a GPU.

use super::kernels::THREADS;
use crate::ops::conv::Geometry;
use crate::train::config::Precision;

/// Parts that the weight gradient of a layer is computed in: as many blocks, a few images each.
const PARTS: usize = 64;
/// The same for the 64 × 64 layers, which have two blocks a part, and large parts.
const LARGE_PARTS: usize = 32;

/// Pixels of a block's tile at most, for channels out.
fn pixels(channels: usize) -> usize {
    4096 / channels
}

/// Channels in as the kernels have them: whole tiles of 16.
pub fn padded(geo: Geometry) -> usize {
    geo.cin.next_multiple_of(16)
}

/// Rows of a tile `width` pixels wide.
fn rows(channels: usize, width: usize, height: usize) -> usize {
    (pixels(channels) / width).clamp(1, height)
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
        let forward = rows(cout, width, height);
        let input = rows(cin, geo.width, geo.height);
        let pad = 16 / bytes;
        let tile = |rows: usize, channels: usize| rows * (geo.width + 2) * (channels + pad) * bytes;
        let result = |channels: usize| pixels(channels) * (channels + 4) * 4;
        let reduce = 16 * THREADS * 4;
        let source = tile((forward - 1) * s + 3, cin);
        let jobs = cin / 16 * (cout / 16);
        let warps = THREADS / 32;
        let sum = if jobs < warps { 9 * cin * cout * 4 } else { 0 };
        let weight = source + pixels(cout) * ((cout + pad) * bytes + 4);
        let all = images * height.div_ceil(forward);
        let most = if cout == 64 && cin == 64 { LARGE_PARTS } else { PARTS };
        let groups = all.min(most);
        Tiles {
            forward,
            input,
            forward_blocks: all,
            input_blocks: images * geo.height.div_ceil(input),
            weight_blocks: groups * (jobs / warps).max(1),
            groups,
            forward_shared: source.max(result(cout)).max(reduce),
            backward_shared: tile(input + 2, cout).max(result(cin)).max(reduce).max(weight).max(sum),
        }
    }
}
