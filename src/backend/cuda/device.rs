//! A GPU with the kernels loaded, its memory, launches and recorded graphs. In tests also the emulator,
//! behind the same functions.
//!
//! A device has one stream: what is asked of it happens in that order, and only [`Memory::read`] and
//! [`Device::wait`] wait for it. Each seed that trains opens a device of its own on the same GPU.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::args::{Args, Plain};
use super::driver::{Driver, Handle};
#[cfg(test)]
use super::emulator::{Emulator, Recorded};
use super::gpu::Gpu;
use super::kernels::NAMES;
use super::nvrtc::Nvrtc;
use super::{Error, Result};
use crate::backend::Precision;

/// How often [`Device::timed`] repeats a launch: waiting takes longer than most kernels.
pub const REPEATS: u32 = 20;

/// A GPU with the kernels for one type of activations.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    /// Bytes in use by this device's memory.
    held: AtomicUsize,
    precision: Precision,
    /// Where launches are timed: what was found.
    times: Mutex<Option<Vec<(&'static str, f64)>>>,
    backend: Backend,
}

enum Backend {
    Gpu(Gpu),
    #[cfg(test)]
    Emulated(Emulator),
}

/// How many GPUs there are.
///
/// # Errors
/// No driver, or no GPU.
pub fn count() -> Result<usize> {
    let driver = Driver::get()?;
    let mut count = 0;
    // SAFETY: it writes one number.
    driver.check("cuDeviceGetCount", unsafe { (driver.device_count)(&raw mut count) })?;
    if count > 0 { Ok(count as usize) } else { Err(Error::NoDevice) }
}

/// Looks, without touching the GPU, whether it could be used: driver, GPU, compiler.
///
/// # Errors
/// What is missing.
pub fn usable(index: usize) -> Result<()> {
    let count = count()?;
    if index >= count {
        return Err(Error::NoSuchDevice { index, count });
    }
    Nvrtc::get().map(|_| ())
}

impl Device {
    /// Opens a GPU by its number and loads the kernels for a type of activations, compiling them where they
    /// are not cached.
    ///
    /// # Errors
    /// All of [`Error`].
    pub fn open(index: usize, precision: Precision) -> Result<Device> {
        usable(index)?;
        Ok(Device::new(precision, Backend::Gpu(Gpu::open(index as i32, precision)?)))
    }

