//! The forward pass of a chunk of images, and the convolutions that it shares with the input gradient.

use std::marker::PhantomData;
use std::ops::Range;

use super::tile::correlate;
use super::walk::{Pixel, Run, Sink, Walk};
use super::winograd::{self, F2x2};
use super::{Prefetcher, fill_input, together, with_scratch};
use crate::backend::cpu::source::Slices;
use crate::backend::cpu::{chunk_range, for_each_chunk, images};
use crate::backend::{Input, Shortcut};
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Task, Vector, finish};
use crate::tensor::Parts;

pub(in crate::backend::cpu::conv) struct Forward<'a, T> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Slices<'a, T>,
    /// The weights: unchanged, transformed for [`winograd`], or in panels.
    pub weight: &'a [f32],
    pub winograd: bool,
    pub out: Parts<'a>,
    pub sums: Parts<'a>,
    pub store: Option<Parts<'a>>,
}

impl<T: Value> Forward<'_, T> {
    pub fn run(&self) {
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
            let together = self.together();
            let work = if self.winograd { winograd::scratch_len::<F2x2, 4, 2>(geo, together) } else { 0 };
            let len = together * geo.padded_in::<T>() + work;
            with_scratch(len, |scratch| self.chunk(range, out, sums, store, scratch));
        });
    }

    /// Computes the outputs of a chunk of images. The steps are tasks of their own because LLVM's time grows
    /// much faster than the size of a function.
    fn chunk(
        &self,
        chunk: Range<usize>,
        out: &mut [T],
        sums: &mut [f32],
        mut store: Option<&mut [T]>,
        scratch: &mut [f32],
    ) {
        let geo = self.geo;
        sums.fill(0.0);
        let together = self.together();
        let (a, work) = scratch.split_at_mut(together * geo.padded_in::<T>());
        a.fill(0.0);
        for first in chunk.clone().step_by(together) {
            let range = first..chunk.end.min(first + together);
            let (n, count) = (first - chunk.start, range.len());
            let store = store.as_deref_mut().map(|s| &mut s[images(&(n..n + count), geo.in_len())]);
            T::run(Fill { op: self, range: range.clone(), a, store });
            let sink = Stats {
                out: out[n * geo.out_len()..].as_mut_ptr(),
                sums: sums[n * 2 * geo.cout..].as_mut_ptr(),
                geo,
                ahead: self.ahead(range.end..range.end + count),
            };
            let weight = self.weight;
            if self.winograd {
                T::run(Winograd { geo, images: count, x: T::unpack(a), weight, work, sink });
            } else {
                T::run(Direct::<T, _> { geo, images: count, x: a, weight, sink, _type: PhantomData });
            }
        }
        finish();
    }
}

impl<'a, T: Value> Forward<'a, T> {
    /// Returns the number of images that go through together.
    fn together(&self) -> usize {
        together::<T>(self.geo, 1)
    }

    /// Prepares to prefetch what is read of the images in `range`, as far as the batch has them, while as
    /// many images are computed.
    #[inline(always)]
    fn ahead(&self, range: Range<usize>) -> Prefetcher<2> {
        let count = range.len();
        let range = range.start..range.end.min(self.batch);
        let of = |all: &'a [T], len| all.get(images(&range, len));
        let len = self.geo.in_len();
        let parts = match self.source {
            Input::Plain(x) => [of(x.values, len), None],
            Input::Normed { of: raw, shortcut } => {
                let added = match shortcut {
                    Shortcut::None => None,
                    Shortcut::Identity(x) | Shortcut::Padded(x) => of(x.values, x.image_len()),
                    Shortcut::Projected(raw) => of(raw.y, len),
                };
                [of(raw.y, len), added]
            }
        };
        Prefetcher::new(parts, count * self.geo.out_len())
    }
}

/// The task that computes the inputs of some images inside their halos, and copies them to `store` if given.
struct Fill<'a, T> {
    op: &'a Forward<'a, T>,
    range: Range<usize>,
    a: &'a mut [f32],
    store: Option<&'a mut [T]>,
}

impl<T: Value> Task for Fill<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let geo = self.op.geo;
        let images = self.a.chunks_exact_mut(geo.padded_in::<T>());
        for (n, (image, a)) in self.range.zip(images).enumerate() {
            let store = self.store.as_deref_mut().map(|s| &mut s[n * geo.in_len()..(n + 1) * geo.in_len()]);
            // SAFETY: the caller's contract.
            unsafe { fill_input::<V, T>(geo, &self.op.source, image, T::unpack(a), store) };
        }
    }
}

