//! Register tiles: the inner loops of the convolution, for some images.
//!
//! [`correlate`] computes the output of the forward pass and the input gradient, without Winograd; the weight
//! gradient is in [`super::outer`]. Where the machine has AMX tiles, `tiled` does both for bf16. Both read
//! images with a halo of zeros, so there are no border cases. In NHWC the taps of a kernel row are
//! contiguous, `C` floats each; a [`Run`] is such a row. A [`Sink`] receives the finished tiles.
//!
//! "Floats" are lanes of 32 bits. In bf16 ([`Value::PACK`]) each lane is a pair of neighbouring channels, and
//! weights are paired in the same way.

// Indices match those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::walk::{PANEL, Pixel, Run, Sink, Walk};
use crate::simd::value::Value;
use crate::simd::{Vector, load, opaque, prefetch};

/// Computes `out[image, row, col, :] = Σ_runs Σ_k x[position(image, row, col) + run.offset + k] · w[k, :]`,
/// and passes it to the sink tile by tile.
///
/// `w` is (Σ run.len, cout) in the order of the runs, in panels of [`PANEL`] channels: (panels, Σ run.len,
/// channels of the panel).
///
/// # Safety
/// The caller must uphold the contract of [`Vector`]; `x` and `w` must hold everything that the walk touches,
/// and the sink must accept all pixels and channels of the output.
#[inline(always)]
pub unsafe fn correlate<V: Vector, T: Value, S: Sink>(
    x: *const f32,
    walk: Walk,
    w: *const f32,
    cout: usize,
    sink: &mut S,
) {
    // SAFETY: the caller's contract.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if V::TILES
            && T::PACK == 2
            && !walk.runs.is_empty()
            && (super::tiled::gathered::<V, S>(x, walk, w, cout, sink)
                || super::tiled::correlate::<V, S>(x, walk, w, cout, sink))
        {
            return;
        }
        let pair = 2 * V::LANES;
        let paired = cout / pair * pair;
        let single = (cout - paired) / V::LANES * V::LANES;
        if !V::WIDE {
            channels::<V, T, 4, 2, 2, 0, S>(x, walk, w, cout, 0..paired, sink);
            channels::<V, T, 4, 2, 1, 0, S>(x, walk, w, cout, paired..paired + single, sink);
        } else if paired == 0 {
            // With a known column step, every load is at a constant offset from one pointer.
            match walk.col_step {
                2 => channels::<V, T, 16, 8, 1, 2, S>(x, walk, w, cout, 0..single, sink),
                3 => channels::<V, T, 16, 8, 1, 3, S>(x, walk, w, cout, 0..single, sink),
                16 => channels::<V, T, 16, 8, 1, 16, S>(x, walk, w, cout, 0..single, sink),
                32 => channels::<V, T, 16, 8, 1, 32, S>(x, walk, w, cout, 0..single, sink),
                _ => channels::<V, T, 16, 8, 1, 0, S>(x, walk, w, cout, 0..single, sink),
            }
        } else {
            match walk.col_step {
                16 => channels::<V, T, 8, 4, 2, 16, S>(x, walk, w, cout, 0..paired, sink),
                32 => channels::<V, T, 8, 4, 2, 32, S>(x, walk, w, cout, 0..paired, sink),
                64 => channels::<V, T, 8, 4, 2, 64, S>(x, walk, w, cout, 0..paired, sink),
                _ if walk.cols == 4 && walk.rows.is_multiple_of(2) => {
                    many_taps::<V, T, S, 4>(x, walk, w, cout, 0..paired, sink);
                }
                _ if walk.cols.is_multiple_of(8) => {
                    many_taps::<V, T, S, 8>(x, walk, w, cout, 0..paired, sink);
                }
                // Rows of 7 or 14 pixels, of which tiles of eight and four would leave several single pixels.
                _ if walk.cols % 8 > 4 && walk.cols.is_multiple_of(7) => {
                    channels::<V, T, 7, 4, 2, 0, S>(x, walk, w, cout, 0..paired, sink);
                }
                _ => channels::<V, T, 8, 4, 2, 0, S>(x, walk, w, cout, 0..paired, sink),
            }
            channels::<V, T, 8, 4, 1, 0, S>(x, walk, w, cout, paired..paired + single, sink);
        }
        channels::<f32, T, 4, 2, 1, 0, S>(x, walk, w, cout, paired + single..cout, sink);
    }
}

