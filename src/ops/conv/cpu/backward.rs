//! The gradients of a chunk of images.
//!
//! The weight gradient is summed over the chunk. The input gradient is a correlation of the output gradient with the
//! flipped weights; under stride 2 it is four of them, one for each parity of row and column.

use std::ops::Range;

use super::tile::{Outer, Run, Sink, Walk, correlate, outer};
use super::{fill_input, images, winograd, with_scratch};
use crate::ops::conv::{Geometry, Source};
use crate::ops::simd::{Isa, Task, Vector, run};
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

pub(in crate::ops::conv) struct Backward<'a> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Source<&'a [f32]>,
    /// Of [`flip`], transformed where [`winograd`] is used.
    pub flipped: &'a [f32],
    pub winograd: bool,
    pub dz: &'a [f32],
    pub y: &'a [f32],
    pub coef: &'a [f32],
    pub partial: Parts<'a>,
    pub input: Option<Input<'a>>,
}

#[derive(Clone, Copy)]
pub(in crate::ops::conv) struct Input<'a> {
    pub dz: Parts<'a>,
    pub sums: Parts<'a>,
    pub y: &'a [f32],
    pub half: Option<&'a [f32]>,
    pub in_place: bool,
}

impl Backward<'_> {
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
            let work = if self.winograd { winograd::scratch_len(geo) } else { 0 };
            with_scratch(geo.padded_in() + geo.padded_out() + work, |scratch| {
                run(isa, BackwardChunk { op: self, range, dw, input, scratch });
            });
        });
    }
}

struct BackwardChunk<'a> {
    op: &'a Backward<'a>,
    range: Range<usize>,
    dw: &'a mut [f32],
    input: Option<(&'a mut [f32], &'a mut [f32], Input<'a>)>,
    scratch: &'a mut [f32],
}

impl Task for BackwardChunk<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, const WIDE: bool>(mut self) {
        let geo = self.op.geo;
        let (a, rest) = self.scratch.split_at_mut(geo.padded_in());
        let (g, work) = rest.split_at_mut(geo.padded_out());
        a.fill(0.0);
        g.fill(0.0);
        self.dw.fill(0.0);
        let winograd = WIDE && self.op.winograd;
        if let Some((_, sums, _)) = &mut self.input {
            sums.fill(0.0);
        }
        for (n, image) in self.range.enumerate() {
            // SAFETY: the scratch holds both images with their halos; slices are one image each.
            unsafe {
                fill_input::<V>(geo, &self.op.source, image, a, None);
                fill_grad::<V>(self.op, image, g);
                if winograd {
                    winograd::weight_grad::<V, WIDE>(geo, a.as_ptr(), g.as_ptr(), self.dw.as_mut_ptr(), work);
                } else {
                    weight_grad::<V, WIDE>(geo, a, g, self.dw);
                }
                if let Some((dz, sums, input)) = &mut self.input {
                    let at = image * geo.in_len();
                    let mut sink = Grad {
                        geo,
                        dz: dz[n * geo.in_len()..(n + 1) * geo.in_len()].as_mut_ptr(),
                        a: a.as_ptr(),
                        y: input.y[at..at + geo.in_len()].as_ptr(),
                        sums: sums[n * 2 * geo.cin..(n + 1) * 2 * geo.cin].as_mut_ptr(),
                        in_place: input.in_place,
                        half: input.half.map(|h| h[image * geo.in_len() / 2..][..geo.in_len() / 2].as_ptr()),
                        parity: (0, 0),
                    };
                    if winograd {
                        let back = Geometry { cin: geo.cout, cout: geo.cin, ..geo };
                        let u = self.op.flipped.as_ptr();
                        winograd::forward::<V, WIDE, _>(back, g.as_ptr(), u, work, &mut sink);
                    } else {
                        input_grad::<V, WIDE>(geo, g, self.op.flipped, &mut sink);
                    }
                }
            }
        }
    }
}

