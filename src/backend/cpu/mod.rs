//! The engine of the CPU: the operations of a training step over candle tensors that were allocated once, and inference.
//!
//! An operation reads some tensors and overwrites others; the convolution's kernels are in `conv/kernel`, the other
//! operations contain their own. All images are NHWC. Work is split over images in chunks of fixed size, and sums over images are added in chunk order, so
//! results do not depend on the number of threads.

pub mod blend;
pub mod conv;
pub mod head;
pub mod infer;
pub mod load;
pub mod net;
pub mod norm;
pub mod pool;
pub mod sgd;
pub mod source;

use std::ops::Range;

use rayon::prelude::*;

/// Images that one task works on. Fixed: the order of summation depends on it.
pub const CHUNK: usize = 8;

/// Number of chunks of a batch.
pub fn chunks(batch: usize) -> usize {
    batch.div_ceil(CHUNK)
}

/// The images of a chunk.
pub fn chunk_range(chunk: usize, batch: usize) -> Range<usize> {
    chunk * CHUNK..batch.min((chunk + 1) * CHUNK)
}

/// Runs `f(chunk)` for every chunk of a batch, on all threads.
pub fn for_each_chunk(batch: usize, f: impl Fn(usize) + Sync + Send) {
    (0..chunks(batch)).into_par_iter().with_max_len(1).for_each(f);
}

/// `total[i] = Σ_chunk partial[chunk][i]`, in the order of the chunks.
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