/// Returns the initial sums of `Q` vectors of channels.
///
/// # Safety
/// The contract of [`Sink::start`] applies to all `Q` vectors.
#[inline(always)]
unsafe fn start<V: Vector, S: Sink, const Q: usize>(sink: &S, channel: usize) -> [V; Q] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut start = [V::splat(0.0); Q];
        for q in 0..Q {
            start[q] = sink.start(channel + q * V::LANES);
        }
        start
    }
}

/// Computes [`correlate`] for a range of channels: `P` pixels at a time, then `HALF` at a time, then one by
/// one. `STEP` is the column step if it is known at compile time, otherwise 0.
///
/// # Safety
/// The same as for [`correlate`]; the range must consist of whole groups of `Q` vectors.
#[inline(always)]
unsafe fn channels<
    V: Vector,
    T: Value,
    const P: usize,
    const HALF: usize,
    const Q: usize,
    const STEP: usize,
    S: Sink,
>(
    x: *const f32,
    walk: Walk,
    w: *const f32,
    cout: usize,
    range: std::ops::Range<usize>,
    sink: &mut S,
) {
    let step = if STEP == 0 { walk.col_step } else { STEP };
    let taps = walk.taps();
    // Channels are the outer loop, so that one block of weights stays in the cache for all images.
    for channel in range.step_by(Q * V::LANES) {
        // SAFETY: the caller's contract.
        let start: [V; Q] = unsafe { start(sink, channel) };
        let panel = channel / PANEL * PANEL;
        let width = PANEL.min(cout - panel);
        for image in 0..walk.images {
            for row in 0..walk.rows {
                let mut at = Pixel { image, row, col: 0, channel };
                // SAFETY: the caller's contract.
                unsafe {
                    let w = w.wrapping_add(panel * taps + channel - panel);
                    let x = x.add(image * walk.image_step + row * walk.row_step);
                    while at.col + P <= walk.cols {
                        let x = x.add(at.col * step);
                        let acc = tile::<V, T, P, Q>(start, x, step, walk.runs, w, width);
                        sink.put(acc, at);
                        at.col += P;
                    }
                    while at.col + HALF <= walk.cols {
                        let x = x.add(at.col * step);
                        let acc = tile::<V, T, HALF, Q>(start, x, step, walk.runs, w, width);
                        sink.put(acc, at);
                        at.col += HALF;
                    }
                    while at.col < walk.cols {
                        let x = x.add(at.col * step);
                        let acc = tile::<V, T, 1, Q>(start, x, step, walk.runs, w, width);
                        sink.put(acc, at);
                        at.col += 1;
                    }
                }
            }
        }
    }
}