    /// The same GPU with the kernels for `f32`, and a stream of its own where these are others.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn in_f32(&self) -> Result<Device> {
        if self.precision() == Precision::F32 {
            return Ok(self.clone());
        }
        match &self.0.backend {
            Backend::Gpu(gpu) => {
                Ok(Device::new(Precision::F32, Backend::Gpu(Gpu::open(gpu.index, Precision::F32)?)))
            }
            #[cfg(test)]
            Backend::Emulated(emulator) => Device::emulated(Precision::F32, emulator.is_hostile())
                .ok_or_else(|| Error::Size("there is no C++ compiler".into())),
        }
    }

    /// A GPU on which each kernel starts when the one before it has ended.
    #[cfg(test)]
    pub fn one_by_one(index: usize, precision: Precision) -> Result<Device> {
        let mut gpu = Gpu::open(index as i32, precision)?;
        gpu.overlap = false;
        Ok(Device::new(precision, Backend::Gpu(gpu)))
    }

    /// The emulator, where there is a C++ compiler. A `hostile` one runs threads and blocks last to first,
    /// and starts each kernel before the one before it has run.
    #[cfg(test)]
    pub fn emulated(precision: Precision, hostile: bool) -> Option<Device> {
        Some(Device::new(precision, Backend::Emulated(Emulator::new(precision, hostile)?)))
    }

    fn new(precision: Precision, backend: Backend) -> Device {
        Device(Arc::new(Inner { held: AtomicUsize::new(0), precision, times: Mutex::new(None), backend }))
    }

    /// What activations are stored as.
    pub fn precision(&self) -> Precision {
        self.0.precision
    }

    /// Such as `cuda:0 NVIDIA H200`, for people.
    pub fn describe(&self) -> String {
        match &self.0.backend {
            Backend::Gpu(gpu) => format!("cuda:{} {}", gpu.index, gpu.name),
            #[cfg(test)]
            Backend::Emulated(_) => "emulated".into(),
        }
    }

    /// Bytes of this device's memory in use.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Bytes of memory that are free.
    ///
    /// # Errors
    /// The driver's.
    pub fn free(&self) -> Result<usize> {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.free_memory(),
            #[cfg(test)]
            Backend::Emulated(_) => Ok(usize::MAX),
        }
    }

    /// Memory for `len` values, all bits zero.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn zeros<T: Plain>(&self, len: usize) -> Result<Memory<T>> {
        let bytes = len * size_of::<T>();
        let at = match &self.0.backend {
            Backend::Gpu(gpu) => gpu.zeros(bytes, self.held())?,
            #[cfg(test)]
            Backend::Emulated(emulator) => emulator.zeros(bytes),
        };
        self.0.held.fetch_add(bytes, Ordering::Relaxed);
        Ok(Memory { device: self.clone(), at, len, _type: PhantomData })
    }

    /// Memory that holds some values.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn upload<T: Plain>(&self, values: &[T]) -> Result<Memory<T>> {
        let memory = self.zeros(values.len())?;
        memory.write(0, values)?;
        Ok(memory)
    }

    /// Starts a kernel over `grid` blocks with `shared` bytes of dynamic shared memory each.
    ///
    /// # Safety
    /// The arguments are addresses of live memory of this device, as large as the kernel's sizes ask.
    ///
    /// # Errors
    /// The driver's.
    pub unsafe fn launch<A: Args>(&self, kernel: usize, grid: usize, shared: usize, args: &A) -> Result<()> {
        let mut times = self.0.times.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(times) = &mut *times else {
            // SAFETY: the caller's contract.
            return unsafe { self.launch_once(kernel, grid, shared, args) };
        };
        self.wait()?;
        let started = Instant::now();
        for _ in 0..REPEATS {
            // SAFETY: the caller's contract.
            unsafe { self.launch_once(kernel, grid, shared, args)? };
        }
        self.wait()?;
        times.push((NAMES[kernel], started.elapsed().as_secs_f64() / f64::from(REPEATS)));
        Ok(())
    }

    unsafe fn launch_once<A: Args>(&self, kernel: usize, grid: usize, shared: usize, args: &A) -> Result<()> {
        match &self.0.backend {
            // SAFETY: the caller's contract.
            Backend::Gpu(gpu) => unsafe { gpu.launch(kernel, grid, shared, args) },
            #[cfg(test)]
            Backend::Emulated(emulator) => {
                emulator.launch(NAMES[kernel], grid, shared, args.bytes());
                Ok(())
            }
        }
    }

    /// Runs the launches of a closure, each of them [`REPEATS`] times, and says how many seconds one took.
    ///
    /// # Errors
    /// Those of the closure and of the driver.
    pub fn timed(&self, launches: impl FnOnce() -> Result<()>) -> Result<Vec<(&'static str, f64)>> {
        let lock = || self.0.times.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Some(vec![]);
        let done = launches();
        let times = lock().take().unwrap_or_default();
        done.map(|()| times)
    }

    /// Records the launches of a closure instead of running them. It must not allocate, read or wait.
    ///
    /// # Errors
    /// Those of the closure and of the driver.
    pub fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let recorded = match &self.0.backend {
            Backend::Gpu(gpu) => Recording::Gpu(gpu.record(launches)?),
            #[cfg(test)]
            Backend::Emulated(emulator) => Recording::Emulated(emulator.record(launches)?),
        };
        Ok(Graph { device: self.clone(), recorded })
    }

    /// Waits until everything that was asked for has happened.
    ///
    /// # Errors
    /// That of any kernel before.
    pub fn wait(&self) -> Result<()> {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.wait(),
            #[cfg(test)]
            Backend::Emulated(_) => Ok(()),
        }
    }

    /// Bytes of dynamic shared memory that let two blocks have a multiprocessor.
    pub fn room(&self) -> usize {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.room,
            #[cfg(test)]
            Backend::Emulated(_) => super::emulator::ROOM,
        }
    }

    /// Bytes of dynamic shared memory that a block can have.
    pub fn shared(&self) -> usize {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.shared,
            #[cfg(test)]
            Backend::Emulated(_) => super::emulator::SHARED,
        }
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
    /// Address of a value.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn at(&self, index: usize) -> u64 {
        assert!(index <= self.len, "{index} of {}", self.len);
        self.at + (index * size_of::<T>()) as u64
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.len
    }

    /// Writes values from `start` on, after what was asked for before, and waits.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn write(&self, start: usize, values: &[T]) -> Result<()> {
        assert!(start + values.len() <= self.len, "{start} + {} of {}", values.len(), self.len);
        let (at, from, bytes) = (self.at(start), values.as_ptr().cast(), size_of_val(values));
        match &self.device.0.backend {
            Backend::Gpu(gpu) => {
                // SAFETY: inside the memory, by the assertion.
                unsafe { gpu.call("cuMemcpyHtoDAsync", |d, s| (d.upload)(at, from, bytes, s)) }?;
                // Whether the driver has read pageable memory when it returns differs from machine to
                // machine.
                gpu.wait()
            }
            #[cfg(test)]
            Backend::Emulated(_) => {
                // SAFETY: the emulator's addresses are the process's, inside the memory by the assertion.
                unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), at as *mut u8, bytes) };
                Ok(())
            }
        }
    }

    /// Waits for everything that was asked for before, and reads values.
    ///
    /// # Errors
    /// The driver's; that of any kernel before.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn read(&self, start: usize, len: usize) -> Result<Vec<T>> {
        assert!(start + len <= self.len, "{start} + {len} of {}", self.len);
        let mut values = Vec::<T>::with_capacity(len);
        let (at, to, bytes) = (self.at(start), values.as_mut_ptr(), len * size_of::<T>());
        match &self.device.0.backend {
            Backend::Gpu(gpu) => {
                // SAFETY: inside the memory by the assertion, and the vector has room.
                unsafe { gpu.call("cuMemcpyDtoHAsync", |d, s| (d.download)(to.cast(), at, bytes, s)) }?;
                gpu.wait()?;
            }
            // SAFETY: as above, the emulator's addresses are the process's.
            #[cfg(test)]
            Backend::Emulated(_) => unsafe { std::ptr::copy_nonoverlapping(at as *const T, to, len) },
        }
        // SAFETY: all were written, and any bits are a value.
        unsafe { values.set_len(len) };
        Ok(values)
    }

    /// Sets all bits to zero, after what was asked for before.
    ///
    /// # Errors
    /// The driver's.
    pub fn clear(&self) -> Result<()> {
        let bytes = self.len * size_of::<T>();
        match &self.device.0.backend {
            // SAFETY: all of the memory.
            Backend::Gpu(gpu) => unsafe {
                gpu.call("cuMemsetD8Async", |d, s| (d.fill)(self.at, 0, bytes, s))
            },
            #[cfg(test)]
            Backend::Emulated(_) => {
                // SAFETY: all of the memory.
                unsafe { std::ptr::write_bytes(self.at as *mut u8, 0, bytes) };
                Ok(())
            }
        }
    }

    /// Copies all of another memory of the same size, on the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn copy(&self, from: &Memory<T>) -> Result<()> {
        assert_eq!(self.len, from.len);
        let bytes = self.len * size_of::<T>();
        match &self.device.0.backend {
            // SAFETY: both are whole and of one size.
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
        self.device.0.held.fetch_sub(bytes, Ordering::Relaxed);
        match &self.device.0.backend {
            Backend::Gpu(gpu) => {
                // SAFETY: nobody else has it. cuMemFree waits for kernels that use it.
                let _ = unsafe { gpu.call("cuMemFree", |d, _| (d.free)(self.at)) };
            }
            #[cfg(test)]
            Backend::Emulated(emulator) => emulator.free(self.at, bytes),
        }
    }
}

