//! Access to the values of candle's tensors for kernels, and memory that is aligned to a cache line.
//!
//! [`read`] and [`write()`] borrow a tensor's values (`write` as a candle in-place operation), and allocate
//! nothing.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, bail};
use half::bf16;

use crate::simd::value::Value;

/// The values of a contiguous tensor on the CPU, borrowed for reading.
pub struct Lent<'a, T = f32> {
    storage: StorageRef<'a>,
    range: Range<usize>,
    _type: PhantomData<T>,
}

impl<T: Value> std::ops::Deref for Lent<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(storage) if let Some(values) = T::slice(storage) => &values[self.range.clone()],
            _ => unreachable!("`read_as` has looked at the storage"),
        }
    }
}

/// Borrows the values of a contiguous `f32` tensor on the CPU for reading.
///
/// # Errors
/// Returns an error if the tensor is of another type, on another device, or not contiguous.
pub fn read(t: &Tensor) -> Result<Lent<'_>> {
    read_as::<f32>(t)
}

/// Borrows the values of a contiguous tensor on the CPU for reading.
///
/// # Errors
/// Returns an error if the tensor is of another type, on another device, or not contiguous.
pub fn read_as<T: Value>(t: &Tensor) -> Result<Lent<'_, T>> {
    let (storage, layout) = t.storage_and_layout();
    if !matches!(&*storage, Storage::Cpu(s) if T::slice(s).is_some()) {
        bail!("expected a tensor of {:?} on the CPU, got {:?} on {:?}", T::DTYPE, t.dtype(), t.device());
    }
    Ok(Lent { range: contiguous(layout)?, storage, _type: PhantomData })
}

/// Calls a closure with the values of a contiguous `f32` tensor on the CPU, for writing.
///
/// # Errors
/// Returns an error if the tensor is of another type, on another device, or not contiguous.
pub fn write<R>(t: &Tensor, f: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    if t.dtype() != DType::F32 {
        bail!("expected a tensor of f32, got {:?}", t.dtype());
    }
    // SAFETY: this is the only part that is taken.
    lend(t, |parts| unsafe { f(parts.part(0..parts.len)) })
}

/// Calls a closure with the values of a contiguous tensor on the CPU, of any type that implements [`Value`],
/// for writing.
fn lend<R>(t: &Tensor, f: impl FnOnce(Parts) -> R) -> Result<R> {
    struct Lend<F, R>(Cell<Option<F>>, Cell<Option<R>>);
    impl<R, F: FnOnce(Parts) -> R> InplaceOp1 for Lend<F, R> {
        fn name(&self) -> &'static str {
            "remix-write"
        }
        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let range = contiguous(layout)?;
            let parts = if let Some(values) = f32::slice_mut(storage) {
                Parts::new(&mut values[range])
            } else if let Some(values) = bf16::slice_mut(storage) {
                Parts::new(&mut values[range])
            } else {
                bail!("expected a tensor of f32 or bf16")
            };
            if let Some(f) = self.0.take() {
                self.1.set(Some(f(parts)));
            }
            Ok(())
        }
    }
    let lend = Lend(Cell::new(Some(f)), Cell::new(None));
    t.inplace_op1(&lend)?;
    match lend.1.take() {
        Some(r) => Ok(r),
        None => bail!("internal error: the in-place operation did not run"),
    }
}