/// Computes [`channels`] for many taps and rows of whole register tiles. A tile is eight pixels of one row
/// or, if `ROW` is 4, of two rows. A few taps at a time are added for all tiles of a group of pixels, so that
/// the weights of these taps stay in the first-level cache.
///
/// # Safety
/// The same as for [`correlate`]; the range must consist of whole pairs of vectors, and the rows of whole
/// tiles.
#[inline(always)]
unsafe fn many_taps<V: Vector, T: Value, S: Sink, const ROW: usize>(
    x: *const f32,
    walk: Walk,
    w: *const f32,
    cout: usize,
    range: std::ops::Range<usize>,
    sink: &mut S,
) {
    /// Number of taps that are added at a time.
    const TAPS_PER_PASS: usize = 128;
    /// Number of register tiles in a group of pixels.
    const TILES_PER_GROUP: usize = 16;
    let taps = walk.taps();
    let per_row = walk.cols / ROW;
    let per_image = walk.rows * walk.cols / 8;
    let all = walk.images * per_image;
    // SAFETY: the caller's contract.
    unsafe {
        for channel in range.step_by(2 * V::LANES) {
            let panel = channel / PANEL * PANEL;
            let width = PANEL.min(cout - panel);
            let start = [sink.start(channel), sink.start(channel + V::LANES)];
            for first in (0..all).step_by(TILES_PER_GROUP) {
                let tiles = TILES_PER_GROUP.min(all - first);
                let first_pixel = |n: usize| {
                    let (image, at) = ((first + n) / per_image, (first + n) % per_image);
                    Pixel { image, row: at / per_row * (8 / ROW), col: at % per_row * ROW, channel }
                };
                let mut sums = [[start; 8]; TILES_PER_GROUP];
                let mut w = w.wrapping_add(panel * taps + channel - panel);
                for run in walk.runs {
                    for from in (0..run.len).step_by(TAPS_PER_PASS) {
                        let len = TAPS_PER_PASS.min(run.len - from);
                        let next = w.wrapping_add(len * width);
                        for (n, sums) in sums[..tiles].iter_mut().enumerate() {
                            let at = first_pixel(n);
                            let x = x.add(
                                at.image * walk.image_step + at.row * walk.row_step + at.col * walk.col_step,
                            );
                            // Each tile prefetches its share of the weights that come next.
                            let part = len * width / TILES_PER_GROUP;
                            for line in (n * part..(n + 1) * part).step_by(16) {
                                prefetch(next.wrapping_add(line).cast());
                            }
                            let mut acc = *sums;
                            let steps = (walk.col_step, walk.row_step);
                            add_taps::<V, T, 8, 2, ROW>(
                                &mut acc,
                                x.add(run.offset + from),
                                steps,
                                len,
                                w,
                                width,
                            );
                            *sums = acc;
                        }
                        w = next;
                    }
                }
                for (n, sums) in sums[..tiles].iter().enumerate() {
                    let at = first_pixel(n);
                    if ROW == 8 {
                        sink.put(*sums, at);
                        continue;
                    }
                    let (mut upper, mut lower) = ([start; 4], [start; 4]);
                    for p in 0..4 {
                        (upper[p], lower[p]) = (sums[p], sums[4 + p]);
                    }
                    sink.put(upper, at);
                    sink.put(lower, Pixel { row: at.row + 1, ..at });
                }
            }
        }
    }
}

/// Returns the sums of a register tile: `P` pixels of a row, `step` floats apart, by `Q` vectors of channels.
///
/// # Safety
/// The machine must have the instruction set of `V`; `x` and `w` must hold all runs of the tile.
#[inline(always)]
unsafe fn tile<V: Vector, T: Value, const P: usize, const Q: usize>(
    start: [V; Q],
    x: *const f32,
    step: usize,
    runs: &[Run],
    mut w: *const f32,
    width: usize,
) -> [[V; Q]; P] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut acc = [start; P];
        for run in runs {
            w = add_taps::<V, T, P, Q, P>(&mut acc, x.add(run.offset), (step, 0), run.len, w, width);
        }
        acc
    }
}

/// Adds some taps to the sums of `P` pixels, `ROW` of them per row, with `steps` between columns and rows.
/// Returns a pointer to the weights that follow.
///
/// # Safety
/// The machine must have the instruction set of `V`; `x` and `w` must hold the taps of the tile.
#[inline(always)]
unsafe fn add_taps<V: Vector, T: Value, const P: usize, const Q: usize, const ROW: usize>(
    acc: &mut [[V; Q]; P],
    mut x: *const f32,
    steps: (usize, usize),
    taps: usize,
    mut w: *const f32,
    width: usize,
) -> *const f32 {
    // SAFETY: the caller's contract.
    unsafe {
        for _ in 0..taps {
            x = opaque(x);
            let weights: [V; Q] = load(w);
            for p in 0..P {
                let pixel = V::splat(*x.add(p % ROW * steps.0 + p / ROW * steps.1));
                for q in 0..Q {
                    acc[p][q] = T::multiply_add(acc[p][q], pixel, weights[q]);
                }
            }
            (x, w) = (x.add(1), w.wrapping_add(width));
        }
        w
    }
}
