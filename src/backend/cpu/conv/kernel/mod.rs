//! The convolution kernels of the CPU: what a thread does with a chunk of images.
//!
//! This module contains what both passes share: scratch memory and the computation of an image's input. The
//! inner loops are in [`tile`]; where a layer's sizes allow it, [`winograd`] does the same with fewer
//! multiplications.

mod backward;
mod forward;
mod input_grad;
mod outer;
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiled;
pub(crate) mod walk;
mod weight_grad;
mod wide;
pub(crate) mod winograd;

pub(super) use backward::{Backward, InputGrad, arranged_len, grad_len, partial_len};
pub(super) use forward::Forward;
pub(crate) use forward::convolve;
pub(super) use input_grad::{flip, walks};
pub(super) use wide::{Panels, weight_grad};

use std::cell::RefCell;
use std::marker::PhantomData;

use rayon::prelude::*;

use crate::backend::cpu::CHUNK;
use crate::backend::cpu::source::{Slices, Values, View, relu};
use crate::backend::{Input, Shortcut};
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Task, Vector, prefetch};
use crate::tensor::Aligned;
use walk::PANEL;

/// Returns whether a layer has too many weights for a core's second-level cache.
fn is_wide(geo: Geometry) -> bool {
    const MAX_WEIGHTS: usize = 64 * 1024;
    geo.weight_len() > MAX_WEIGHTS
}

/// Returns whether a layer is wide and its weight gradient larger than a chunk's inputs and gradients, from
/// which it is computed. Such a weight gradient is summed by `wide`.
pub(super) fn by_blocks(geo: Geometry) -> bool {
    is_wide(geo) && geo.weight_len() > CHUNK * (geo.padded_in::<f32>() + geo.padded_out::<f32>())
}

// A thread's free scratch buffers: more than one, because borrows may be nested.
thread_local!(static SCRATCH: RefCell<Vec<Aligned>> = const { RefCell::new(vec![]) });

/// Calls `f` with `len` floats of the thread's scratch memory, which is allocated on first use and then kept.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = take_scratch(len);
    let result = f(&mut scratch[..len]);
    keep_scratch(scratch);
    result
}

/// Takes a scratch buffer, for kernels that cannot use [`with_scratch`]: the body of a closure would be
/// compiled without their instruction set.
fn take_scratch(len: usize) -> Aligned {
    let kept = SCRATCH.with_borrow_mut(Vec::pop).filter(|s| s.len() >= len);
    kept.unwrap_or_else(|| Aligned::new(len))
}

/// Returns a buffer from [`take_scratch`] to the thread.
fn keep_scratch(scratch: Aligned) {
    SCRATCH.with_borrow_mut(|all| all.push(scratch));
}

/// Returns the number of images that go through a convolution together, at least `least` and a multiple of
/// it. In a wide layer, it is as many as can share the weights while their own values stay in the
/// second-level cache, in groups of equal size.
fn together<T: Value>(geo: Geometry, least: usize) -> usize {
    /// Number of floats of images that stay in the cache.
    const MAX_FLOATS: usize = 160 * 1024;
    if !is_wide(geo) {
        return least;
    }
    let most = (MAX_FLOATS / geo.padded_in::<T>().max(geo.padded_out::<T>())).clamp(least, CHUNK);
    let groups = CHUNK.div_ceil(most);
    CHUNK.div_ceil(groups).next_multiple_of(least)
}

/// The prefetching of what will be read of the next images, little by little while the current ones are
/// computed. A pass reads an image in a burst, and the memory would otherwise be idle between bursts.
#[derive(Clone, Copy)]
struct Prefetcher<const N: usize> {
    streams: [Stream; N],
}

/// A part of the next images that is still to be prefetched.
#[derive(Clone, Copy)]
struct Stream {
    /// The next cache line.
    next: *const u8,
    end: *const u8,
    /// Number of bytes to prefetch for each value stored of the current images, in units of 1/256.
    per_value: usize,
}

impl<const N: usize> Prefetcher<N> {
    /// Prepares to prefetch parts of the next images, `None` where there are none, while `values` values of
    /// the current images are stored.
    #[inline(always)]
    fn new<T>(next: [Option<&[T]>; N], values: usize) -> Self {
        Prefetcher {
            streams: next.map(|part| {
                let part = part.unwrap_or_default();
                let range = part.as_ptr_range();
                let per_value = (size_of_val(part) << 8) / values;
                Stream { next: range.start.cast(), end: range.end.cast(), per_value }
            }),
        }
    }

    /// Advances the prefetching after `values` more values have been stored.
    #[inline(always)]
    fn advance(&mut self, values: usize) {
        for Stream { next, end, per_value } in &mut self.streams {
            let to = next.wrapping_add((values * *per_value) >> 8).min(*end);
            while *next < to {
                prefetch(*next);
                *next = next.wrapping_add(64);
            }
        }
    }
}

