//! The forward pass of a chunk of images.

use std::ops::Range;

use super::tile::{Run, Sink, Walk, correlate};
use super::{fill_input, images, winograd, with_scratch};
use crate::ops::conv::{Geometry, Source};
use crate::ops::simd::{Isa, Task, Vector, run};
use crate::ops::{Parts, chunk_range, for_each_chunk};

pub(in crate::ops::conv) struct Forward<'a> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Source<&'a [f32]>,
    /// As it is, or transformed for [`winograd`].
    pub weight: &'a [f32],
    pub winograd: bool,
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
            let work = if self.winograd { winograd::scratch_len(geo) } else { 0 };
            with_scratch(geo.padded_in() + work, |scratch| {
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
        self.sums.fill(0.0);
        let (a, work) = self.scratch.split_at_mut(geo.padded_in());
        a.fill(0.0);
        for (n, image) in self.range.enumerate() {
            let at = n * geo.in_len();
            let store = self.store.as_deref_mut().map(|s| &mut s[at..at + geo.in_len()]);
            let out = &mut self.out[n * geo.out_len()..(n + 1) * geo.out_len()];
            let sums = &mut self.sums[n * 2 * geo.cout..(n + 1) * 2 * geo.cout];
            let mut sink = Stats { out: out.as_mut_ptr(), sums: sums.as_mut_ptr(), geo };
            // SAFETY: the scratch holds an image with its halo, the slices are one image each.
            unsafe {
                let work = &mut *work;
                fill_input::<V>(geo, &self.op.source, image, a, store);
                convolve::<V, WIDE, _>(geo, a, self.op.weight, self.op.winograd.then_some(work), &mut sink);
            }
        }
    }
}

/// The output of one image from its input `a` inside a halo. With `winograd`'s work space the weight is transformed.
///
/// # Safety
/// As [`Vector`]; the sink takes all pixels of the output.
#[inline(always)]
pub(crate) unsafe fn convolve<V: Vector, const WIDE: bool, S: Sink>(
    geo: Geometry,
    a: &[f32],
    weight: &[f32],
    winograd: Option<&mut [f32]>,
    sink: &mut S,
) {
    if let Some(work) = winograd
        && WIDE
    {
        assert!(a.len() >= geo.padded_in() && weight.len() >= 16 * geo.cin * geo.cout);
        // SAFETY: the lengths were checked.
        unsafe { winograd::forward::<V, WIDE, S>(geo, a.as_ptr(), weight.as_ptr(), work, sink) };
        return;
    }
    assert!(a.len() >= geo.padded_in() && weight.len() >= geo.weight_len());
    let row = (geo.width + 2) * geo.cin;
    // A kernel row is three neighbouring pixels.
    let runs: [Run; 3] = std::array::from_fn(|kh| Run { offset: kh * row, len: 3 * geo.cin });
    let walk = Walk {
        rows: geo.out_height(),
        cols: geo.out_width(),
        row_step: geo.stride * row,
        col_step: geo.stride * geo.cin,
        runs: &runs,
    };
    // SAFETY: with its halo the image has every tap of every output pixel.
    unsafe { correlate::<V, WIDE, S>(a.as_ptr(), walk, weight.as_ptr(), geo.cout, sink) };
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
