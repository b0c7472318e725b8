//! The forward pass of a chunk of images.

use std::ops::Range;

use super::tile::{Run, Sink, Walk, correlate};
use super::winograd::{self, Two};
use super::{Ahead, fill_input, image_of, images, with_scratch};
use crate::ops::conv::{Geometry, Shortcut, Source};
use crate::ops::simd::{Isa, Task, Vector};
use crate::ops::value::Value;
use crate::ops::{Parts, chunk_range, for_each_chunk};

pub(in crate::ops::conv) struct Forward<'a, T> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Source<&'a [T], &'a [f32]>,
    /// As it is, transformed for [`winograd`], or in pairs.
    pub weight: &'a [f32],
    pub winograd: bool,
    pub out: Parts<'a>,
    pub sums: Parts<'a>,
    pub store: Option<Parts<'a>>,
}

impl<T: Value> Forward<'_, T> {
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
            let work = if self.winograd { winograd::scratch_len(geo, 2, 1) } else { 0 };
            with_scratch(geo.padded_in::<T>() + work, |scratch| {
                T::run(isa, ForwardChunk { op: self, range, out, sums, store, scratch });
            });
        });
    }
}

impl<T: Value> Forward<'_, T> {
    /// What is read of an image.
    #[inline(always)]
    fn ahead(&self, image: usize) -> Ahead<2> {
        let of = |all, len| if image < self.batch { image_of(all, image, len) } else { None };
        let len = self.geo.in_len();
        let parts = match self.source {
            Source::Plain(x) => [of(x, len), None],
            Source::Norm { y, shortcut: Shortcut::None, .. } => [of(y, len), None],
            Source::Norm { y, shortcut: Shortcut::Same(x), .. } => [of(y, len), of(x, len)],
            Source::Norm { y, shortcut: Shortcut::Half(x), .. } => [of(y, len), of(x, 2 * len)],
        };
        Ahead::new(parts, self.geo.out_len())
    }
}

struct ForwardChunk<'a, T> {
    op: &'a Forward<'a, T>,
    range: Range<usize>,
    out: &'a mut [T],
    sums: &'a mut [f32],
    store: Option<&'a mut [T]>,
    scratch: &'a mut [f32],
}

impl<T: Value> Task for ForwardChunk<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector, const WIDE: bool>(mut self) {
        let geo = self.op.geo;
        self.sums.fill(0.0);
        let (a, work) = self.scratch.split_at_mut(geo.padded_in::<T>());
        a.fill(0.0);
        for (n, image) in self.range.enumerate() {
            let at = n * geo.in_len();
            let store = self.store.as_deref_mut().map(|s| &mut s[at..at + geo.in_len()]);
            let out = &mut self.out[n * geo.out_len()..(n + 1) * geo.out_len()];
            let sums = &mut self.sums[n * 2 * geo.cout..(n + 1) * 2 * geo.cout];
            let ahead = self.op.ahead(image + 1);
            let mut sink = Stats { out: out.as_mut_ptr(), sums: sums.as_mut_ptr(), geo, ahead };
            // SAFETY: the scratch holds an image with its halo, the slices are one image each.
            unsafe {
                fill_input::<V, T>(geo, &self.op.source, image, T::unpack(a), store);
                if WIDE && self.op.winograd {
                    let (u, sinks) = (self.op.weight.as_ptr(), std::slice::from_mut(&mut sink));
                    let a = T::unpack(a).as_ptr();
                    winograd::forward::<V, WIDE, T, _, Two, 4, 2>(geo, a, 0, u, work, sinks);
                } else {
                    convolve::<V, WIDE, T, _>(geo, a, self.op.weight, &mut sink);
                }
            }
        }
    }
}

/// The output of one image from its input `a` inside a halo, in lanes, without Winograd.
///
/// # Safety
/// As [`Vector`]; the sink takes all pixels of the output.
#[inline(always)]
pub(crate) unsafe fn convolve<V: Vector, const WIDE: bool, T: Value, S: Sink>(
    geo: Geometry,
    a: &[f32],
    weight: &[f32],
    sink: &mut S,
) {
    let pixel = T::lanes(geo.cin);
    assert!(a.len() >= geo.padded_in::<T>() && weight.len() >= 9 * pixel * geo.cout);
    let row = (geo.width + 2) * pixel;
    // A kernel row is three neighbouring pixels.
    let runs: [Run; 3] = std::array::from_fn(|kh| Run { offset: kh * row, len: 3 * pixel });
    let walk = Walk {
        rows: geo.out_height(),
        cols: geo.out_width(),
        row_step: geo.stride * row,
        col_step: geo.stride * pixel,
        runs: &runs,
    };
    // SAFETY: with its halo the image has every tap of every output pixel.
    unsafe { correlate::<V, WIDE, T, S>(a.as_ptr(), walk, weight.as_ptr(), geo.cout, sink) };
}

/// Stores the output and sums it and its square by channel.
struct Stats<T> {
    out: *mut T,
    sums: *mut f32,
    geo: Geometry,
    ahead: Ahead<2>,
}

impl<T: Value> Sink for Stats<T> {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(
        &mut self,
        acc: [[V; Q]; P],
        row: usize,
        col: usize,
        channel: usize,
    ) {
        self.ahead.go_on(P * Q * V::LANES);
        let cout = self.geo.cout;
        // SAFETY: the trait's contract: the tile is inside the image.
        unsafe {
            let out = self.out.add((row * self.geo.out_width() + col) * cout + channel);
            for q in 0..Q {
                let at = q * V::LANES;
                let (sum, square) = (self.sums.add(channel + at), self.sums.add(cout + channel + at));
                let (mut s, mut s2) = (V::load(sum), V::load(square));
                for (p, pixel) in acc.iter().enumerate() {
                    T::store(pixel[q], out.add(p * cout + at));
                    s = s.add(pixel[q]);
                    s2 = s2.fma(pixel[q], pixel[q]);
                }
                s.store(sum);
                s2.store(square);
            }
        }
    }
}