/// Arranges weights (taps, rows, columns) for [`tile::correlate`], for one walk per element of `taps`, over
/// that many taps: in panels of [`PANEL`] columns, (panels, the walk's taps, rows, columns of the panel). In
/// bf16, two neighbouring rows of a tap share lanes.
pub(crate) fn panels<T: Value>(weight: &[f32], rows: usize, taps: &[usize], out: &mut [f32]) {
    let all: usize = taps.iter().sum();
    let cols = weight.len() / all / rows;
    assert!(out.len() >= all * T::lanes(rows) * cols);
    let (mut weight, mut out) = (weight, out);
    for &taps in taps.iter().filter(|&&taps| taps > 0) {
        let (walk, other) = weight.split_at(taps * rows * cols);
        let (panels, rest) = out.split_at_mut(taps * T::lanes(rows) * cols);
        let panels = panels.par_chunks_mut(taps * T::lanes(rows) * PANEL).enumerate();
        panels.for_each(|(n, panel)| {
            T::run(FillPanel::<T> { walk, rows, cols, first: n * PANEL, panel, _type: PhantomData });
        });
        (weight, out) = (other, rest);
    }
}

/// The task that fills one of the [`panels`], from column `first` on.
struct FillPanel<'a, T> {
    walk: &'a [f32],
    rows: usize,
    cols: usize,
    first: usize,
    panel: &'a mut [f32],
    _type: PhantomData<T>,
}

impl<T: Value> Task for FillPanel<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = PANEL.min(self.cols - self.first);
        let whole = width / V::LANES * V::LANES;
        let mut lines = self.panel.chunks_exact_mut(width);
        for tap in self.walk.chunks_exact(self.rows * self.cols) {
            for (rows, line) in tap.chunks(T::PACK * self.cols).zip(&mut lines) {
                let (low, high) = rows.split_at(self.cols);
                let columns = self.first..self.first + width;
                let high = high.get(columns.clone()).unwrap_or_default();
                let low = &low[columns];
                // SAFETY: the caller's contract; whole vectors are inside the rows.
                unsafe {
                    for at in (0..whole).step_by(V::LANES) {
                        lane::<V, T>(low, high, line, at);
                    }
                    for at in whole..width {
                        lane::<f32, T>(low, high, line, at);
                    }
                }
            }
        }
    }
}

/// Copies a vector of a row, or packs the vectors of two rows into shared lanes; the second row may be empty.
///
/// # Safety
/// The machine must have the instruction set of `V`; `low`, `line` and, unless it is empty, `high` must hold
/// a whole vector from `at` on.
#[inline(always)]
unsafe fn lane<V: Vector, T: Value>(low: &[f32], high: &[f32], line: &mut [f32], at: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let mut v = V::load(low.as_ptr().add(at));
        if T::PACK == 2 {
            v = V::pair(v, if high.is_empty() { V::splat(0.0) } else { V::load(high.as_ptr().add(at)) });
        }
        v.store(line.as_mut_ptr().add(at));
    }
}

/// Computes the input of one image inside its halo, which stays zero, and copies it to `store` if given.
///
/// # Safety
/// The machine must have the instruction set of `V`.
#[inline(always)]
unsafe fn fill_input<V: Vector, T: Value>(
    geo: Geometry,
    source: &Slices<'_, T>,
    image: usize,
    scratch: &mut [T],
    mut store: Option<&mut [T]>,
) {
    let width = geo.width * geo.cin;
    for row in 0..geo.height {
        let whole = row_of(scratch, row, geo.width, geo.cin, geo.padding());
        let a = &mut whole[..width];
        let at = image * geo.in_len() + row * width;
        match source {
            Input::Plain(x) => a.copy_from_slice(&x.values[at..at + width]),
            Input::Normed { of, shortcut } => {
                let (y, c) = (Values { y: &of.y[at..at + width], ..*of }, geo.cin);
                // SAFETY: the caller's contract; the rows consist of whole pixels.
                unsafe {
                    match shortcut {
                        Shortcut::None => norm_row::<V, T, NOTHING>(y, y, c, a),
                        Shortcut::Identity(x) => {
                            norm_row::<V, T, VALUES>(y, Values { y: &x.values[at..at + width], ..y }, c, a)
                        }
                        Shortcut::Padded(x) => norm_row_padded(c, y, x, (image, row), a),
                        Shortcut::Projected(p) => {
                            norm_row::<V, T, RAW>(y, Values { y: &p.y[at..at + width], ..*p }, c, a)
                        }
                    }
                }
            }
        }
        if let Some(store) = &mut store {
            store[row * width..(row + 1) * width].copy_from_slice(a);
        }
        spread(whole, geo.cin);
    }
}