/// Launches that were recorded. The memory that they use must live as long.
pub struct Graph {
    device: Device,
    recorded: Recording,
}

enum Recording {
    Gpu(Handle),
    #[cfg(test)]
    Emulated(Recorded),
}

// SAFETY: a graph is launched by one thread at a time, for that takes the device's stream.
unsafe impl Send for Graph {}

impl Graph {
    /// Runs all launches, in their order.
    ///
    /// # Safety
    /// As [`Device::launch`], for all of them.
    ///
    /// # Errors
    /// The driver's.
    pub unsafe fn launch(&self) -> Result<()> {
        match (&self.device.0.backend, &self.recorded) {
            // SAFETY: a graph of this device.
            (Backend::Gpu(gpu), &Recording::Gpu(exec)) => unsafe {
                gpu.call("cuGraphLaunch", |d, stream| (d.graph_launch)(exec, stream))
            },
            #[cfg(test)]
            (Backend::Emulated(emulator), Recording::Emulated(recorded)) => {
                emulator.replay(recorded);
                Ok(())
            }
            #[cfg(test)]
            _ => unreachable!("a graph has its device's kind"),
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        match (&self.device.0.backend, &self.recorded) {
            (Backend::Gpu(gpu), &Recording::Gpu(exec)) => {
                // SAFETY: nobody else has it.
                let _ = unsafe { gpu.call("cuGraphExecDestroy", |d, _| (d.exec_destroy)(exec)) };
            }
            #[cfg(test)]
            _ => {}
        }
    }
}
