//! A block of the weight gradient in bf16 with AMX tiles.
//!
//! Output pixels are taken 256 at a time, whatever rows and images they are in, in tiles of 16: the output's
//! gradient is gathered once, the inputs once per tap. The tiles of sums hold the transposed gradient, output
//! channels by input channels: this way only the output's gradient has to be transposed, to be a left factor.

use super::{Block, PIXELS, Panel, Panels};
use crate::backend::cpu::conv::kernel::tiled::transpose_16x16;
use crate::backend::cpu::conv::kernel::walk::PANEL;
use crate::simd::amx;
use crate::simd::value::Value;

/// Number of rows of a tile, and of lanes of a row.
const SIDE: usize = 16;

/// A row of a tile: the lanes of 16 channels of a pixel, or of 16 pixels of a channel.
type Row = [f32; SIDE];

/// A whole tile: its rows one after the other.
type Tile = [f32; amx::SUM];

/// The operands of the weight gradient at an output pixel, as indices of pixels in panels of all images.
#[derive(Clone, Copy, Default)]
struct Position {
    /// The pixel of the input that meets the first tap.
    input: usize,
    /// The pixel of the output's gradient.
    grad: usize,
}

impl Panels {
    /// Fills `positions` with those of consecutive output pixels, counted over all images, from `first` on.
    #[inline(always)]
    fn locate(&self, first: usize, positions: &mut [Position]) {
        let (in_pixels, out_pixels) = (self.in_pixels(), self.out_pixels());
        let (width, per_image) = (self.geo.out_width(), self.geo.out_height() * self.geo.out_width());
        let halo = self.geo.padding();
        let (in_row, out_row) = (self.geo.width + 2 * halo, width + 2 * halo);
        for (n, position) in (first..).zip(positions) {
            let (image, row, col) = (n / per_image, n % per_image / width, n % per_image % width);
            *position = Position {
                input: image * in_pixels + (row * in_row + col) * self.geo.stride,
                grad: image * out_pixels + (row + halo) * out_row + col + halo,
            };
        }
    }
}

impl<T: Value> Block<'_, T> {
    /// Computes the block and writes it to the gradient.
    ///
    /// # Safety
    /// The machine must have AMX, values must be bf16, and the block's numbers of channels must be multiples
    /// of 16.
    #[inline(always)]
    pub(super) unsafe fn with_amx(&mut self) {
        let Panels { geo, images, .. } = self.panels;
        let (in_pixels, out_pixels) = (images * self.panels.in_pixels(), images * self.panels.out_pixels());
        let pixels = images * geo.out_height() * geo.out_width();
        let (ins, outs) = (self.cin.len() / SIDE, self.cout.len() / SIDE);
        let (rights, lefts) = self.work.split_at_mut(PIXELS * self.cin.len());
        // The right factors: (pixels, tiles of input channels, channels of the tile).
        let rights: &mut [Row] = rights.as_chunks_mut().0;
        // The left factors: (tiles of output channels, tiles of pixels).
        let lefts: &mut [Tile] = lefts.as_chunks_mut().0;
        // The sums: (taps, tiles of output channels, tiles of input channels).
        let sums: &mut [Tile] = self.sums.as_chunks_mut().0;
        // SAFETY: the caller's contract.
        unsafe { amx::configure(SIDE, SIDE) };
        for first in (0..pixels).step_by(PIXELS) {
            let mut positions = [Position::default(); PIXELS];
            let positions = &mut positions[..PIXELS.min(pixels - first)];
            self.panels.locate(first, positions);
            let steps = positions.len().div_ceil(SIDE);
            for (out, lefts) in (0..outs).zip(lefts.chunks_exact_mut(steps)) {
                let channel = self.cout.start + out * SIDE;
                let panel = self.panels.grad(0, channel / PANEL * PANEL);
                let grads = &rows(self.kept, panel, out_pixels)[channel % PANEL / SIDE..];
                // SAFETY: a machine with AMX has AVX-512; the panel holds the gradients of all output pixels.
                unsafe { transpose(grads, panel.lanes / SIDE, positions, lefts) };
            }
            // The last tile may have more rows than there are pixels.
            let rights = &mut rights[..steps * SIDE * ins];
            rights[positions.len() * ins..].fill([0.0; SIDE]);
            for (tap, sums) in sums.chunks_exact_mut(outs * ins).enumerate() {
                let (row, col) = (tap / geo.kernel, tap % geo.kernel);
                let offset = row * (geo.width + 2 * geo.padding()) + col;
                for n in 0..ins {
                    let panel = self.panels.input(0, self.cin.start + n * SIDE);
                    let inputs = &rows(self.kept, panel, in_pixels)[offset..];
                    // SAFETY: the panel holds all images with their halos, and so every tap of every output
                    // pixel.
                    unsafe { gather(inputs, positions, n, ins, rights) };
                }
                for (lefts, sums) in lefts.chunks_exact(steps).zip(sums.chunks_exact_mut(ins)) {
                    // SAFETY: the machine has AMX, and the tile registers are configured.
                    unsafe { multiply(lefts, rights, first == 0, sums) };
                }
            }
        }
        // SAFETY: a machine with AMX has AVX-512, and blocks do not overlap.
        unsafe { self.store_tiles() };
    }

    /// Transposes the sums and writes them to the gradient.
    ///
    /// # Safety
    /// The machine must have AVX-512, and no other thread may access the block's part of the gradient.
    #[inline(always)]
    unsafe fn store_tiles(&mut self) {
        let geo = self.panels.geo;
        let (ins, outs) = (self.cin.len() / SIDE, self.cout.len() / SIDE);
        let tiles: &mut [Tile] = self.sums.as_chunks_mut().0;
        for (index, tile) in tiles.iter_mut().enumerate() {
            let (tap, out, n) = (index / (outs * ins), index / ins % outs, index % ins);
            let sums = tile.as_mut_ptr();
            // SAFETY: the caller's contract; the tile is read before it is written.
            unsafe { transpose_16x16(0..SIDE, sums, SIDE, sums) };
            let first = tap * geo.cin + self.cin.start + n * SIDE;
            for (row, values) in (first..).zip(tile.chunks_exact(SIDE)) {
                let at = row * geo.cout + self.cout.start + out * SIDE;
                // SAFETY: the caller's contract.
                unsafe { self.dw.part(at..at + SIDE) }.copy_from_slice(values);
            }
        }
    }
}

