//! The gradients of a chunk of images.
//!
//! The weight gradient is summed over the chunk. The input gradient is a correlation of the output gradient with the
//! flipped weights; under stride 2 it is four of them, one for each parity of row and column.

use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;

use super::tile::{Outer, Run, Sink, Walk, correlate, outer};
use super::winograd::{self, Two};
use super::{Ahead, fill_input, image_of, images, row_of, spread, with_scratch};
use crate::ops::conv::{Geometry, Source};
use crate::ops::simd::{Isa, Task, Vector};
use crate::ops::value::Value;
use crate::ops::{Parts, chunk_range, for_each_chunk};

/// Floats of a weight gradient while it is summed.
pub(in crate::ops::conv) fn grad_len(geo: Geometry, winograd: bool) -> usize {
    if winograd { geo.weight_len() / 9 * 16 } else { geo.weight_len() }
}

/// Weights of the input gradient, in the order in which [`input_grad`] meets them.
pub(in crate::ops::conv) fn flip(geo: Geometry, weight: &[f32], flipped: &mut [f32]) {
    let (cin, cout) = (geo.cin, geo.cout);
    let mut rows = flipped.chunks_exact_mut(cin);
    let mut tap = |kh: usize, kw: usize| {
        let tap = &weight[(kh * 3 + kw) * cin * cout..][..cin * cout];
        for co in 0..cout {
            if let Some(row) = rows.next() {
                for (ci, w) in row.iter_mut().enumerate() {
                    *w = tap[ci * cout + co];
                }
            }
        }
    };
    if geo.stride == 1 {
        (0..9).for_each(|k| tap(2 - k / 3, 2 - k % 3));
    } else {
        for (a, b) in PARITIES {
            for &kh in taps_of(a) {
                taps_of(b).iter().for_each(|&kw| tap(kh, kw));
            }
        }
    }
}

/// Even and odd rows and columns of an input gradient under stride 2.
const PARITIES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// `y[i] = Σ_k x[2i + k − 1] w[k]`, so an even `x` meets the middle tap and an odd one the last of `y[i]`, the first of `y[i + 1]`.
fn taps_of(parity: usize) -> &'static [usize] {
    if parity == 0 { &[1] } else { &[2, 0] }
}

pub(in crate::ops::conv) struct Backward<'a, T> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Source<&'a [T], &'a [f32]>,
    /// Of [`flip`], transformed for [`winograd`], or in pairs.
    pub flipped: &'a [f32],
    pub winograd: bool,
    pub dz: &'a [T],
    pub y: &'a [T],
    pub coef: &'a [f32],
    pub partial: Parts<'a>,
    pub input: Option<Input<'a, T>>,
}

#[derive(Clone, Copy)]
pub(in crate::ops::conv) struct Input<'a, T> {
    pub dz: Parts<'a>,
    pub sums: Parts<'a>,
    pub y: &'a [T],
    pub half: Option<&'a [T]>,
    pub in_place: bool,
}

impl<T: Value> Backward<'_, T> {
    pub fn run(&self, isa: Isa) {
        let geo = self.geo;
        for_each_chunk(self.batch, |chunk| {
            let range = chunk_range(chunk, self.batch);
            let len = grad_len(geo, self.winograd);
            // SAFETY: chunks do not overlap.
            let dw = unsafe { self.partial.part(chunk * len..(chunk + 1) * len) };
            let input = self.input.map(|i| {
                // SAFETY: chunks do not overlap.
                unsafe {
                    (i.dz.part(images(&range, geo.in_len())), i.sums.part(images(&range, 2 * geo.cin)), i)
                }
            });
            let work =
                if self.winograd { winograd::scratch_len(geo, 2, 1) } else { Space::<T>::paired_len(geo) };
            let len = T::PACK * (geo.padded_in::<T>() + geo.padded_out::<T>()) + work;
            with_scratch(len, |scratch| {
                T::run(isa, BackwardChunk { op: self, range, dw, input, scratch });
            });
        });
    }
}

impl<T: Value> Backward<'_, T> {
    /// What is read of an image whose own part of the input's gradient is `dz`.
    #[inline(always)]
    fn ahead(&self, image: usize, input: &Input<T>, dz: Option<&[T]>) -> Ahead<5> {
        let of = |all, len| if image < self.batch { image_of(all, image, len) } else { None };
        let (in_len, out_len) = (self.geo.in_len(), self.geo.out_len());
        let source = match self.source {
            Source::Plain(x) => x,
            Source::Norm { y, .. } => y,
        };
        let y = if std::ptr::eq(source, input.y) { None } else { of(input.y, in_len) };
        let dz = if input.in_place { dz } else { None };
        Ahead::new([of(source, in_len), of(self.dz, out_len), of(self.y, out_len), y, dz], in_len)
    }
}

