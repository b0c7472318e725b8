//! The matrix products of a classifier's step, over panels of weights and tiles of features.

use rayon::prelude::*;

use crate::backend::Rates;
use crate::simd::{Isa, Task, Vector, load};
use crate::tensor::Parts;

/// Number of classes in a panel: two vectors of 16 lanes.
pub(super) const PANEL: usize = 32;

/// Number of rows of a register tile, each of two vectors, with 32 vector registers ([`Vector::WIDE`]).
const WIDE_ROWS: usize = 12;

/// Number of rows of a register tile with 16 vector registers.
const NARROW_ROWS: usize = 6;

/// Returns whether the instruction set in use has 32 vector registers, as [`Vector::WIDE`] says inside a
/// task.
fn is_wide() -> bool {
    Isa::get().is_wide()
}

/// Converts (classes, features) to (panel, feature, class), with zeros for the classes that pad the last
/// panel.
pub(super) fn to_panels(weight: &[f32], features: usize) -> Vec<f32> {
    let classes = weight.len() / features;
    let mut out = vec![0.0; classes.next_multiple_of(PANEL) * features];
    for (k, row) in weight.chunks_exact(features).enumerate() {
        let panel = &mut out[k / PANEL * PANEL * features..];
        row.iter().enumerate().for_each(|(f, w)| panel[f * PANEL + k % PANEL] = *w);
    }
    out
}

pub(super) fn from_panels(panels: &[f32], classes: usize, features: usize) -> Vec<f32> {
    let value = |k: usize, f: usize| panels[k / PANEL * PANEL * features + f * PANEL + k % PANEL];
    (0..classes).flat_map(|k| (0..features).map(move |f| value(k, f))).collect()
}

/// Writes rows of features in tiles of as many rows as a register tile, column by column, so that a tile is
/// read sequentially. Missing rows are filled with zeros.
pub(super) fn tile_rows(out: &mut Vec<f32>, x: &[&[f32]], features: usize) {
    if is_wide() { rows::<WIDE_ROWS>(out, x, features) } else { rows::<NARROW_ROWS>(out, x, features) }
}

/// Writes the transpose of the rows in tiles of as many columns as a register tile has rows.
pub(super) fn tile_columns(out: &mut Vec<f32>, x: &[&[f32]], features: usize) {
    if is_wide() { columns::<WIDE_ROWS>(out, x, features) } else { columns::<NARROW_ROWS>(out, x, features) }
}

fn rows<const R: usize>(out: &mut Vec<f32>, x: &[&[f32]], features: usize) {
    /// Number of columns that are written at a time: their tile stays in the first-level cache.
    const COLUMNS_PER_BLOCK: usize = 64;
    out.resize(x.len().next_multiple_of(R) * features, 0.0);
    out.par_chunks_exact_mut(R * features).zip(x.par_chunks(R)).for_each(|(out, x)| {
        for (n, out) in out.as_chunks_mut::<R>().0.chunks_mut(COLUMNS_PER_BLOCK).enumerate() {
            for (row, x) in x.iter().enumerate() {
                out.iter_mut().zip(&x[n * COLUMNS_PER_BLOCK..]).for_each(|(out, x)| out[row] = *x);
            }
            out.iter_mut().for_each(|out| out[x.len()..].fill(0.0));
        }
    });
}

fn columns<const R: usize>(out: &mut Vec<f32>, x: &[&[f32]], features: usize) {
    /// Number of tiles that a thread writes at a time: it reads more than a cache line of each row at once.
    const TILES_PER_BATCH: usize = 8;
    let n = x.len();
    out.resize(features.next_multiple_of(R) * n, 0.0);
    out.par_chunks_mut(TILES_PER_BATCH * R * n).enumerate().for_each(|(batch, out)| {
        let out = out.as_chunks_mut::<R>().0;
        for (sample, x) in x.iter().enumerate() {
            let (whole, rest) = x[batch * TILES_PER_BATCH * R..].as_chunks::<R>();
            let mut tiles = out.iter_mut().skip(sample).step_by(n);
            whole.iter().zip(&mut tiles).for_each(|(x, out)| *out = *x);
            if let Some(out) = tiles.next() {
                out[..rest.len()].copy_from_slice(rest);
                out[rest.len()..].fill(0.0);
            }
        }
    });
}

/// The task that multiplies rows of features by a panel of weights.
pub(super) struct Product<'a> {
    /// The features, tiled by [`tile_rows`].
    pub x: &'a [f32],
    /// Number of rows of features.
    pub n: usize,
    /// Number of features.
    pub features: usize,
    /// The weights, (features, classes of the panel).
    pub panel: &'a [f32],
    /// The output, of which the task writes the columns of the panel.
    pub out: Parts<'a>,
    /// The panel's first class, which is its first column of the output.
    pub first_class: usize,
    /// Distance between two rows of the output.
    pub stride: usize,
}