/// Returns `pixels` pixels from the panel of the first image on, in rows of 16 channels.
#[inline(always)]
fn rows(kept: &[f32], panel: Panel, pixels: usize) -> &[Row] {
    kept[panel.start..][..pixels * panel.lanes].as_chunks().0
}

/// Transposes the gradients of some output pixels for 16 channels to left factors, channels by pixels. Each
/// pixel has `per_pixel` rows of `grads`, of which the first is taken; pixels that are missing from the last
/// tile are taken as zero.
///
/// # Safety
/// The machine must have AVX-512, and `grads` must have a row for each position.
#[inline(always)]
unsafe fn transpose(grads: &[Row], per_pixel: usize, positions: &[Position], lefts: &mut [Tile]) {
    for (left, positions) in lefts.iter_mut().zip(positions.chunks(SIDE)) {
        let mut pixels: [Row; SIDE] = [[0.0; SIDE]; SIDE];
        for (pixel, position) in pixels.iter_mut().zip(positions) {
            // SAFETY: the caller's contract.
            pixel.copy_from_slice(unsafe { grads.get_unchecked(position.grad * per_pixel) });
        }
        // SAFETY: the caller's contract; both are 16 rows of 16 lanes.
        unsafe { transpose_16x16(0..SIDE, pixels.as_flattened().as_ptr(), SIDE, left.as_mut_ptr()) };
    }
}

/// Copies the inputs of some output pixels for one tap and 16 channels to tile `n` of the `ins` tiles of the
/// right factors.
///
/// # Safety
/// `inputs`, which begin at the tap, must have a row for each position.
#[inline(always)]
unsafe fn gather(inputs: &[Row], positions: &[Position], n: usize, ins: usize, rights: &mut [Row]) {
    for (position, pixel) in positions.iter().zip(rights.chunks_exact_mut(ins)) {
        // SAFETY: the caller's contract.
        pixel[n].copy_from_slice(unsafe { inputs.get_unchecked(position.input) });
    }
}

/// Adds the products of left factors, 16 output channels by 16 pixels each, and of the right factors of the
/// same pixels to the sums, one for each tile of input channels, or overwrites the sums if `fresh`.
///
/// # Safety
/// The machine must have AMX, with the tile registers configured for 16 rows of 16 lanes.
#[inline(always)]
unsafe fn multiply(lefts: &[Tile], rights: &[Row], fresh: bool, sums: &mut [Tile]) {
    let count = sums.len();
    assert!((1..=amx::SUMS).contains(&count) && rights.len() == lefts.len() * SIDE * count);
    let first = sums.as_mut_ptr();
    let sums = std::array::from_fn(|n| first.wrapping_add(n).cast());
    // SAFETY: the caller's contract; a right factor is 16 rows of `count` tiles each, by the assertion, and
    // only the first `count` pointers to sums are used.
    unsafe {
        if fresh {
            amx::clear();
        } else {
            amx::load(count, &sums);
        }
        for (left, right) in lefts.iter().zip(rights.chunks_exact(SIDE * count)) {
            let right = right.as_flattened().as_ptr();
            amx::multiply_rights(count, left.as_ptr(), 4 * SIDE, right, 4 * SIDE * count);
        }
        amx::store(count, &sums);
    }
}
