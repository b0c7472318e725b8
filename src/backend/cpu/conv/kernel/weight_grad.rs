//! The weight gradient of some images of a chunk. That of a wide layer is in [`super::wide`].

use std::ops::Range;

use half::bf16;

use super::backward::{Backward, Space};
use super::outer::outer_rows;
use super::walk::Outer;
use super::wide::Panels;
use super::{by_blocks, winograd};
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Task, Vector};

/// The task that adds the weight gradient of some images to `dw`, or overwrites `dw` if `fresh`. In a wide
/// layer it keeps what the gradient is computed from.
pub(super) struct WeightGrad<'a, 'b, T> {
    pub op: &'a Backward<'a, T>,
    pub range: Range<usize>,
    pub fresh: bool,
    pub space: &'a mut Space<'b, T>,
    pub dw: &'a mut [f32],
}

impl<T: Value> Task for WeightGrad<'_, '_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let WeightGrad { op, range, fresh, space, dw } = self;
        let geo = op.geo;
        let winograd = V::WINOGRAD && op.winograd;
        // SAFETY: the caller's contract; the scratch memory holds the images with their halos, and chunks do
        // not overlap.
        unsafe {
            if by_blocks(geo) {
                let (images, a, g) = if winograd {
                    (range.len(), &*space.a, &*space.g)
                } else {
                    space.paired::<V>(range.len())
                };
                let panels = Panels::new::<T>(geo, winograd, op.batch);
                panels.keep::<V>(range.start / panels.share, images, a, g, op.partial);
            } else if winograd {
                let (a, g) = (T::unpack(space.a).as_ptr(), T::unpack(space.g).as_ptr());
                for n in 0..range.len() {
                    let a = a.add(n * geo.padded_in::<T>() * T::PACK);
                    let g = g.add(n * geo.padded_out::<T>() * T::PACK);
                    winograd::weight_grad::<V, T>(geo, fresh && n == 0, a, g, dw.as_mut_ptr(), space.work);
                }
            } else {
                let (groups, a, g) = space.paired::<V>(range.len());
                weight_grad::<V, T>(geo, fresh, groups, a, g, dw);
            }
        }
    }
}

impl<T: Value> Space<'_, T> {
    /// Returns the number of lanes of work space that [`Space::paired`] needs.
    pub fn paired_len(geo: Geometry, images: usize) -> usize {
        if T::PACK == 1 { 0 } else { images / 2 * (geo.padded_in::<f32>() + geo.padded_out::<f32>()) }
    }

    /// Groups the first `images` images by as many as share a lane. Returns the number of groups, and their
    /// inputs and gradients with one value of each image in a lane, as [`outer_rows`] takes them.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`.
    #[inline(always)]
    unsafe fn paired<V: Vector>(&mut self, images: usize) -> (usize, &[f32], &[f32]) {
        if T::PACK == 1 {
            return (images, self.a, self.g);
        }
        if !images.is_multiple_of(2) {
            // Fill the last image's partner with zeros.
            let (a, g) = self.image(images);
            a.fill(0.0);
            g.fill(0.0);
        }
        let pairs = images.div_ceil(2);
        let (a_len, g_len) = (self.geo.padded_in::<f32>(), self.geo.padded_out::<f32>());
        let (a, g) = self.work.split_at_mut(pairs * a_len);
        for n in 0..pairs {
            let (a_two, g_two) = (2 * self.geo.padded_in::<T>(), 2 * self.geo.padded_out::<T>());
            // SAFETY: the caller's contract.
            unsafe {
                let out = bf16::unpack(&mut a[n * a_len..(n + 1) * a_len]);
                interleave::<V>(bf16::unpack(&mut self.a[n * a_two..][..a_two]), self.geo.cin, out);
                let out = bf16::unpack(&mut g[n * g_len..(n + 1) * g_len]);
                interleave::<V>(bf16::unpack(&mut self.g[n * g_two..][..g_two]), self.geo.cout, out);
            }
        }
        (pairs, a, g)
    }
}

/// Interleaves the values of two images, without the padding of each pixel's last lane.
///
/// # Safety
/// The machine must have the instruction set of `V`.
#[inline(always)]
unsafe fn interleave<V: Vector>(images: &[bf16], channels: usize, out: &mut [bf16]) {
    let pixel = bf16::lanes(channels) * bf16::PACK;
    let (first, second) = images.split_at(images.len() / 2);
    // Interleave all pixels at once if there is no padding between them.
    let run = if pixel == channels { first.len() } else { channels };
    let step = run.max(pixel);
    let runs = first.chunks_exact(step).zip(second.chunks_exact(step));
    for ((first, second), out) in runs.zip(out.chunks_exact_mut(2 * run)) {
        let whole = run / (2 * V::LANES) * 2 * V::LANES;
        for at in (0..whole).step_by(2 * V::LANES) {
            // SAFETY: the caller's contract; whole vectors are inside the runs.
            unsafe {
                V::side_by_side(first.as_ptr().add(at), second.as_ptr().add(at), out.as_mut_ptr().add(2 * at))
            };
        }
        for at in whole..run {
            (out[2 * at], out[2 * at + 1]) = (first[at], second[at]);
        }
    }
}

/// Adds the weight gradient of some images, or of groups that share lanes, to `dw`, or overwrites `dw` if
/// `fresh`. It takes a few rows at a time so that they stay in the first-level cache, or all rows of all
/// images at once where there are AMX tiles.
///
/// # Safety
/// The machine must have the instruction set of `V`, `a` and `g` must hold all images or groups with their
/// halos, and `dw` the whole gradient.
#[inline(always)]
unsafe fn weight_grad<V: Vector, T: Value>(
    geo: Geometry,
    fresh: bool,
    images: usize,
    a: &[f32],
    g: &[f32],
    dw: &mut [f32],
) {
    /// Number of floats of rows that stay in the cache.
    const MAX_FLOATS: usize = 6 * 1024;
    let halo = geo.padding();
    let (a_row, g_row) = ((geo.width + 2 * halo) * geo.cin, (geo.out_width() + 2 * halo) * geo.cout);
    let rows = (MAX_FLOATS / (geo.stride * a_row + g_row)).clamp(1, geo.out_height());
    let (images_per_pass, rows_per_pass) = if V::TILES { (images, geo.out_height()) } else { (1, rows) };
    // Without gaps between the rows, all pixels form a single row.
    let flat = V::TILES && halo == 0 && geo.stride == 1;
    for image in (0..images).step_by(images_per_pass) {
        for first in (0..geo.out_height()).step_by(rows_per_pass) {
            let size = Outer {
                fresh: fresh && image + first == 0,
                images: images_per_pass,
                x_image: geo.padded_in::<f32>(),
                g_image: geo.padded_out::<f32>(),
                rows: if flat { 1 } else { rows_per_pass.min(geo.out_height() - first) },
                cols: if flat { geo.out_height() * geo.out_width() } else { geo.out_width() },
                x_row: geo.stride * a_row,
                x_col: geo.stride * geo.cin,
                g_row,
                g_col: geo.cout,
                taps: geo.kernel * geo.cin,
                cout: geo.cout,
                dw_row: geo.cout,
            };
            let a = &a[image * size.x_image + first * size.x_row..];
            let g = &g[image * size.g_image + (first + halo) * g_row + halo * geo.cout..];
            // SAFETY: the caller's contract, by which rows `first..first + rows` of the output, and the taps
            // that they meet, are inside the halos.
            unsafe { outer_rows::<V, T>(size, geo.kernel, a_row, a.as_ptr(), g.as_ptr(), dw.as_mut_ptr()) };
        }
    }
}
