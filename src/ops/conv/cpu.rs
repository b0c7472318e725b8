//! The convolution on the CPU: what a thread does with a chunk of images. The inner loops are in [`super::tile`].

use std::cell::RefCell;
use std::ops::Range;

use super::tile::{Outer, Run, Sink, Walk, correlate, outer};
use super::{Geometry, Shortcut, Source, scratch_len};
use crate::ops::simd::{Isa, Task, Vector, run};
use crate::ops::{Parts, chunk_range, for_each_chunk};

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

pub(super) struct Forward<'a> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Source<&'a [f32]>,
    pub weight: &'a [f32],
    pub out: Parts<'a>,
    pub sums: Parts<'a>,
    pub store: Option<Parts<'a>>,
}

impl Forward<'_> {
    pub fn run(&self, isa: Isa) {
        let geo = self.geo;
        for_each_chunk(self.batch, |chunk| {
            let range = chunk_range(chunk, self.batch);
            // SAFETY: chunks do not overlap.
            let (out, sums, store) = unsafe {
                (
                    self.out.part(images(&range, geo.out_len())),
                    self.sums.part(images(&range, 2 * geo.cout)),
                    self.store.map(|s| s.part(images(&range, geo.in_len()))),
                )
            };
            with_scratch(geo.padded_in(), |scratch| {
                run(isa, ForwardChunk { op: self, range, out, sums, store, scratch });
            });
        });
    }
}

struct ForwardChunk<'a> {
    op: &'a Forward<'a>,
    range: Range<usize>,
    out: &'a mut [f32],
    sums: &'a mut [f32],
    store: Option<&'a mut [f32]>,
    scratch: &'a mut [f32],
}

impl Task for ForwardChunk<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, const WIDE: bool>(mut self) {
        let geo = self.op.geo;
        let runs = forward_runs(geo);
        let walk = Walk {
            rows: geo.out_height(),
            cols: geo.out_width(),
            row_step: geo.stride * (geo.width + 2) * geo.cin,
            col_step: geo.stride * geo.cin,
            runs: &runs,
        };
        self.sums.fill(0.0);
        self.scratch.fill(0.0);
        for (n, image) in self.range.enumerate() {
            let at = n * geo.in_len();
            let store = self.store.as_deref_mut().map(|s| &mut s[at..at + geo.in_len()]);
            let out = &mut self.out[n * geo.out_len()..(n + 1) * geo.out_len()];
            let sums = &mut self.sums[n * 2 * geo.cout..(n + 1) * 2 * geo.cout];
            let mut sink = Stats { out: out.as_mut_ptr(), sums: sums.as_mut_ptr(), geo };
            // SAFETY: the scratch holds an image with its halo, the slices are one image each.
            unsafe {
                fill_input::<V>(geo, &self.op.source, image, self.scratch, store);
                correlate::<V, WIDE, _>(
                    self.scratch.as_ptr(),
                    walk,
                    self.op.weight.as_ptr(),
                    geo.cout,
                    &mut sink,
                );
            }
        }
    }
}

/// The three kernel rows of the forward pass: each is three neighbouring pixels.
fn forward_runs(geo: Geometry) -> [Run; 3] {
    std::array::from_fn(|kh| Run { offset: kh * (geo.width + 2) * geo.cin, len: 3 * geo.cin })
}

/// Stores the output and sums it and its square by channel.
struct Stats {
    out: *mut f32,
    sums: *mut f32,
    geo: Geometry,
}

impl Sink for Stats {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(
        &mut self,
        acc: [[V; Q]; P],
        row: usize,
        col: usize,
        channel: usize,
    ) {
        let cout = self.geo.cout;
        // SAFETY: the trait's contract: the tile is inside the image.
        unsafe {
            let out = self.out.add((row * self.geo.out_width() + col) * cout + channel);
            for q in 0..Q {
                let at = q * V::LANES;
                let (sum, square) = (self.sums.add(channel + at), self.sums.add(cout + channel + at));
                let (mut s, mut s2) = (V::load(sum), V::load(square));
                for (p, pixel) in acc.iter().enumerate() {
                    pixel[q].store(out.add(p * cout + at));
                    s = s.add(pixel[q]);
                    s2 = s2.fma(pixel[q], pixel[q]);
                }
                s.store(sum);
                s2.store(square);
            }
        }
    }
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
                        Shortcut::Half(x) => {
                            norm_row_half(geo, y, affine, &half_row(geo, x, image, row)[..], a)
                        }
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
fn half_row<'a>(geo: Geometry, x: &'a [f32], image: usize, row: usize) -> &'a [f32] {
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

/// Weights of the input gradient, in the order of [`backward_runs`].
pub(super) fn flip(geo: Geometry, weight: &[f32], flipped: &mut [f32]) {
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

pub(super) struct Backward<'a> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Source<&'a [f32]>,
    pub flipped: &'a [f32],
    pub dz: &'a [f32],
    pub y: &'a [f32],
    pub coef: &'a [f32],
    pub partial: Parts<'a>,
    pub input: Option<Input<'a>>,
}

#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
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
            // SAFETY: chunks do not overlap.
            let dw = unsafe { self.partial.part(chunk * geo.weight_len()..(chunk + 1) * geo.weight_len()) };
            let input = self.input.map(|i| {
                // SAFETY: chunks do not overlap.
                unsafe {
                    (i.dz.part(images(&range, geo.in_len())), i.sums.part(images(&range, 2 * geo.cin)), i)
                }
            });
            with_scratch(scratch_len(geo), |scratch| {
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
        self.scratch.fill(0.0);
        self.dw.fill(0.0);
        let (a, g) = self.scratch.split_at_mut(geo.padded_in());
        if let Some((_, sums, _)) = &mut self.input {
            sums.fill(0.0);
        }
        for (n, image) in self.range.enumerate() {
            // SAFETY: the scratch holds both images with their halos; slices are one image each.
            unsafe {
                fill_input::<V>(geo, &self.op.source, image, a, None);
                fill_grad::<V>(self.op, image, g);
                weight_grad::<V, WIDE>(geo, a, g, self.dw);
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
                    input_grad::<V, WIDE>(geo, g, self.op.flipped, &mut sink);
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