/// `g = c1·dz + c2·y + c3` inside the halo of one image.
#[inline(always)]
unsafe fn fill_grad<V: Vector>(op: &Backward, image: usize, g: &mut [f32]) {
    let (c, width) = (op.geo.cout, op.geo.out_width() * op.geo.cout);
    let whole = c / V::LANES * V::LANES;
    assert!(op.coef.len() >= 3 * c);
    for row in 0..op.geo.out_height() {
        let start = (row + 1) * (op.geo.out_width() + 2) * c + c;
        let g = &mut g[start..start + width];
        let at = image * op.geo.out_len() + row * width;
        let (dz, y) = (&op.dz[at..at + width], &op.y[at..at + width]);
        for pixel in (0..width).step_by(c) {
            // SAFETY: inside the row and inside the three rows of coefficients.
            unsafe {
                for channel in (0..whole).step_by(V::LANES) {
                    grad::<V>(op.coef, c, dz, y, g, pixel, channel);
                }
                for channel in whole..c {
                    grad::<f32>(op.coef, c, dz, y, g, pixel, channel);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn grad<V: Vector>(
    coef: &[f32],
    c: usize,
    dz: &[f32],
    y: &[f32],
    g: &mut [f32],
    pixel: usize,
    channel: usize,
) {
    let at = pixel + channel;
    // SAFETY: the contract of `fill_grad`.
    unsafe {
        let coef = |row: usize| V::load(coef.as_ptr().add(row * c + channel));
        let sum = coef(2).fma(coef(0), V::load(dz.as_ptr().add(at)));
        sum.fma(coef(1), V::load(y.as_ptr().add(at))).store(g.as_mut_ptr().add(at));
    }
}

/// Adds one image's weight gradient, some rows at a time so that they stay in the first-level cache.
#[inline(always)]
unsafe fn weight_grad<V: Vector, const WIDE: bool>(geo: Geometry, a: &[f32], g: &[f32], dw: &mut [f32]) {
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
            unsafe { outer::<V, WIDE>(size, a.as_ptr(), g.as_ptr(), dw.as_mut_ptr()) };
        }
    }
}

#[inline(always)]
unsafe fn input_grad<V: Vector, const WIDE: bool>(
    geo: Geometry,
    g: &[f32],
    flipped: &[f32],
    sink: &mut Grad,
) {
    let row = (geo.out_width() + 2) * geo.cout;
    if geo.stride == 1 {
        let runs: [Run; 3] = std::array::from_fn(|kh| Run { offset: kh * row, len: 3 * geo.cout });
        let walk = Walk { rows: geo.height, cols: geo.width, row_step: row, col_step: geo.cout, runs: &runs };
        // SAFETY: `g` has a halo, so every tap of every pixel is inside it.
        unsafe { correlate::<V, WIDE, _>(g.as_ptr(), walk, flipped.as_ptr(), geo.cin, sink) };
        return;
    }
    let mut weights = flipped;
    for (a, b) in PARITIES {
        let (rows, cols) = (taps_of(a).len(), taps_of(b).len());
        let runs: [Run; 2] = std::array::from_fn(|r| Run { offset: r * row, len: cols * geo.cout });
        let walk = Walk {
            rows: (geo.height + 1 - a) / 2,
            cols: (geo.width + 1 - b) / 2,
            row_step: row,
            col_step: geo.cout,
            runs: &runs[..rows],
        };
        sink.parity = (a, b);
        // SAFETY: the last odd row and column meet the halo of `g`.
        unsafe {
            let first = g.as_ptr().add(row + geo.cout);
            correlate::<V, WIDE, _>(first, walk, weights.as_ptr(), geo.cin, sink);
        }
        weights = &weights[rows * cols * geo.cout * geo.cin..];
    }
}

/// Finishes an input gradient: adds the shortcut's, masks by the ReLU, stores, sums.
struct Grad {
    geo: Geometry,
    dz: *mut f32,
    a: *const f32,
    y: *const f32,
    sums: *mut f32,
    in_place: bool,
    half: Option<*const f32>,
    parity: (usize, usize),
}

impl Sink for Grad {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(
        &mut self,
        acc: [[V; Q]; P],
        row: usize,
        col: usize,
        channel: usize,
    ) {
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
                        dx = dx.add(V::load(self.dz.add(at)));
                    }
                    if let Some(half) = self.half
                        && self.parity == (0, 0)
                    {
                        // Channels cin/2.. of the 2·cin of the half-size image are this image's.
                        let place = (row / 2 * (width / 2) + col / 2) * 2 * cin + cin / 2 + channel;
                        dx = dx.add(V::load(half.add(place)));
                    }
                    let a = self.a.add(((row + 1) * (width + 2) + col + 1) * cin + channel);
                    let dz = dx.where_positive(V::load(a));
                    dz.store(self.dz.add(at));
                    s = s.add(dz);
                    sy = sy.fma(dz, V::load(self.y.add(at)));
                }
                s.store(sum);
                sy.store(product);
            }
        }
    }
}
