//! The backward pass of a chunk of images.
//!
//! The weight gradient is summed over the chunk by [`WeightGrad`]. The input gradient is computed by the tasks
//! of [`super::forward`], or with stride 2 by [`StridedInputGrad`]; in both cases [`Grad`] completes it.

use std::marker::PhantomData;
use std::ops::Range;

use super::forward::{Direct, Winograd};
use super::input_grad::{Grad, StridedInputGrad};
use super::weight_grad::WeightGrad;
use super::wide::Panels;
use super::winograd;
use super::{Prefetcher, by_blocks, fill_input, row_of, spread, together, with_scratch};
use crate::backend::Input;
use crate::backend::cpu::source::{Slices, View};
use crate::backend::cpu::{chunk_range, chunks, for_each_chunk, images};
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Task, Vector, finish};
use crate::tensor::Parts;

/// Returns the number of floats of a weight gradient while it is summed.
pub(in crate::backend::cpu::conv) fn grad_len(geo: Geometry, winograd: bool) -> usize {
    if winograd { 16 * geo.cin * geo.cout } else { geo.weight_len() }
}

/// Returns the largest number of floats of a layer's weights in the kernels' layout, or of their gradient.
pub(in crate::backend::cpu::conv) fn arranged_len(geo: &Geometry) -> usize {
    grad_len(*geo, geo.kernel == 3)
}

/// Returns the largest number of floats of [`Backward::partial`] for a layer and a batch.
pub(in crate::backend::cpu::conv) fn partial_len(geo: Geometry, batch: usize) -> usize {
    if by_blocks(geo) { Panels::max_lanes(geo, batch) } else { chunks(batch) * arranged_len(&geo) }
}

pub(in crate::backend::cpu::conv) struct Backward<'a, T> {
    pub geo: Geometry,
    pub batch: usize,
    pub source: Slices<'a, T>,
    /// The weights of [`super::flip`]: unchanged, transformed for [`winograd`], or in panels.
    pub flipped: &'a [f32],
    pub winograd: bool,
    pub dz: &'a [T],
    pub y: &'a [T],
    pub coef: &'a [f32],
    /// Receives the chunks' weight gradients, of [`grad_len`] floats each, or the [`Panels`] of a wide layer.
    pub partial: Parts<'a>,
    pub input: Option<InputGrad<'a, T>>,
}

/// Where the input gradient goes, and the values that complete it.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu::conv) struct InputGrad<'a, T> {
    pub dz: Parts<'a>,
    pub sums: Parts<'a>,
    pub y: &'a [T],
    /// The gradients of the outputs of a block with a padded shortcut.
    pub padded: Option<View<'a, T>>,
    pub in_place: bool,
}

impl<'a, T: Value> Backward<'a, T> {
    pub fn run(&self) {
        let geo = self.geo;
        for_each_chunk(self.batch, |chunk| {
            let range = chunk_range(chunk, self.batch);
            let len = if by_blocks(geo) { 0 } else { grad_len(geo, self.winograd) };
            // SAFETY: chunks do not overlap.
            let dw = unsafe { self.partial.part(chunk * len..(chunk + 1) * len) };
            let input = self.input.map(|i| {
                // SAFETY: chunks do not overlap.
                unsafe {
                    (i.dz.part(images(&range, geo.in_len())), i.sums.part(images(&range, 2 * geo.cin)), i)
                }
            });
            let together = self.together();
            let work = if self.winograd {
                winograd::backward_scratch_len(geo, together)
            } else {
                Space::<T>::paired_len(geo, together)
            };
            let len = together * (geo.padded_in::<T>() + geo.padded_out::<T>()) + work;
            with_scratch(len, |scratch| self.chunk(range, dw, input, scratch));
        });
    }