struct BackwardChunk<'a, T> {
    op: &'a Backward<'a, T>,
    range: Range<usize>,
    dw: &'a mut [f32],
    input: Option<(&'a mut [T], &'a mut [f32], Input<'a, T>)>,
    scratch: &'a mut [f32],
}

impl<T: Value> Task for BackwardChunk<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector, const WIDE: bool>(mut self) {
        let geo = self.op.geo;
        let mut space = Space::<T>::new(geo, self.scratch);
        self.dw.fill(0.0);
        if let Some((_, sums, _)) = &mut self.input {
            sums.fill(0.0);
        }
        let winograd = WIDE && self.op.winograd;
        // As many images at a time as share a lane in the weight gradient.
        let together = if winograd { 1 } else { T::PACK };
        for first in self.range.clone().step_by(together) {
            // SAFETY: the scratch holds the images with their halos; slices are one image each.
            unsafe {
                for m in 0..together {
                    let (a, g, _) = space.image(m);
                    if first + m < self.range.end {
                        fill_input::<V, T>(geo, &self.op.source, first + m, T::unpack(a), None);
                        fill_grad::<V, T>(self.op, first + m, T::unpack(g));
                    } else {
                        a.fill(0.0);
                        g.fill(0.0);
                    }
                }
                if winograd {
                    let (a, g, work) = space.image(0);
                    let (a, g, dw) = (T::unpack(a).as_ptr(), T::unpack(g).as_ptr(), self.dw.as_mut_ptr());
                    winograd::weight_grad::<V, WIDE, T>(geo, a, g, dw, work);
                } else {
                    let (a, g) = space.paired::<V>();
                    weight_grad::<V, WIDE, T>(geo, a, g, self.dw);
                }
                let Some((dz, sums, input)) = &mut self.input else { continue };
                for image in first..self.range.end.min(first + together) {
                    let (a, g, work) = space.image(image - first);
                    let (n, at) = (image - self.range.start, image * geo.in_len());
                    let next = image_of(dz, n + together, geo.in_len());
                    let ahead = self.op.ahead(image + together, input, next);
                    let mut sink = Grad {
                        geo,
                        dz: dz[n * geo.in_len()..(n + 1) * geo.in_len()].as_mut_ptr(),
                        a: T::unpack(a).as_ptr(),
                        y: input.y[at..at + geo.in_len()].as_ptr(),
                        sums: sums[n * 2 * geo.cin..(n + 1) * 2 * geo.cin].as_mut_ptr(),
                        in_place: input.in_place,
                        half: input.half.map(|h| h[image * geo.in_len() / 2..][..geo.in_len() / 2].as_ptr()),
                        parity: (0, 0),
                        ahead,
                    };
                    if winograd {
                        let back = Geometry { cin: geo.cout, cout: geo.cin, ..geo };
                        let (u, g) = (self.op.flipped.as_ptr(), T::unpack(g).as_ptr());
                        let sinks = std::slice::from_mut(&mut sink);
                        winograd::forward::<V, WIDE, T, _, Two, 4, 2>(back, g, 0, u, work, sinks);
                    } else {
                        input_grad::<V, WIDE, T>(geo, g, self.op.flipped, &mut sink);
                    }
                }
            }
        }
    }
}

/// The scratch memory of a thread: inputs and output gradients of [`Value::PACK`] images inside their halos, and work space.
struct Space<'a, T> {
    geo: Geometry,
    a: &'a mut [f32],
    g: &'a mut [f32],
    work: &'a mut [f32],
    _type: PhantomData<T>,
}

impl<'a, T: Value> Space<'a, T> {
    #[inline(always)]
    fn new(geo: Geometry, scratch: &'a mut [f32]) -> Self {
        let (a, rest) = scratch.split_at_mut(T::PACK * geo.padded_in::<T>());
        let (g, work) = rest.split_at_mut(T::PACK * geo.padded_out::<T>());
        a.fill(0.0);
        g.fill(0.0);
        Space { geo, a, g, work, _type: PhantomData }
    }

    /// Lanes of work space for [`Space::paired`].
    fn paired_len(geo: Geometry) -> usize {
        if T::PACK == 1 { 0 } else { geo.padded_in::<f32>() + geo.padded_out::<f32>() }
    }

