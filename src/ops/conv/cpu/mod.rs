//! The convolution on the CPU: what a thread does with a chunk of images.
//!
//! Here is what both passes share: scratch memory and the input of an image. The inner loops are in [`tile`];
//! [`winograd`] uses them with fewer multiplications where a layer's sizes allow it.

mod backward;
mod forward;
pub(crate) mod tile;
pub(crate) mod winograd;

pub(super) use backward::{Backward, Input, flip, grad_len};
pub(super) use forward::Forward;
pub(crate) use forward::convolve;

use std::cell::RefCell;
use std::ops::Range;

use super::{Geometry, Shortcut, Source};
use crate::ops::simd::Vector;

/// Lends the thread's scratch memory: allocated at its first use, then kept.
fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    const LINE: usize = 16;
    thread_local!(static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    SCRATCH.with_borrow_mut(|buffer| {
        if buffer.len() < len + LINE {
            buffer.resize(len + LINE, 0.0);
        }
        let skip = buffer.as_ptr().align_offset(64).min(LINE);
        f(&mut buffer[skip..skip + len])
    })
}

/// The part of a batch's buffer that belongs to some images.
fn images(chunk: &Range<usize>, len: usize) -> Range<usize> {
    chunk.start * len..chunk.end * len
}

/// Makes the input of one image inside its halo, whose border stays as it is (zero), and stores it if asked.
#[inline(always)]
unsafe fn fill_input<V: Vector>(
    geo: Geometry,
    source: &Source<&[f32]>,
    image: usize,
    scratch: &mut [f32],
    mut store: Option<&mut [f32]>,
) {
    let width = geo.width * geo.cin;
    for row in 0..geo.height {
        let start = (row + 1) * (geo.width + 2) * geo.cin + geo.cin;
        let a = &mut scratch[start..start + width];
        let at = image * geo.in_len() + row * width;
        match source {
            Source::Plain(x) => a.copy_from_slice(&x[at..at + width]),
            Source::Norm { y, affine, shortcut } => {
                let y = &y[at..at + width];
                // SAFETY: the contract of the caller; rows of equal length.
                unsafe {
                    match shortcut {
                        Shortcut::None => norm_row::<V, false>(y, affine, geo.cin, &[], a),
                        Shortcut::Same(x) => norm_row::<V, true>(y, affine, geo.cin, &x[at..at + width], a),
                        Shortcut::Half(x) => norm_row_half(geo, y, affine, half_row(geo, x, image, row), a),
                    }
                }
            }
        }
        if let Some(store) = &mut store {
            store[row * width..(row + 1) * width].copy_from_slice(a);
        }
    }
}

/// `a = relu(y·scale + shift [+ x])` for a row of pixels.
#[inline(always)]
unsafe fn norm_row<V: Vector, const ADD: bool>(
    y: &[f32],
    affine: &[f32],
    c: usize,
    x: &[f32],
    a: &mut [f32],
) {
    assert!(y.len() == a.len() && (!ADD || x.len() == a.len()) && affine.len() >= 2 * c);
    let whole = c / V::LANES * V::LANES;
    for pixel in (0..a.len()).step_by(c) {
        // SAFETY: `pixel + channel + LANES` stays inside the row, by the assertion.
        unsafe {
            for channel in (0..whole).step_by(V::LANES) {
                norm::<V, ADD>(y, affine, c, x, a, pixel, channel);
            }
            for channel in whole..c {
                norm::<f32, ADD>(y, affine, c, x, a, pixel, channel);
            }
        }
    }
}

#[inline(always)]
unsafe fn norm<V: Vector, const ADD: bool>(
    y: &[f32],
    affine: &[f32],
    c: usize,
    x: &[f32],
    a: &mut [f32],
    pixel: usize,
    channel: usize,
) {
    let at = pixel + channel;
    // SAFETY: the contract of `norm_row`.
    unsafe {
        let scale = V::load(affine.as_ptr().add(channel));
        let shift = V::load(affine.as_ptr().add(c + channel));
        let mut v = shift.fma(V::load(y.as_ptr().add(at)), scale);
        if ADD {
            v = v.add(V::load(x.as_ptr().add(at)));
        }
        v.relu().store(a.as_mut_ptr().add(at));
    }
}

/// The row of the double-size image `(2H, 2W, C/2)` that a half-size row sees.
#[inline(always)]
fn half_row(geo: Geometry, x: &[f32], image: usize, row: usize) -> &[f32] {
    let len = 2 * geo.width * geo.cin / 2;
    let start = (image * 2 * geo.height + 2 * row) * len;
    &x[start..start + len]
}

#[inline(always)]
fn norm_row_half(geo: Geometry, y: &[f32], affine: &[f32], x: &[f32], a: &mut [f32]) {
    let c = geo.cin;
    let (before, narrow) = (c / 4, c / 2);
    let (scale, shift) = affine.split_at(c);
    for pixel in 0..geo.width {
        let (a, y) = (&mut a[pixel * c..(pixel + 1) * c], &y[pixel * c..(pixel + 1) * c]);
        for k in 0..c {
            a[k] = y[k] * scale[k] + shift[k];
        }
        let x = &x[2 * pixel * narrow..(2 * pixel + 1) * narrow];
        for (a, x) in a[before..before + narrow].iter_mut().zip(x) {
            *a += x;
        }
        for a in a {
            *a = a.max(0.0);
        }
    }
}
