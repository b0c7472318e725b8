//! The forward pass of a chunk of images.

use std::ops::Range;

use super::tile::{Run, Sink, Walk, correlate};
use super::{fill_input, images, with_scratch};
use crate::ops::conv::{Geometry, Source};
use crate::ops::simd::{Isa, Task, Vector, run};
use crate::ops::{Parts, chunk_range, for_each_chunk};

pub(in crate::ops::conv) struct Forward<'a> {
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