/// Calls a closure with the values of several tensors, for writing by parallel tasks. The tensors must not
/// share storage.
///
/// # Errors
/// Returns an error if a tensor is of another type than those of [`Value`], on another device, or not
/// contiguous, or if there are more than four tensors.
pub fn write_parts(tensors: &[&Tensor], mut f: impl FnMut(&[Parts])) -> Result<()> {
    type Lent<'p> = [Parts<'p>; 4];
    // Recurses once per tensor: each level holds the lock of one storage.
    fn each(tensors: &[&Tensor], n: usize, lent: &mut Lent, f: &mut dyn FnMut(&[Parts])) -> Result<()> {
        let Some(t) = tensors.get(n) else {
            f(&lent[..n]);
            return Ok(());
        };
        lend(t, |parts| {
            // The lock on this storage is held until `f` has returned.
            lent[n] = Parts { _life: PhantomData, ..parts };
            each(tensors, n + 1, lent, f)
        })?
    }
    let mut lent: Lent = [Parts::new::<f32>(&mut []); 4];
    if tensors.len() > lent.len() {
        bail!("{} tensors to write, but at most {} are supported", tensors.len(), lent.len());
    }
    each(tensors, 0, &mut lent, &mut f)
}

/// Evaluates an expression with `$T` as the type of a tensor's values.
macro_rules! with_value {
    ($t:expr, $T:ident => $e:expr) => {
        match $t.dtype() {
            candle_core::DType::F32 => {
                type $T = f32;
                $e
            }
            candle_core::DType::BF16 => {
                type $T = half::bf16;
                $e
            }
            other => candle_core::bail!("expected a tensor of f32 or bf16, got {other:?}"),
        }
    };
}
pub(crate) use with_value;

fn contiguous(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => bail!("expected a contiguous tensor"),
    }
}

/// Returns a tensor of zeros on the CPU that starts on a cache line, so that no vector load crosses two
/// lines.
///
/// # Errors
/// Returns an error if candle cannot allocate the tensor.
pub fn zeros(shape: &[usize]) -> Result<Tensor> {
    zeros_of(DType::F32, shape)
}

/// Returns a tensor like that of [`zeros`], but of any type that implements [`Value`].
///
/// # Errors
/// Returns an error if candle cannot allocate the tensor, or if `dtype` is another type.
pub fn zeros_of(dtype: DType, shape: &[usize]) -> Result<Tensor> {
    const LINE: usize = 64;
    let spare = LINE / dtype.size_in_bytes();
    let len = shape.iter().product();
    let t = Tensor::zeros(len + spare, dtype, &Device::Cpu)?;
    let bytes = lend(&t, |parts| parts.start.align_offset(LINE))?;
    t.narrow(0, (bytes / dtype.size_in_bytes()).min(spare), len)?.reshape(shape)
}

/// A buffer of floats that starts on a cache line, for use by one thread.
pub(crate) struct Aligned {
    memory: Vec<f32>,
    start: usize,
}

impl Aligned {
    const LINE: usize = 64 / size_of::<f32>();

    /// Allocates `len` zeros.
    pub(crate) fn new(len: usize) -> Self {
        let memory = vec![0.0; len + Self::LINE];
        let start = memory.as_ptr().align_offset(64).min(Self::LINE);
        Aligned { memory, start }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.memory.len() - Self::LINE]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.memory.len() - Self::LINE;
        &mut self.memory[self.start..self.start + len]
    }
}

/// A buffer that parallel tasks write in parts that do not overlap.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    start: *mut u8,
    len: usize,
    dtype: DType,
    _life: PhantomData<&'a mut [u8]>,
}

// SAFETY: the parts that tasks take do not overlap, by the contract of `part`.
unsafe impl Send for Parts<'_> {}
// SAFETY: as above.
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    /// Wraps a whole buffer.
    pub fn new<T: Value>(values: &'a mut [T]) -> Self {
        let (start, len) = (values.as_mut_ptr().cast(), values.len());
        Parts { start, len, dtype: T::DTYPE, _life: PhantomData }
    }

    /// Borrows one part of the buffer.
    ///
    /// # Safety
    /// The caller must ensure that no two parts that live at the same time overlap.
    ///
    /// # Panics
    /// Panics if the range is not inside the buffer, or if the buffer is of another type.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part<T: Value>(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        assert_eq!(self.dtype, T::DTYPE);
        // SAFETY: inside the buffer and of its type by the assertions, not aliased by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast::<T>().add(range.start), range.len()) }
    }
}