/// Returns a row of pixels of an image inside a halo of `halo` pixels. The row's values are written to its
/// start, and then moved apart by [`spread`].
#[inline(always)]
fn row_of<T: Value>(scratch: &mut [T], row: usize, width: usize, channels: usize, halo: usize) -> &mut [T] {
    let pixel = T::lanes(channels) * T::PACK;
    &mut scratch[((row + halo) * (width + 2 * halo) + halo) * pixel..][..width * pixel]
}

/// Moves the pixels of a row apart so that each starts in a lane of its own.
#[inline(always)]
fn spread<T: Value>(row: &mut [T], channels: usize) {
    let pixel = T::lanes(channels) * T::PACK;
    if pixel == channels {
        return;
    }
    for n in (0..row.len() / pixel).rev() {
        row.copy_within(n * channels..(n + 1) * channels, n * pixel);
        row[n * pixel + channels..(n + 1) * pixel].fill(T::ZERO);
    }
}

/// Nothing is added to a row before its ReLU.
const NOTHING: u8 = 0;
/// The values of an identity shortcut are added.
const VALUES: u8 = 1;
/// The raw output of a shortcut's projection is added, with its batch norm.
const RAW: u8 = 2;

/// Computes `a = relu(y·scale + shift [+ x [·scale' + shift']])` for a row of pixels.
///
/// # Safety
/// The machine must have the instruction set of `V`, and `a` must consist of whole pixels of `c` values.
#[inline(always)]
unsafe fn norm_row<V: Vector, T: Value, const ADDED: u8>(y: Values<T>, x: Values<T>, c: usize, a: &mut [T]) {
    assert!(y.y.len() == a.len() && y.affine.len() >= 2 * c);
    assert!(ADDED == NOTHING || x.y.len() == a.len());
    assert!(ADDED != RAW || x.affine.len() >= 2 * c);
    let whole = c / V::LANES * V::LANES;
    // SAFETY: the caller's contract; by the assertions, all slices hold the channels from `channel` on.
    unsafe {
        for channel in (0..whole).step_by(V::LANES) {
            norm::<V, T, ADDED>(y, x, c, a, channel);
        }
        for channel in whole..c {
            norm::<f32, T, ADDED>(y, x, c, a, channel);
        }
    }
}

/// Computes one vector of channels of [`norm_row`], for all pixels of the row.
///
/// # Safety
/// The same as for [`norm_row`]; the slices must have the lengths that it asserts, and `channel` must be the
/// first of a whole vector of channels.
#[inline(always)]
unsafe fn norm<V: Vector, T: Value, const ADDED: u8>(
    y: Values<T>,
    x: Values<T>,
    c: usize,
    a: &mut [T],
    channel: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let (scale, shift) =
            (V::load(y.affine.as_ptr().add(channel)), V::load(y.affine.as_ptr().add(c + channel)));
        let (mut x_scale, mut x_shift) = (scale, shift);
        if ADDED == RAW {
            x_scale = V::load(x.affine.as_ptr().add(channel));
            x_shift = V::load(x.affine.as_ptr().add(c + channel));
        }
        for at in (channel..a.len()).step_by(c) {
            let mut v = shift.fma(T::load::<V>(y.y.as_ptr().add(at)), scale);
            if ADDED == VALUES {
                v = v.add(T::load(x.y.as_ptr().add(at)));
            }
            if ADDED == RAW {
                v = v.add(x_shift.fma(T::load::<V>(x.y.as_ptr().add(at)), x_scale));
            }
            T::store(v.relu(), a.as_mut_ptr().add(at));
        }
    }
}

/// Computes `a = relu(y·scale + shift + x)` for a row of an image with a padded shortcut: every second pixel
/// of `x`, with zero channels on both sides.
#[inline(always)]
fn norm_row_padded<T: Value>(
    c: usize,
    Values { y, affine }: Values<T>,
    x: &View<T>,
    (image, row): (usize, usize),
    a: &mut [T],
) {
    let [_, width, narrow] = x.size;
    let before = (c - narrow) / 2;
    let (scale, shift) = affine.split_at(c);
    let x = &x.image(image)[2 * row * width * narrow..];
    for (pixel, (a, y)) in a.chunks_exact_mut(c).zip(y.chunks_exact(c)).enumerate() {
        let x = &x[2 * pixel * narrow..(2 * pixel + 1) * narrow];
        for k in (0..before).chain(before + narrow..c) {
            a[k] = relu(y[k].to_f32() * scale[k] + shift[k]);
        }
        for (k, x) in (before..).zip(x) {
            a[k] = relu(y[k].to_f32() * scale[k] + shift[k] + x.to_f32());
        }
    }
}
