//! The forward pass of f32 by AMX, which multiplies bf16 only: each value is split into the sum of two bf16, a + a′ with a the nearest
//! one, and x·w is x·w + x′·w + x·w′. What is left out and what is rounded is about 2⁻¹⁷ of a product, a little less than Winograd's
//! F(4×4) rounds. For inference.
//!
//! A pixel has as many lanes as channels: first the pairs of all its channels' a, then those of their a′.

use super::tile::{PANEL, Run, Sink, Walk};
use crate::ops::conv::Geometry;
use crate::ops::simd::{Isa, Vector};
use crate::ops::value::Value;
use half::bf16;

/// Lanes that are multiplied at a time.
const LANES: usize = 16;

/// Where the inputs of an output pixel are: whole pixels if they are multiplied at once, else the first halves of all taps.
fn runs(geo: Geometry) -> [Run; 9] {
    let len = if geo.cin == LANES { geo.cin } else { geo.cin / 2 };
    std::array::from_fn(|tap| Run { offset: (tap / 3 * (geo.width + 2) + tap % 3) * geo.cin, len })
}

fn walk(geo: Geometry, images: usize, image_step: usize, runs: &[Run]) -> Walk<'_> {
    let row = (geo.width + 2) * geo.cin;
    Walk {
        images,
        image_step,
        rows: geo.out_height(),
        cols: geo.out_width(),
        row_step: geo.stride * row,
        col_step: geo.stride * geo.cin,
        runs,
    }
}

/// Whether the machine has what this needs, and a layer the sizes.
pub fn fits(geo: Geometry, isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx && (geo.cin == LANES || geo.cin.is_multiple_of(2 * LANES)) {
        return super::tiled::suits(&walk(geo, 1, 0, &runs(geo)), geo.cout);
    }
    let _ = (geo, isa);
    false
}

/// Floats of [`arrange`]d weights.
pub fn weight_len(geo: Geometry) -> usize {
    9 * geo.cin.max(2 * LANES) * geo.cout
}

/// Weights (3, 3, in, out) as [`forward`] takes them: panels of tiles, of which each has the nearest bf16 and then what is left.
pub fn arrange(geo: Geometry, weight: &[f32], out: &mut [f32]) {
    let (cin, cout) = (geo.cin, geo.cout);
    let mut out = bf16::unpack(out).iter_mut();
    for panel in (0..cout).step_by(PANEL) {
        for (tap, first) in (0..9).flat_map(|tap| (0..cin).step_by(2 * LANES).map(move |k| (tap, k))) {
            for rest in [false, true] {
                for lane in 0..LANES {
                    // A pixel of 16 channels is one tile, with both of its halves.
                    let channel = (first + 2 * lane) % cin;
                    for col in panel..cout.min(panel + PANEL) {
                        for channel in [channel, channel + 1] {
                            let parts = parts(weight[(tap * cin + channel) * cout + col]);
                            if let Some(out) = out.next() {
                                *out = parts[usize::from(rest)];
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The nearest bf16, and that of what is left.
fn parts(x: f32) -> [bf16; 2] {
    let near = bf16::from_f32(x);
    [near, bf16::from_f32(x - near.to_f32())]
}

/// The outputs of some images, `step` lanes apart, from their inputs inside halos.
///
/// # Safety
/// As [`Vector`], in a machine and with sizes that it [`fits`]; `x` holds the images, `w` [`arrange`]d weights.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub unsafe fn forward<V: Vector, S: Sink>(
    geo: Geometry,
    images: usize,
    x: *const f32,
    step: usize,
    w: *const f32,
    sink: &mut S,
) {
    #[cfg(target_arch = "x86_64")]
    {
        let whole: &super::tiled::Terms = &[(0, 0), (0, 1)];
        let halves: &super::tiled::Terms = &[(0, 0), (geo.cin / 2, 0), (0, 1)];
        let terms = if geo.cin == LANES { whole } else { halves };
        let runs = runs(geo);
        // SAFETY: the caller's contract.
        unsafe {
            super::tiled::correlate::<V, S>(x, walk(geo, images, step, &runs), terms, w, geo.cout, sink)
        }
    }
}

/// Reads some of a pixel's channels.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn load<V: Vector>(pixel: *const f32, channels: usize, first: usize) -> V {
    let near = pixel.cast::<bf16>().wrapping_add(first);
    // SAFETY: the caller's contract: the second half begins after the first.
    unsafe { bf16::load::<V>(near).add(bf16::load(near.add(channels))) }
}

/// Splits some of a pixel's channels.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
pub unsafe fn store<V: Vector>(v: V, pixel: *mut f32, channels: usize, first: usize) {
    let near = pixel.cast::<bf16>().wrapping_add(first);
    // SAFETY: as for [`load`].
    unsafe {
        bf16::store(v, near);
        bf16::store(v.sub(bf16::load(near)), near.add(channels));
    }
}
