//! Register tiles of the convolution's weight gradient, for some images: [`outer_rows`] for all taps,
//! [`outer`] for the taps of one kernel row or for one component of Winograd tiles. Where the machine has AMX
//! tiles, `tiled` does it for bf16. Images have the layout of [`super::tile`].
//!
//! "Floats" are lanes of 32 bits. In bf16 each lane holds one value of each of two images, or of two Winograd
//! tiles.

// Indices match those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::walk::Outer;
use crate::simd::value::Value;
use crate::simd::{Vector, load, opaque};

/// Computes [`outer`] for all rows of a kernel, which begin `kernel_row` floats apart in `x`.
///
/// # Safety
/// The same as for [`outer`], for each row of the kernel.
#[inline(always)]
pub unsafe fn outer_rows<V: Vector, T: Value>(
    size: Outer,
    kernel: usize,
    kernel_row: usize,
    x: *const f32,
    g: *const f32,
    dw: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if V::TILES && T::PACK == 2 && super::tiled::outer::<V>(size, kernel, kernel_row, x, g, dw) {
            return;
        }
        for kh in 0..kernel {
            outer::<V, T>(size, x.add(kh * kernel_row), g, dw.add(kh * size.taps * size.dw_row));
        }
    }
}

/// Adds the weight gradient of one kernel row to `dw`, or overwrites `dw` if `size.fresh`.
///
/// # Safety
/// The caller must uphold the contract of [`Vector`]; `x`, `g` and `dw` must be as large as `size` requires.
#[inline(always)]
pub unsafe fn outer<V: Vector, T: Value>(size: Outer, x: *const f32, g: *const f32, dw: *mut f32) {
    let pair = 2 * V::LANES;
    let paired = size.cout / pair * pair;
    let single = (size.cout - paired) / V::LANES * V::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        if !V::WIDE {
            taps::<V, T, 4, 2, 2>(size, x, g, dw, 0..paired);
            taps::<V, T, 4, 2, 1>(size, x, g, dw, paired..paired + single);
        } else {
            taps::<V, T, 8, 4, 2>(size, x, g, dw, 0..paired);
            taps::<V, T, 16, 8, 1>(size, x, g, dw, paired..paired + single);
        }
        taps::<f32, T, 4, 2, 1>(size, x, g, dw, paired + single..size.cout);
    }
}

/// Computes [`outer`] for a range of channels: `K` taps at a time, then `HALF` at a time, then one by one.
///
/// # Safety
/// The same as for [`outer`]; the range must consist of whole groups of `Q` vectors.
#[inline(always)]
unsafe fn taps<V: Vector, T: Value, const K: usize, const HALF: usize, const Q: usize>(
    size: Outer,
    x: *const f32,
    g: *const f32,
    dw: *mut f32,
    range: std::ops::Range<usize>,
) {
    for channel in range.step_by(Q * V::LANES) {
        // SAFETY: the caller's contract.
        unsafe {
            let (g, dw) = (g.add(channel), dw.add(channel));
            let mut k = 0;
            while k + K <= size.taps {
                outer_tile::<V, T, K, Q>(size, x.add(k), g, dw.add(k * size.dw_row));
                k += K;
            }
            while k + HALF <= size.taps {
                outer_tile::<V, T, HALF, Q>(size, x.add(k), g, dw.add(k * size.dw_row));
                k += HALF;
            }
            while k < size.taps {
                outer_tile::<V, T, 1, Q>(size, x.add(k), g, dw.add(k * size.dw_row));
                k += 1;
            }
        }
    }
}

/// Computes [`outer`] for a register tile of `K` taps by `Q` vectors of channels.
///
/// # Safety
/// The same as for [`outer`], of which the tile must be a part.
#[inline(always)]
unsafe fn outer_tile<V: Vector, T: Value, const K: usize, const Q: usize>(
    size: Outer,
    x: *const f32,
    g: *const f32,
    dw: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [[V::splat(0.0); Q]; K];
        if !size.fresh {
            for k in 0..K {
                for q in 0..Q {
                    acc[k][q] = V::load(dw.add(k * size.dw_row + q * V::LANES));
                }
            }
        }
        for image in 0..size.images {
            for row in 0..size.rows {
                let mut x = x.add(image * size.x_image + row * size.x_row);
                let mut g = g.add(image * size.g_image + row * size.g_row);
                for _ in 0..size.cols {
                    x = opaque(x);
                    let grad: [V; Q] = load(g);
                    for k in 0..K {
                        let pixel = V::splat(*x.add(k));
                        for q in 0..Q {
                            acc[k][q] = T::multiply_add(acc[k][q], pixel, grad[q]);
                        }
                    }
                    x = x.add(size.x_col);
                    g = g.add(size.g_col);
                }
            }
        }
        for k in 0..K {
            for q in 0..Q {
                acc[k][q].store(dw.add(k * size.dw_row + q * V::LANES));
            }
        }
    }
}