/// The task that convolves some images `x`, which lie inside halos, by Winograd's algorithm.
pub(super) struct Winograd<'a, T, S> {
    pub geo: Geometry,
    pub images: usize,
    pub x: &'a [T],
    pub weight: &'a [f32],
    pub work: &'a mut [f32],
    pub sink: S,
}

impl<T: Value, S: Sink> Task for Winograd<'_, T, S> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(V::WINOGRAD);
        let Winograd { geo, images, x, weight, work, mut sink } = self;
        let (x, step, u) = (x.as_ptr(), geo.padded_in::<T>() * T::PACK, weight.as_ptr());
        // SAFETY: the caller's contract; the scratch memory holds the images with their halos, and the sink
        // has room for as many.
        unsafe { winograd::forward::<V, T, _, F2x2, 4, 2>(geo, images, x, step, u, work, &mut sink) };
    }
}

/// The task that convolves some images `x`, which lie inside halos, without Winograd's algorithm.
pub(super) struct Direct<'a, T, S> {
    pub geo: Geometry,
    pub images: usize,
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub sink: S,
    pub _type: PhantomData<T>,
}

impl<T: Value, S: Sink> Task for Direct<'_, T, S> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Direct { geo, images, x, weight, mut sink, .. } = self;
        let (step, halo) = (geo.padded_in::<T>(), geo.padding());
        // SAFETY: the caller's contract; the scratch memory holds the images with their halos, and the sink
        // has room for as many.
        unsafe { convolve::<V, T, _>(geo, images, x, step, halo, weight, &mut sink) };
    }
}

/// Number of rows of the largest kernel.
const MAX_KERNEL_ROWS: usize = 7;

/// Computes the outputs of some images without Winograd, from their inputs `a` inside halos of `halo` pixels,
/// `step` lanes apart.
///
/// # Safety
/// The caller must uphold the contract of [`Vector`], and the sink must accept all pixels of the output.
#[inline(always)]
pub(crate) unsafe fn convolve<V: Vector, T: Value, S: Sink>(
    geo: Geometry,
    images: usize,
    a: &[f32],
    step: usize,
    halo: usize,
    weight: &[f32],
    sink: &mut S,
) {
    let pixel = T::lanes(geo.cin);
    let row = (geo.width + 2 * halo) * pixel;
    assert!(halo >= geo.padding() && images > 0);
    assert!(a.len() >= (images - 1) * step + (geo.height + 2 * halo) * row);
    assert!(weight.len() >= geo.taps() * pixel * geo.cout);
    // The taps of a kernel row are neighbouring pixels, so they are a single run.
    let first = (halo - geo.padding()) * (row + pixel);
    let mut runs = [Run::default(); MAX_KERNEL_ROWS];
    let runs = &mut runs[..geo.kernel];
    for (kh, run) in runs.iter_mut().enumerate() {
        *run = Run { offset: first + kh * row, len: geo.kernel * pixel };
    }
    let mut walk = Walk {
        images,
        image_step: step,
        rows: geo.out_height(),
        cols: geo.out_width(),
        row_step: geo.stride * row,
        col_step: geo.stride * pixel,
        runs,
    };
    if halo == 0 && geo.stride == 1 {
        // Without gaps between the rows, all pixels form a single row.
        (walk.rows, walk.cols) = (1, walk.rows * walk.cols);
    }
    // SAFETY: the caller's contract; with its halo, the image contains every tap of every output pixel.
    unsafe { correlate::<V, T, S>(a.as_ptr(), walk, weight.as_ptr(), geo.cout, sink) };
}

/// The sink that stores the output, and sums it and its square by channel.
struct Stats<T> {
    out: *mut T,
    sums: *mut f32,
    geo: Geometry,
    ahead: Prefetcher<2>,
}

impl<T: Value> Sink for Stats<T> {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel) {
        self.ahead.advance(P * Q * V::LANES);
        let Pixel { image, row, col, channel } = at;
        let (geo, cout) = (self.geo, self.geo.cout);
        // SAFETY: the trait's contract, by which the tile is inside the output.
        unsafe {
            let out = self.out.add(image * geo.out_len() + (row * geo.out_width() + col) * cout + channel);
            let sums = self.sums.add(image * 2 * cout + channel);
            for q in 0..Q {
                let at = q * V::LANES;
                let (sum, square) = (sums.add(at), sums.add(cout + at));
                let (mut s, mut s2) = (V::load(sum), V::load(square));
                for (p, pixel) in acc.iter().enumerate() {
                    T::stream(pixel[q], out.add(p * cout + at));
                    s = s.add(pixel[q]);
                    s2 = s2.fma(pixel[q], pixel[q]);
                }
                s.store(sum);
                s2.store(square);
            }
        }
    }
}