    /// Input and gradient of one of the images, and work space.
    #[inline(always)]
    fn image(&mut self, n: usize) -> (&mut [f32], &mut [f32], &mut [f32]) {
        let (a, g) = (self.geo.padded_in::<T>(), self.geo.padded_out::<T>());
        (&mut self.a[n * a..(n + 1) * a], &mut self.g[n * g..(n + 1) * g], self.work)
    }

    /// Inputs and gradients with one value of each image in a lane, as [`outer`] takes them.
    #[inline(always)]
    unsafe fn paired<V: Vector>(&mut self) -> (&[f32], &[f32]) {
        if T::PACK == 1 {
            return (self.a, self.g);
        }
        let (a, g) = self.work.split_at_mut(self.geo.padded_in::<f32>());
        // SAFETY: the caller is inside a task.
        unsafe {
            interleave::<V>(bf16::unpack(self.a), self.geo.cin, bf16::unpack(a));
            interleave::<V>(bf16::unpack(self.g), self.geo.cout, bf16::unpack(g));
        }
        (a, g)
    }
}

/// Puts the values of two images side by side, without what fills up a pixel's last lane.
#[inline(always)]
unsafe fn interleave<V: Vector>(images: &[bf16], channels: usize, out: &mut [bf16]) {
    let pixel = bf16::lanes(channels) * bf16::PACK;
    let (first, second) = images.split_at(images.len() / 2);
    // All pixels at once where they are neighbours.
    let run = if pixel == channels { first.len() } else { channels };
    let step = run.max(pixel);
    let runs = first.chunks_exact(step).zip(second.chunks_exact(step));
    for ((first, second), out) in runs.zip(out.chunks_exact_mut(2 * run)) {
        let whole = run / (2 * V::LANES) * 2 * V::LANES;
        for at in (0..whole).step_by(2 * V::LANES) {
            // SAFETY: inside the runs.
            unsafe {
                V::side_by_side(first.as_ptr().add(at), second.as_ptr().add(at), out.as_mut_ptr().add(2 * at))
            };
        }
        for at in whole..run {
            (out[2 * at], out[2 * at + 1]) = (first[at], second[at]);
        }
    }
}

/// `g = c1·dz + c2·y + c3` inside the halo of one image.
#[inline(always)]
unsafe fn fill_grad<V: Vector, T: Value>(op: &Backward<T>, image: usize, g: &mut [T]) {
    let (c, width) = (op.geo.cout, op.geo.out_width() * op.geo.cout);
    let whole = c / V::LANES * V::LANES;
    assert!(op.coef.len() >= 3 * c);
    for row in 0..op.geo.out_height() {
        let all = row_of(g, row, op.geo.out_width(), c);
        let g = &mut all[..width];
        let at = image * op.geo.out_len() + row * width;
        let (dz, y) = (&op.dz[at..at + width], &op.y[at..at + width]);
        // SAFETY: inside the row and inside the three rows of coefficients.
        unsafe {
            for channel in (0..whole).step_by(V::LANES) {
                grad::<V, T>(op.coef, c, dz, y, g, channel);
            }
            for channel in whole..c {
                grad::<f32, T>(op.coef, c, dz, y, g, channel);
            }
        }
        spread(all, c);
    }
}

/// Some channels of all pixels of a row.
#[inline(always)]
unsafe fn grad<V: Vector, T: Value>(coef: &[f32], c: usize, dz: &[T], y: &[T], g: &mut [T], channel: usize) {
    // SAFETY: the contract of `fill_grad`.
    unsafe {
        let coef = coef.as_ptr().add(channel);
        let (c1, c2, c3) = (V::load(coef), V::load(coef.add(c)), V::load(coef.add(2 * c)));
        for at in (channel..g.len()).step_by(c) {
            let sum = c3.fma(c1, T::load(dz.as_ptr().add(at))).fma(c2, T::load(y.as_ptr().add(at)));
            T::store(sum, g.as_mut_ptr().add(at));
        }
    }
}