impl Task for Product<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's contract; each task has a panel of its own.
        unsafe { if V::WIDE { self.tiles::<V, WIDE_ROWS>() } else { self.tiles::<V, NARROW_ROWS>() } }
    }
}

impl Product<'_> {
    /// # Safety
    /// The machine must have the instruction set of `V`, and no other thread may access the panel's columns
    /// of the output.
    #[inline(always)]
    unsafe fn tiles<V: Vector, const R: usize>(self) {
        for (tile, x) in self.x.chunks_exact(R * self.features).enumerate() {
            let first = tile * R;
            for column in (0..PANEL).step_by(2 * V::LANES) {
                // SAFETY: the caller's contract; the panel has a row for each feature, and a part of the
                // output is two vectors.
                unsafe {
                    let sums = tile_sums::<V, R>(x, self.panel, column);
                    for (r, sums) in sums.into_iter().take(self.n - first).enumerate() {
                        let at = (first + r) * self.stride + self.first_class + column;
                        let out: &mut [f32] = self.out.part(at..at + 2 * V::LANES);
                        sums[0].store(out.as_mut_ptr());
                        sums[1].store(out.as_mut_ptr().add(V::LANES));
                    }
                }
            }
        }
    }
}

/// Returns `Σ_n tile[n][r] · right[n][column..]`, as two vectors, for each of the `R` rows r of a tile;
/// `tile` is (N, R) and `right` (N, [`PANEL`]).
///
/// # Safety
/// The machine must have the instruction set of `V`, and `right` must have a row of [`PANEL`] values for each
/// `n`.
#[inline(always)]
unsafe fn tile_sums<V: Vector, const R: usize>(tile: &[f32], right: &[f32], column: usize) -> [[V; 2]; R] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [[V::splat(0.0); 2]; R];
        let right = right.as_ptr().add(column);
        for (n, values) in tile.as_chunks::<R>().0.iter().enumerate() {
            let row: [V; 2] = load(right.add(n * PANEL));
            for (sums, value) in sums.iter_mut().zip(values) {
                let value = V::splat(*value);
                *sums = [sums[0].fma(value, row[0]), sums[1].fma(value, row[1])];
            }
        }
        sums
    }
}

/// The task that computes the gradient of a panel of weights and takes the SGD step.
pub(super) struct Update<'a> {
    /// The features, transposed and tiled by [`tile_columns`].
    pub x: &'a [f32],
    /// Gradients of the products, (samples, panel).
    pub gradients: &'a [f32],
    pub weight: &'a mut [f32],
    pub velocity: &'a mut [f32],
    /// For each class, the gradient's component along the class's weights, as a multiple of them, which is
    /// removed.
    pub along: [f32; PANEL],
    pub rates: Rates,
}

impl Task for Update<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's contract.
        unsafe { if V::WIDE { self.tiles::<V, WIDE_ROWS>() } else { self.tiles::<V, NARROW_ROWS>() } }
    }
}

impl Update<'_> {
    /// # Safety
    /// The machine must have the instruction set of `V`.
    #[inline(always)]
    unsafe fn tiles<V: Vector, const R: usize>(self) {
        let samples = self.gradients.len() / PANEL;
        let rows = self.weight.chunks_mut(R * PANEL).zip(self.velocity.chunks_mut(R * PANEL));
        for (x, (weight, velocity)) in self.x.chunks_exact(R * samples).zip(rows) {
            let mut gradient = [[0f32; PANEL]; R];
            for column in (0..PANEL).step_by(2 * V::LANES) {
                // SAFETY: the caller's contract; there is a row of gradients for each sample.
                unsafe {
                    let sums = tile_sums::<V, R>(x, self.gradients, column);
                    for (sums, out) in sums.into_iter().zip(&mut gradient) {
                        sums[0].store(out.as_mut_ptr().add(column));
                        sums[1].store(out.as_mut_ptr().add(column + V::LANES));
                    }
                }
            }
            let rows = weight.as_chunks_mut::<PANEL>().0.iter_mut().zip(velocity.as_chunks_mut::<PANEL>().0);
            for ((weight, velocity), gradient) in rows.zip(&gradient) {
                for k in 0..PANEL {
                    let d = gradient[k] - self.along[k] * weight[k];
                    self.rates.step(&mut weight[k], &mut velocity[k], d);
                }
            }
        }
    }
}
