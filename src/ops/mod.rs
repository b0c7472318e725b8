//! The operations of a training step, over candle tensors that were allocated once.
//!
//! An op reads some tensors and overwrites others; the convolution's CPU kernels are in `conv/cpu`, the smaller ops hold theirs. Candle owns the memory:
//! [`read`] and [`write()`] lend it to a kernel (`write` as a candle in-place op), and allocate nothing. All images are
//! NHWC. Work is split over images in chunks of fixed size, and sums over images are added in chunk order, so results
//! do not depend on the number of threads.

pub mod conv;
pub mod head;
pub mod load;
pub mod norm;
pub mod pool;
pub mod sgd;
pub mod simd;

use std::cell::Cell;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, bail};
use rayon::prelude::*;

/// Images that one task works on. Fixed: the order of summation hangs on it.
pub const CHUNK: usize = 8;

/// Number of chunks of a batch.
pub fn chunks(batch: usize) -> usize {
    batch.div_ceil(CHUNK)
}

/// The images of a chunk.
pub fn chunk_range(chunk: usize, batch: usize) -> Range<usize> {
    chunk * CHUNK..batch.min((chunk + 1) * CHUNK)
}

/// The values of a contiguous `f32` tensor on the CPU, lent for reading while this lives.
pub struct Lent<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl std::ops::Deref for Lent<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("`read` has looked at the storage"),
        }
    }
}

/// Lends the values of a contiguous `f32` tensor on the CPU.
///
/// # Errors
/// Another type, device or layout.
pub fn read(t: &Tensor) -> Result<Lent<'_>> {
    let (storage, layout) = t.storage_and_layout();
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        bail!("expected an f32 tensor on the CPU, got {:?} on {:?}", t.dtype(), t.device());
    }
    Ok(Lent { range: contiguous(layout)?, storage })
}

/// Lends the values of a contiguous `f32` tensor on the CPU for writing.
///
/// # Errors
/// Another type, device or layout; those of the closure.
pub fn write<R>(t: &Tensor, f: impl FnOnce(&mut [f32]) -> Result<R>) -> Result<R> {
    struct Lend<F, R>(Cell<Option<F>>, Cell<Option<R>>);
    impl<R, F: FnOnce(&mut [f32]) -> Result<R>> InplaceOp1 for Lend<F, R> {
        fn name(&self) -> &'static str {
            "remix-write"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let CpuStorage::F32(values) = storage else { bail!("expected an f32 tensor") };
            let range = contiguous(layout)?;
            if let Some(f) = self.0.take() {
                self.1.set(Some(f(&mut values[range])?));
            }
            Ok(())
        }
    }
    let lend = Lend(Cell::new(Some(f)), Cell::new(None));
    t.inplace_op1(&lend)?;
    match lend.1.take() {
        Some(r) => Ok(r),
        None => bail!("remix-write did not run"),
    }
}

/// Lends several tensors for writing by parallel tasks. They must not share storage.
///
/// # Errors
/// Those of [`write()`]; more than four tensors.
pub fn write_parts<R>(tensors: &[&Tensor], f: impl FnOnce(&[Parts]) -> Result<R>) -> Result<R> {
    type Lent<'p> = [Parts<'p>; 4];
    // As deep as there are tensors: each level holds one storage's lock.
    fn lend(tensors: &[&Tensor], n: usize, lent: &mut Lent, f: &mut dyn FnMut(&[Parts])) -> Result<()> {
        let Some(t) = tensors.get(n) else {
            f(&lent[..n]);
            return Ok(());
        };
        write(t, |values| {
            // SAFETY: the lock on this storage is held until `f` has returned.
            lent[n] = unsafe { Parts::erased(values) };
            lend(tensors, n + 1, lent, f)
        })
    }
    let mut lent: Lent = [Parts::new(&mut []); 4];
    if tensors.len() > lent.len() {
        bail!("{} tensors to write, at most {}", tensors.len(), lent.len());
    }
    let (mut f, mut result) = (Some(f), None);
    lend(tensors, 0, &mut lent, &mut |parts| result = f.take().map(|f| f(parts)))?;
    result.unwrap_or_else(|| bail!("remix-write did not run"))
}

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("expected a contiguous tensor"),
    }
}

/// A tensor of zeros on the CPU that starts on a cache line, so that no vector load crosses two.
///
/// # Errors
/// Candle's.
pub fn zeros(shape: &[usize]) -> Result<Tensor> {
    const LINE: usize = 64 / size_of::<f32>();
    let len = shape.iter().product();
    let t = Tensor::zeros(len + LINE, DType::F32, &Device::Cpu)?;
    let skip = read(&t)?.as_ptr().align_offset(64).min(LINE);
    t.narrow(0, skip, len)?.reshape(shape)
}

/// A buffer of which parallel tasks write parts that do not overlap.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    start: *mut f32,
    len: usize,
    _life: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: the parts that tasks take do not overlap, by the contract of `part`.
unsafe impl Send for Parts<'_> {}
// SAFETY: as above.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    /// All of a buffer.
    pub fn new(values: &'a mut [f32]) -> Self {
        Parts { start: values.as_mut_ptr(), len: values.len(), _life: std::marker::PhantomData }
    }

    /// All of a buffer, for a life that the caller vouches for.
    ///
    /// # Safety
    /// The buffer must stay lent as long as the result is used.
    unsafe fn erased<'b>(values: &mut [f32]) -> Parts<'b> {
        Parts { start: values.as_mut_ptr(), len: values.len(), _life: std::marker::PhantomData }
    }

    /// One part of it.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    ///
    /// # Panics
    /// If the range is not inside the buffer.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the buffer by the assertion, not aliased by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
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
