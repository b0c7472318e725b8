//! The CPU engine: the operations of a training step over candle tensors that were allocated once, and
//! inference.
//!
//! An operation reads some tensors and overwrites others. The kernels of the convolution are in
//! `conv/kernel`; the other operations contain their own. All images are NHWC. Work is split over images in
//! chunks of fixed size, and sums over images are added in chunk order, so results do not depend on the
//! number of threads.

pub mod blend;
pub mod conv;
pub mod head;
pub mod infer;
pub mod linear;
pub mod load;
pub mod neighbours;
pub mod net;
pub mod norm;
pub mod pool;
pub mod sgd;
pub mod source;

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::simd::value::Value;
use crate::tensor::write_parts;

/// Number of images per task. It is fixed because the order of summation depends on it.
pub const CHUNK: usize = 8;

/// Returns the number of chunks in a batch.
pub fn chunks(batch: usize) -> usize {
    batch.div_ceil(CHUNK)
}

/// Returns the range of images in a chunk.
pub fn chunk_range(chunk: usize, batch: usize) -> Range<usize> {
    chunk * CHUNK..batch.min((chunk + 1) * CHUNK)
}

/// Returns the part of a batch's buffer that belongs to some images, which have `len` values each.
fn images(range: &Range<usize>, len: usize) -> Range<usize> {
    range.start * len..range.end * len
}

/// Runs `f(chunk)` for every chunk of a batch, on all threads.
pub fn for_each_chunk(batch: usize, f: impl Fn(usize) + Sync + Send) {
    (0..chunks(batch)).into_par_iter().with_max_len(1).for_each(f);
}

/// Runs `f(n, part)` for every image of a batch, on all threads; `part` is the image's part of a tensor that
/// holds `len` values per image.
fn for_each_image<T: Value>(
    batch: usize,
    tensor: &Tensor,
    len: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) -> Result<()> {
    write_parts(&[tensor], |parts| {
        for_each_chunk(batch, |chunk| {
            for n in chunk_range(chunk, batch) {
                // SAFETY: the parts of different images do not overlap, and each image is processed once.
                f(n, unsafe { parts[0].part(n * len..(n + 1) * len) });
            }
        })
    })
}

/// Runs `f(n, a, b)` like [`for_each_image`]; `a` and `b` are the image's parts of two different tensors that
/// hold `lens` values per image.
fn for_each_image_of_two<A: Value, B: Value>(
    batch: usize,
    tensors: [&Tensor; 2],
    lens: [usize; 2],
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) -> Result<()> {
    write_parts(&tensors, |parts| {
        for_each_chunk(batch, |chunk| {
            for n in chunk_range(chunk, batch) {
                let [a, b] = lens.map(|len| n * len..(n + 1) * len);
                // SAFETY: the parts of different images and of different tensors do not overlap, and each
                // image is processed once.
                let (a, b) = unsafe { (parts[0].part(a), parts[1].part(b)) };
                f(n, a, b);
            }
        })
    })
}

/// Computes `dz = (values > 0) · grads` for one image, and `Σ dz` and `Σ dz·y` by channel in `sums`, (2, C).
fn mask<T: Value>(
    mut grads: impl Iterator<Item = f32>,
    values: &[T],
    y: &[T],
    dz: &mut [T],
    sums: &mut [f32],
) {
    sums.fill(0.0);
    let channels = sums.len() / 2;
    let (sum, product) = sums.split_at_mut(channels);
    let pixels = values.chunks_exact(channels).zip(y.chunks_exact(channels));
    for (dz, (values, y)) in dz.chunks_exact_mut(channels).zip(pixels) {
        for (c, grad) in (0..channels).zip(&mut grads) {
            let grad = if values[c].to_f32() > 0.0 { grad } else { 0.0 };
            dz[c] = T::rounded(grad);
            sum[c] += grad;
            product[c] += grad * y[c].to_f32();
        }
    }
}

/// Computes `total[i] = Σ_chunk partial[chunk][i]`, in the order of the chunks.
pub fn add_up(total: &mut [f32], partial: &[f32]) {
    let width = total.len();
    let block = 4096.min(width.max(1));
    total.par_chunks_mut(block).enumerate().for_each(|(b, out)| {
        out.fill(0.0);
        for row in partial.chunks_exact(width) {
            for (sum, x) in out.iter_mut().zip(&row[b * block..]) {
                *sum += x;
            }
        }
    });
}
