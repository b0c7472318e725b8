//! How a convolution is divided into tiles, of which a thread block takes one or, for the weight gradient,
//! several. The sizes are the first parameters to tune on a GPU; `kernels/conv.cu` takes them from here.

use crate::net::Geometry;

/// Threads per block, in all kernels.
pub const THREADS: usize = 256;

/// Floats of shared memory that are needed to add up the sums of a block's threads.
pub const SCRATCH: usize = 16 * (THREADS + 4) + THREADS;

/// A size by the number of channels, with its name in `conv.cu`.
type Size = (&'static str, fn(usize) -> usize);

/// The sizes that the kernels need.
pub const SIZES: [Size; 5] = [
    ("OUT_TILES", out_tiles),
    ("IN_TILES", in_tiles),
    ("IN_PIXELS", in_pixels),
    ("BANDS", bands),
    ("WEIGHT_PIXELS", weight_pixels),
];

/// Returns the number of tiles of 16 pixels that a warp of the forward pass multiplies, by channels out.
fn out_tiles(channels: usize) -> usize {
    if channels == 16 { 4 } else { 2 }
}

/// Returns the same for the input gradient, by channels in.
fn in_tiles(channels: usize) -> usize {
    if channels == 64 { 2 } else { 4 }
}

/// Returns the most pixels of a block whose warps multiply `tiles` tiles of 16 pixels by 16 channels each.
fn pixels(channels: usize, tiles: usize) -> usize {
    THREADS / 32 / (channels / 16) * tiles * 16
}

/// Returns the most pixels of a block of the input gradient, by channels in.
fn in_pixels(channels: usize) -> usize {
    pixels(channels, in_tiles(channels))
}

/// Returns the number of tiles that a block of the weight gradient takes at most, by channels out.
fn bands(channels: usize) -> usize {
    channels / 16
}

/// Returns the most pixels of the output in each of these tiles.
fn weight_pixels(channels: usize) -> usize {
    1024 / bands(channels).pow(2)
}

/// Returns the channels in, padded to a multiple of 16 as in the kernels.
pub fn padded(geo: Geometry) -> usize {
    geo.cin.next_multiple_of(16)
}

/// Returns the number of rows of a tile of at most `pixels` pixels, but at least one row.
fn rows(pixels: usize, width: usize, height: usize) -> usize {
    (pixels / width).clamp(1, height)
}

/// The dimensions of the launches of a layer.
pub struct Tiles {
    /// Rows of the output per block of the forward pass.
    pub forward: usize,
    /// Rows of the input per block of the input gradient.
    pub input: usize,
    /// Rows of the output in a tile of the weight gradient.
    pub weight_rows: usize,
    /// Blocks of the forward pass.
    pub forward_blocks: usize,
    /// Blocks of the input gradient.
    pub input_blocks: usize,
    /// Blocks of the weight gradient; 0 if the same blocks compute both gradients.
    pub weight_blocks: usize,
    /// The number of parts of the weight gradient.
    pub groups: usize,
    /// Bytes of shared memory per block of the forward pass.
    pub forward_shared: usize,
    /// Bytes of shared memory per block of the backward pass.
    pub backward_shared: usize,
}

impl Tiles {
    /// Chooses the tiles for some images, whose values take `bytes` bytes each. The tiles of the weight
    /// gradient, and of blocks that compute both gradients, are made smaller if a block would otherwise need
    /// more than `max_shared` bytes of shared memory.
    pub fn new(geo: Geometry, images: usize, bytes: usize, max_shared: usize) -> Tiles {
        let (cin, cout, s) = (padded(geo), geo.cout, geo.stride);
        let (height, width) = (geo.out_height(), geo.out_width());
        let pad = 16 / bytes;
        let tile = |rows: usize, channels: usize| rows * (geo.width + 2) * (channels + pad) * bytes;
        let source = |rows: usize| tile((rows - 1) * s + 3, cin);
        let result = |pixels: usize, channels: usize| {
            (pixels.next_multiple_of(16) * (channels + 4) * 4).max(SCRATCH * 4)
        };
        let staged = if bytes == 2 { 9 * cin * cout * bytes } else { 0 };
        // The sums of all warps, which are added up at the end of a weight gradient.
        let sums = 9 * (THREADS / 32) * 256 * 4;
        let fit = |most: usize, shared: &dyn Fn(usize) -> usize| {
            (1..=most).rev().find(|&rows| shared(rows) <= max_shared).unwrap_or(1)
        };

        let forward = rows(pixels(cout, out_tiles(cout)), width, height);
        let most = rows(in_pixels(cin), geo.width, geo.height);
        // Shared memory for the inputs, 16 channels of the gradient, and an integer for each pixel.
        let weight = |rows: usize| {
            let pixels = (rows * width).next_multiple_of(16);
            (bands(cout) * (source(rows) + pixels * (16 + pad) * bytes) + pixels * 4).max(sums)
        };
        // The same number of tiles, but as equal in size as possible.
        let most_rows = fit(rows(weight_pixels(cout), width, height), &weight);
        let weight_rows = height.div_ceil(height.div_ceil(most_rows));
        // Shared memory for the weights, inputs, gradient and result of a block that computes both gradients.
        let both = |rows: usize| staged + (2 * tile(rows + 2, 16) + result(rows * geo.width, 16)).max(sums);
        let input = if geo.cin == 16 && cout == 16 { fit(most, &both) } else { most };
        let input_blocks = images * geo.height.div_ceil(input);
        let (groups, weight_blocks, backward_shared) = if geo.cin == 16 && cout == 16 {
            (input_blocks, 0, both(input))
        } else {
            let groups = (images * height.div_ceil(weight_rows)).div_ceil(bands(cout));
            let shared = staged + tile(input + 2, cout).max(result(input * geo.width, cin));
            (groups, groups * (cout / 16), weight(weight_rows).max(shared))
        };
        Tiles {
            forward,
            input,
            weight_rows,
            forward_blocks: images * height.div_ceil(forward),
            input_blocks,
            weight_blocks,
            groups,
            forward_shared: staged + source(forward).max(result(forward * width, cout)),
            backward_shared,
        }
    }
}