    /// Computes the gradients of a chunk of images. The steps are tasks of their own because LLVM's time
    /// grows much faster than the size of a function.
    fn chunk(
        &self,
        chunk: Range<usize>,
        dw: &mut [f32],
        mut input: Option<(&mut [T], &mut [f32], InputGrad<'a, T>)>,
        scratch: &mut [f32],
    ) {
        let geo = self.geo;
        let together = self.together();
        let mut space = Space::<T>::new(geo, together, scratch);
        if let Some((_, sums, _)) = &mut input {
            sums.fill(0.0);
        }
        for first in chunk.clone().step_by(together) {
            let range = first..chunk.end.min(first + together);
            let space = &mut space;
            T::run(Fill { op: self, range: range.clone(), space });
            let fresh = first == chunk.start;
            T::run(WeightGrad { op: self, range: range.clone(), fresh, space, dw });
            let Some(input) = &mut input else { continue };
            let (images, weight) = (range.len(), self.flipped);
            let a = T::unpack(space.a).as_ptr();
            match geo.stride {
                1 => {
                    // A convolution of the output gradient, which has as many pixels as the input.
                    let geo = Geometry { cin: geo.cout, cout: geo.cin, ..geo };
                    let sink = self.sink::<1>(&chunk, range, a, input);
                    if self.winograd {
                        let (x, work) = (T::unpack(space.g), &mut *space.work);
                        T::run(Winograd { geo, images, x, weight, work, sink });
                    } else {
                        let x = &*space.g;
                        T::run(Direct::<T, _> { geo, images, x, weight, sink, _type: PhantomData });
                    }
                }
                _ => {
                    let sink = self.sink(&chunk, range, a, input);
                    T::run(StridedInputGrad { geo, images, g: space.g, weight, sink });
                }
            }
        }
        finish();
    }

    /// Returns the sink for the input gradients of the images in `range`, whose inputs inside halos are at
    /// `a`.
    fn sink<const STRIDE: usize>(
        &self,
        chunk: &Range<usize>,
        range: Range<usize>,
        a: *const T,
        (dz, sums, input): &mut (&mut [T], &mut [f32], InputGrad<'a, T>),
    ) -> Grad<'a, T, STRIDE> {
        let geo = self.geo;
        let n = range.start - chunk.start;
        let next = range.end..range.end + range.len();
        let own = n + range.len()..chunk.len().min(n + 2 * range.len());
        Grad {
            geo,
            ahead: self.ahead(next, input, dz.get(images(&own, geo.in_len()))),
            dz: dz[n * geo.in_len()..].as_mut_ptr(),
            a,
            y: input.y[images(&range, geo.in_len())].as_ptr(),
            sums: sums[n * 2 * geo.cin..].as_mut_ptr(),
            in_place: input.in_place,
            padded: input
                .padded
                .map(|block| View { values: &block.values[images(&range, block.image_len())], ..block }),
            parity: (0, 0),
        }
    }

    /// Returns the number of images that go through together, at least as many as share a lane in the weight
    /// gradient.
    fn together(&self) -> usize {
        together::<T>(self.geo, if self.winograd { 1 } else { T::PACK })
    }

    /// Prepares to prefetch what is read of the images in `range`, as far as the batch has them, while as
    /// many images are computed. `dz` is those images' part of the input's gradient.
    fn ahead(&self, range: Range<usize>, input: &InputGrad<'a, T>, dz: Option<&[T]>) -> Prefetcher<5> {
        let count = range.len();
        let range = range.start..range.end.min(self.batch);
        let of = |all: &'a [T], len| all.get(images(&range, len));
        let (in_len, out_len) = (self.geo.in_len(), self.geo.out_len());
        let source = match self.source {
            Input::Plain(x) => x.values,
            Input::Normed { of: raw, .. } => raw.y,
        };
        let y = if std::ptr::eq(source, input.y) { None } else { of(input.y, in_len) };
        let dz = if input.in_place { dz } else { None };
        let parts = [of(source, in_len), of(self.dz, out_len), of(self.y, out_len), y, dz];
        Prefetcher::new(parts, count * in_len)
    }
}

/// The task that computes the inputs and output gradients of some images inside their halos.
struct Fill<'a, 'b, T> {
    op: &'a Backward<'a, T>,
    range: Range<usize>,
    space: &'a mut Space<'b, T>,
}

impl<T: Value> Task for Fill<'_, '_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let geo = self.op.geo;
        for (n, image) in self.range.enumerate() {
            let (a, g) = self.space.image(n);
            // SAFETY: the caller's contract.
            unsafe {
                fill_input::<V, T>(geo, &self.op.source, image, T::unpack(a), None);
                fill_grad::<V, T>(self.op, image, T::unpack(g));
            }
        }
    }
}

/// The scratch memory of a thread: inputs and output gradients of some images inside their halos, and work
/// space.
pub(super) struct Space<'a, T> {
    pub geo: Geometry,
    pub a: &'a mut [f32],
    pub g: &'a mut [f32],
    pub work: &'a mut [f32],
    _type: PhantomData<T>,
}

impl<'a, T: Value> Space<'a, T> {
    #[inline(always)]
    fn new(geo: Geometry, images: usize, scratch: &'a mut [f32]) -> Self {
        let (a, rest) = scratch.split_at_mut(images * geo.padded_in::<T>());
        let (g, work) = rest.split_at_mut(images * geo.padded_out::<T>());
        a.fill(0.0);
        g.fill(0.0);
        Space { geo, a, g, work, _type: PhantomData }
    }

    /// Returns the input and the gradient of image `n`.
    #[inline(always)]
    pub fn image(&mut self, n: usize) -> (&mut [f32], &mut [f32]) {
        let (a, g) = (self.geo.padded_in::<T>(), self.geo.padded_out::<T>());
        (&mut self.a[n * a..(n + 1) * a], &mut self.g[n * g..(n + 1) * g])
    }
}

/// Computes `g = c1·dz + c2·y + c3` inside the halo of one image.
///
/// # Safety
/// The machine must have the instruction set of `V`.
#[inline(always)]
unsafe fn fill_grad<V: Vector, T: Value>(op: &Backward<T>, image: usize, g: &mut [T]) {
    let (c, width) = (op.geo.cout, op.geo.out_width() * op.geo.cout);
    let whole = c / V::LANES * V::LANES;
    assert!(op.coef.len() >= 3 * c);
    for row in 0..op.geo.out_height() {
        let all = row_of(g, row, op.geo.out_width(), c, op.geo.padding());
        let g = &mut all[..width];
        let at = image * op.geo.out_len() + row * width;
        let (dz, y) = (&op.dz[at..at + width], &op.y[at..at + width]);
        // SAFETY: the caller's contract; the rows consist of whole pixels, and the channels are inside the
        // three rows of coefficients.
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

/// Computes one vector of channels of [`fill_grad`], for all pixels of a row.
///
/// # Safety
/// The machine must have the instruction set of `V`; `dz`, `y` and `g` must have equal length and consist of
/// whole pixels of `c` values, `coef` must have three rows, and `channel` must be the first of a whole vector
/// of channels.
#[inline(always)]
unsafe fn grad<V: Vector, T: Value>(coef: &[f32], c: usize, dz: &[T], y: &[T], g: &mut [T], channel: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let coef = coef.as_ptr().add(channel);
        let (c1, c2, c3) = (V::load(coef), V::load(coef.add(c)), V::load(coef.add(2 * c)));
        for at in (channel..g.len()).step_by(c) {
            let sum = c3.fma(c1, T::load(dz.as_ptr().add(at))).fma(c2, T::load(y.as_ptr().add(at)));
            T::store(sum, g.as_mut_ptr().add(at));
        }
    }
}
