//! The memory of a device: its allocation, and copies to it, from it and on it.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use super::{Backend, Device};
use crate::backend::cuda::Result;
use crate::backend::cuda::args::Plain;

impl Device {
    /// Allocates memory for `len` values, with all bits zero.
    ///
    /// # Errors
    /// Returns [`crate::backend::cuda::Error::Memory`] if there is not enough memory, or another error if a
    /// call of the driver fails.
    ///
    /// # Panics
    /// Panics if the size in bytes overflows.
    pub fn zeros<T: Plain>(&self, len: usize) -> Result<Memory<T>> {
        let bytes = len.checked_mul(size_of::<T>()).expect("a size without overflow");
        let at = match &self.0.backend {
            Backend::Gpu(gpu) => gpu.zeros(bytes, self.bytes_in_use())?,
            #[cfg(test)]
            Backend::Emulated(emulator) => emulator.zeros(bytes),
        };
        self.0.bytes_in_use.fetch_add(bytes, Ordering::Relaxed);
        Ok(Memory { device: self.clone(), at, len, _type: PhantomData })
    }

    /// Allocates memory that holds a copy of `values`.
    ///
    /// # Errors
    /// Returns [`crate::backend::cuda::Error::Memory`] if there is not enough memory, or another error if a
    /// call of the driver fails.
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Memory<T>> {
        let memory = self.zeros(values.len())?;
        memory.write(0, values)?;
        Ok(memory)
    }
}

/// Memory of a device, freed when dropped.
pub struct Memory<T> {
    device: Device,
    at: u64,
    len: usize,
    _type: PhantomData<T>,
}

impl<T: Plain> Memory<T> {
    /// Returns the address of a value.
    ///
    /// # Panics
    /// Panics if the index is beyond the end.
    pub fn at(&self, index: usize) -> u64 {
        assert!(index <= self.len, "{index} of {}", self.len);
        self.at + (index * size_of::<T>()) as u64
    }

    /// Returns the number of values.
    pub fn count(&self) -> usize {
        self.len
    }

    /// Panics if a range extends beyond the end.
    fn check(&self, start: usize, len: usize) {
        // `start + len` could overflow.
        assert!(start <= self.len && len <= self.len - start, "{start} + {len} of {}", self.len);
    }

    /// Writes values from `start` on, after the operations issued before, and waits.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or an earlier kernel failed.
    ///
    /// # Panics
    /// Panics if the values would extend beyond the end.
    pub fn write(&self, start: usize, values: &[T]) -> Result<()> {
        self.check(start, values.len());
        let (at, from, bytes) = (self.at(start), values.as_ptr().cast(), size_of_val(values));
        match &self.device.0.backend {
            Backend::Gpu(gpu) => {
                // SAFETY: the range is inside the memory, as checked.
                unsafe { gpu.call("cuMemcpyHtoDAsync", |d, s| (d.upload)(at, from, bytes, s)) }?;
                // Whether the driver has read pageable memory when the call returns differs from machine to
                // machine.
                gpu.wait()
            }
            #[cfg(test)]
            Backend::Emulated(_) => {
                // SAFETY: the emulator's addresses are those of the process, and the range is inside the
                // memory, as checked.
                unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), at as *mut u8, bytes) };
                Ok(())
            }
        }
    }

    /// Waits for the operations issued before, and reads values.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or an earlier kernel failed.
    ///
    /// # Panics
    /// Panics if the range extends beyond the end.
    pub fn read(&self, start: usize, len: usize) -> Result<Vec<T>> {
        self.check(start, len);
        let mut values = Vec::<T>::with_capacity(len);
        let (at, to, bytes) = (self.at(start), values.as_mut_ptr(), len * size_of::<T>());
        match &self.device.0.backend {
            Backend::Gpu(gpu) => {
                // SAFETY: the range is inside the memory, as checked, and the vector has room for it.
                unsafe { gpu.call("cuMemcpyDtoHAsync", |d, s| (d.download)(to.cast(), at, bytes, s)) }?;
                gpu.wait()?;
            }
            // SAFETY: as above; the emulator's addresses are those of the process.
            #[cfg(test)]
            Backend::Emulated(_) => unsafe { std::ptr::copy_nonoverlapping(at as *const T, to, len) },
        }
        // SAFETY: all values were written, and any bits are a valid value.
        unsafe { values.set_len(len) };
        Ok(values)
    }

    /// Sets all bits to zero, after the operations issued before.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub fn clear(&self) -> Result<()> {
        let bytes = self.len * size_of::<T>();
        match &self.device.0.backend {
            // SAFETY: the range is the whole memory.
            Backend::Gpu(gpu) => unsafe {
                gpu.call("cuMemsetD8Async", |d, s| (d.fill)(self.at, 0, bytes, s))
            },
            #[cfg(test)]
            Backend::Emulated(_) => {
                // SAFETY: the range is the whole memory.
                unsafe { std::ptr::write_bytes(self.at as *mut u8, 0, bytes) };
                Ok(())
            }
        }
    }

    /// Copies the content of another memory of the same size, on the device.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub fn copy(&self, from: &Memory<T>) -> Result<()> {
        assert_eq!(self.len, from.len);
        let bytes = self.len * size_of::<T>();
        match &self.device.0.backend {
            // SAFETY: both are whole memories of the same size.
            Backend::Gpu(gpu) => unsafe {
                gpu.call("cuMemcpyDtoDAsync", |d, s| (d.copy)(self.at, from.at, bytes, s))
            },
            #[cfg(test)]
            Backend::Emulated(_) => self.write(0, &from.read(0, self.len)?),
        }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        self.device.0.bytes_in_use.fetch_sub(bytes, Ordering::Relaxed);
        match &self.device.0.backend {
            Backend::Gpu(gpu) => {
                // SAFETY: the memory is freed once, and cuMemFree waits for kernels that use it. Whoever
                // launches a graph that uses the memory must ensure that it is still live.
                let _ = unsafe { gpu.call("cuMemFree", |d, _| (d.free)(self.at)) };
            }
            #[cfg(test)]
            Backend::Emulated(emulator) => emulator.free(self.at, bytes),
        }
    }
}
