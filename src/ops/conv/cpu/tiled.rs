//! The inner loops of [`super::tile`] by AMX, where the sizes suit its tiles: 16 or 8 pixels of a row by 16 channels.

// Indices are those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::tile::{Outer, PANEL, Pixel, Sink, Walk};
use crate::ops::simd::{Vector, amx};

/// Pixels of a row that are taken together.
fn pixels(cols: usize) -> Option<usize> {
    [16, 8].into_iter().find(|&p| cols.is_multiple_of(p))
}

#[repr(align(64))]
struct Sums([[[f32; 16]; 16]; amx::SUMS]);

/// [`super::tile::correlate`] of pairs of bf16; false where the sizes do not suit.
///
/// # Safety
/// As there; vectors have 16 lanes, and the machine tiles.
#[inline(always)]
pub unsafe fn correlate<V: Vector, S: Sink>(
    x: *const f32,
    walk: Walk,
    w: *const f32,
    cout: usize,
    sink: &mut S,
) -> bool {
    // Lanes of a run that are multiplied at a time.
    let lanes = (1..=16).rev().find(|&n| walk.runs.iter().all(|r| r.len.is_multiple_of(n)));
    let (Some(pixels), Some(lanes), true) = (pixels(walk.cols), lanes, cout.is_multiple_of(16)) else {
        return false;
    };
    // SAFETY: the caller's contract.
    unsafe {
        amx::configure(pixels, lanes);
        if pixels == 16 {
            rows::<V, S, 16>(x, walk, lanes, w, cout, sink);
        } else {
            rows::<V, S, 8>(x, walk, lanes, w, cout, sink);
        }
    }
    true
}

#[inline(always)]
unsafe fn rows<V: Vector, S: Sink, const P: usize>(
    x: *const f32,
    walk: Walk,
    lanes: usize,
    w: *const f32,
    cout: usize,
    sink: &mut S,
) {
    let mut sums = Sums([[[0.0; 16]; 16]; amx::SUMS]);
    let taps = walk.taps();
    for channel in (0..cout).step_by(16 * amx::SUMS) {
        let count = ((cout - channel) / 16).min(amx::SUMS);
        // Two panels, of which the second may be empty.
        const { assert!(16 * amx::SUMS == 2 * PANEL) };
        let width = [0, PANEL].map(|next| PANEL.min(cout.saturating_sub(channel + next)));
        let panels = [0, PANEL * taps].map(|next| w.wrapping_add(channel * taps + next));
        for image in 0..walk.images {
            for row in 0..walk.rows {
                for col in (0..walk.cols).step_by(P) {
                    // SAFETY: the contract of `correlate`.
                    unsafe {
                        let x = x.add(image * walk.image_step + row * walk.row_step + col * walk.col_step);
                        let mut k = 0;
                        amx::clear();
                        for run in walk.runs {
                            for x in (0..run.len).step_by(lanes).map(|k| x.add(run.offset + k)) {
                                let right = [0, 1].map(|n| panels[n].wrapping_add(k * width[n]));
                                amx::multiply(count, x, 4 * walk.col_step, right, width.map(|w| 4 * w));
                                k += lanes;
                            }
                        }
                        amx::store(&mut sums.0);
                        for (q, sums) in sums.0[..count].iter().enumerate() {
                            let channel = channel + 16 * q;
                            let mut acc = [[sink.start::<V>(channel)]; P];
                            for p in 0..P {
                                acc[p][0] = acc[p][0].add(V::load(sums[p].as_ptr()));
                            }
                            sink.put(acc, Pixel { image, row, col, channel });
                        }
                    }
                }
            }
        }
    }
}

/// [`super::tile::outer`] of pairs of bf16 for all three kernel rows, which are `kernel_row` floats apart in `x`; false where the sizes do not suit.
/// Tiles hold the gradient's transposed, channels out by taps, for then only the output's gradient has to be transposed to be a left factor.
///
/// # Safety
/// As [`correlate`].
#[inline(always)]
pub unsafe fn outer<V: Vector>(
    size: Outer,
    kernel_row: usize,
    x: *const f32,
    g: *const f32,
    dw: *mut f32,
) -> bool {
    /// Tiles of the output's gradient that are transposed at a time: 64 KB.
    const SOME: usize = 64;
    #[repr(align(64))]
    struct Turned([[f32; 256]; SOME]);
    let Some(pixels) = pixels(size.cols) else { return false };
    if !size.taps.is_multiple_of(16) || !size.cout.is_multiple_of(16) {
        return false;
    }
    let per_row = size.cols / pixels;
    let all = size.images * size.rows * per_row;
    let place = |n: usize| (n / per_row / size.rows, n / per_row % size.rows, n % per_row * pixels);
    let mut turned = Turned([[0.0; 256]; SOME]);
    let mut sums = Sums([[[0.0; 16]; 16]; amx::SUMS]);
    // SAFETY: the caller's contract.
    unsafe {
        amx::configure(16, pixels);
        for channel in (0..size.cout).step_by(16) {
            for first in (0..all).step_by(SOME) {
                let some = SOME.min(all - first);
                for (n, turned) in turned.0[..some].iter_mut().enumerate() {
                    let (image, row, col) = place(first + n);
                    let g = g.add(image * size.g_image + row * size.g_row + col * size.g_col + channel);
                    turn(pixels, g, size.g_col, turned.as_mut_ptr());
                }
                for kh in 0..3 {
                    let (x, dw) = (x.add(kh * kernel_row), dw.add(kh * size.taps * size.cout + channel));
                    for tap in (0..size.taps).step_by(16 * amx::SUMS) {
                        let count = ((size.taps - tap) / 16).min(amx::SUMS);
                        amx::clear();
                        for (n, turned) in turned.0[..some].iter().enumerate() {
                            let (image, row, col) = place(first + n);
                            let x = x.add(image * size.x_image + row * size.x_row + col * size.x_col + tap);
                            let right = [x, x.wrapping_add(32)];
                            amx::multiply(count, turned.as_ptr(), 64, right, [4 * size.x_col; 2]);
                        }
                        amx::store(&mut sums.0);
                        for (q, sums) in sums.0[..count].iter_mut().enumerate() {
                            let own = sums.as_mut_ptr().cast::<f32>();
                            turn(16, own, 16, own);
                            for k in 0..16 {
                                let dw = dw.add((tap + 16 * q + k) * size.cout);
                                let sum = V::load(own.add(16 * k));
                                if size.fresh && first == 0 {
                                    sum.store(dw)
                                } else {
                                    V::load(dw).add(sum).store(dw)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    true
}

/// Up to 16 rows of 16 lanes as 16 rows of as many.
#[inline(always)]
unsafe fn turn(rows: usize, from: *const f32, step: usize, to: *mut f32) {
    use std::arch::x86_64::{_mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    // SAFETY: the caller's contract; tiles come with AVX-512.
    unsafe {
        let mut lines = [_mm512_setzero_ps(); 16];
        for (n, line) in lines[..rows].iter_mut().enumerate() {
            *line = _mm512_loadu_ps(from.add(n * step));
        }
        for (n, line) in amx::transpose(lines).into_iter().enumerate() {
            _mm512_storeu_ps(to.add(16 * n), line);
        }
    }
}