/// Adds the weight gradient of [`Value::PACK`] images, some rows at a time so that they stay in the first-level cache.
#[inline(always)]
unsafe fn weight_grad<V: Vector, const WIDE: bool, T: Value>(
    geo: Geometry,
    a: &[f32],
    g: &[f32],
    dw: &mut [f32],
) {
    const CACHE: usize = 6 * 1024;
    let (a_row, g_row) = ((geo.width + 2) * geo.cin, (geo.out_width() + 2) * geo.cout);
    let block = (CACHE / (geo.stride * a_row + g_row)).clamp(1, geo.out_height());
    for first in (0..geo.out_height()).step_by(block) {
        let size = Outer {
            rows: block.min(geo.out_height() - first),
            cols: geo.out_width(),
            x_row: geo.stride * a_row,
            x_col: geo.stride * geo.cin,
            g_row,
            taps: 3 * geo.cin,
            cout: geo.cout,
        };
        for kh in 0..3 {
            let a = &a[(first * geo.stride + kh) * a_row..];
            let g = &g[(first + 1) * g_row + geo.cout..];
            let dw = &mut dw[kh * size.taps * geo.cout..];
            // SAFETY: rows `first..first + rows` of the output and the taps that they meet are inside the halos.
            unsafe { outer::<V, WIDE, T>(size, a.as_ptr(), g.as_ptr(), dw.as_mut_ptr()) };
        }
    }
}

#[inline(always)]
unsafe fn input_grad<V: Vector, const WIDE: bool, T: Value>(
    geo: Geometry,
    g: &[f32],
    flipped: &[f32],
    sink: &mut Grad<T>,
) {
    let pixel = T::lanes(geo.cout);
    let row = (geo.out_width() + 2) * pixel;
    if geo.stride == 1 {
        let runs: [Run; 3] = std::array::from_fn(|kh| Run { offset: kh * row, len: 3 * pixel });
        let walk = Walk { rows: geo.height, cols: geo.width, row_step: row, col_step: pixel, runs: &runs };
        // SAFETY: `g` has a halo, so every tap of every pixel is inside it.
        unsafe { correlate::<V, WIDE, T, _>(g.as_ptr(), walk, flipped.as_ptr(), geo.cin, sink) };
        return;
    }
    let mut weights = flipped;
    for (a, b) in PARITIES {
        let (rows, cols) = (taps_of(a).len(), taps_of(b).len());
        let runs: [Run; 2] = std::array::from_fn(|r| Run { offset: r * row, len: cols * pixel });
        let walk = Walk {
            rows: (geo.height + 1 - a) / 2,
            cols: (geo.width + 1 - b) / 2,
            row_step: row,
            col_step: pixel,
            runs: &runs[..rows],
        };
        sink.parity = (a, b);
        // SAFETY: the last odd row and column meet the halo of `g`.
        unsafe {
            let first = g.as_ptr().add(row + pixel);
            correlate::<V, WIDE, T, _>(first, walk, weights.as_ptr(), geo.cin, sink);
        }
        weights = &weights[rows * cols * pixel * geo.cin..];
    }
}

/// Finishes an input gradient: adds the shortcut's, masks by the ReLU, stores, sums.
struct Grad<T> {
    geo: Geometry,
    dz: *mut T,
    a: *const T,
    y: *const T,
    sums: *mut f32,
    in_place: bool,
    half: Option<*const T>,
    parity: (usize, usize),
    ahead: Ahead<5>,
}

impl<T: Value> Sink for Grad<T> {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(
        &mut self,
        acc: [[V; Q]; P],
        row: usize,
        col: usize,
        channel: usize,
    ) {
        self.ahead.go_on(P * Q * V::LANES);
        let Geometry { width, cin, stride, .. } = self.geo;
        let row = row * stride + self.parity.0;
        // SAFETY: the trait's contract: the tile is inside the image.
        unsafe {
            for q in 0..Q {
                let channel = channel + q * V::LANES;
                let (sum, product) = (self.sums.add(channel), self.sums.add(cin + channel));
                let (mut s, mut sy) = (V::load(sum), V::load(product));
                for (p, pixel) in acc.iter().enumerate() {
                    let col = (col + p) * stride + self.parity.1;
                    let at = (row * width + col) * cin + channel;
                    let mut dx = pixel[q];
                    if self.in_place {
                        dx = dx.add(T::load(self.dz.add(at)));
                    }
                    if let Some(half) = self.half
                        && self.parity == (0, 0)
                    {
                        // Channels cin/2.. of the 2·cin of the half-size image are this image's.
                        let place = (row / 2 * (width / 2) + col / 2) * 2 * cin + cin / 2 + channel;
                        dx = dx.add(T::load(half.add(place)));
                    }
                    let pixel = (row + 1) * (width + 2) + col + 1;
                    let a = self.a.add(pixel * T::lanes(cin) * T::PACK + channel);
                    let dz = dx.where_positive(T::load(a));
                    T::store(dz, self.dz.add(at));
                    s = s.add(dz);
                    sy = sy.fma(dz, T::load(self.y.add(at)));
                }
                s.store(sum);
                sy.store(product);
            }
        }
    }
}
