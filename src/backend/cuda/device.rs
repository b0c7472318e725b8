//! A GPU with the kernels loaded, its launches and recorded graphs; its memory is in `memory`. In tests, the
//! emulator has the same interface.
//!
//! A device has one stream: operations run in the order in which they were issued, and only [`Memory::read`],
//! [`Memory::write`] and [`Device::wait`] block until they have finished. Each seed that trains opens a
//! device of its own on the same GPU.

mod memory;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use self::memory::Memory;
use super::args::Plain;
use super::driver::{Driver, Handle};
#[cfg(test)]
use super::emulator::{Emulator, Recorded};
use super::gpu::Gpu;
use super::kernels::NAMES;
use super::nvrtc::Nvrtc;
use super::{Error, Result};
use crate::backend::Precision;

/// How often [`Device::timed`] repeats a launch: waiting for a single one takes longer than most kernels.
pub const REPEATS: u32 = 20;

/// A GPU with the kernels for one type of activations loaded.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    /// Bytes of memory that this device has allocated.
    bytes_in_use: AtomicUsize,
    precision: Precision,
    /// The kernel names and seconds found so far, while launches are timed.
    times: Mutex<Option<Vec<(&'static str, f64)>>>,
    backend: Backend,
}

enum Backend {
    Gpu(Gpu),
    #[cfg(test)]
    Emulated(Emulator),
}

/// Returns the number of GPUs.
///
/// # Errors
/// Returns an error if there is no driver or no GPU.
pub fn count() -> Result<usize> {
    let driver = Driver::get()?;
    let mut count = 0;
    // SAFETY: it writes one number.
    driver.check("cuDeviceGetCount", unsafe { (driver.device_count)(&raw mut count) })?;
    if count > 0 { Ok(count as usize) } else { Err(Error::NoDevice) }
}

/// Checks, without using the GPU, that it could be used: that there is a driver, the GPU, and the compiler.
///
/// # Errors
/// Returns an error that says what is missing.
pub fn usable(index: usize) -> Result<()> {
    let count = count()?;
    if index >= count {
        return Err(Error::NoSuchDevice { index, count });
    }
    Nvrtc::get().map(|_| ())
}

impl Device {
    /// Opens GPU `index` and loads the kernels for a type of activations, compiling them if they are not
    /// cached.
    ///
    /// # Errors
    /// Returns an error if the GPU cannot be used, or if the kernels cannot be compiled or loaded.
    pub fn open(index: usize, precision: Precision) -> Result<Device> {
        usable(index)?;
        Ok(Device::new(precision, Backend::Gpu(Gpu::open(index as i32, precision)?)))
    }

    /// Returns the same GPU with the kernels for `f32`: this device if it has them, otherwise one with a
    /// stream of its own.
    ///
    /// # Errors
    /// Returns an error like [`Device::open`].
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

    /// Opens GPU `index`, on which each kernel then starts only when the previous one has ended.
    #[cfg(test)]
    pub fn one_by_one(index: usize, precision: Precision) -> Result<Device> {
        let mut gpu = Gpu::open(index as i32, precision)?;
        gpu.overlap = false;
        Ok(Device::new(precision, Backend::Gpu(gpu)))
    }

    /// Returns the emulator if there is a C++ compiler. A `hostile` one runs threads and blocks last to
    /// first, and starts each kernel before the previous one has run.
    #[cfg(test)]
    pub fn emulated(precision: Precision, hostile: bool) -> Option<Device> {
        Some(Device::new(precision, Backend::Emulated(Emulator::new(precision, hostile)?)))
    }

    fn new(precision: Precision, backend: Backend) -> Device {
        let (bytes_in_use, times) = (AtomicUsize::new(0), Mutex::new(None));
        Device(Arc::new(Inner { bytes_in_use, precision, times, backend }))
    }

    /// Returns the precision of activations.
    pub fn precision(&self) -> Precision {
        self.0.precision
    }

    /// Returns a human-readable description, such as `cuda:0 NVIDIA H200`.
    pub fn describe(&self) -> String {
        match &self.0.backend {
            Backend::Gpu(gpu) => format!("cuda:{} {}", gpu.index, gpu.name),
            #[cfg(test)]
            Backend::Emulated(_) => "emulated".into(),
        }
    }

    /// Returns the number of bytes of this device's memory in use.
    pub fn bytes_in_use(&self) -> usize {
        self.0.bytes_in_use.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes of memory that are free.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub fn free(&self) -> Result<usize> {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.free_memory(),
            #[cfg(test)]
            Backend::Emulated(_) => Ok(usize::MAX),
        }
    }

    /// Launches a kernel over `grid` blocks with `shared` bytes of dynamic shared memory each.
    ///
    /// # Safety
    /// The caller must ensure that `args` is the struct that the kernel takes, with addresses of live memory
    /// of this device, as large as the sizes passed to the kernel require. While launches are recorded, this
    /// applies to each launch of the graph.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub unsafe fn launch<A: Plain>(&self, kernel: usize, grid: usize, shared: usize, args: &A) -> Result<()> {
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

    unsafe fn launch_once<A: Plain>(
        &self,
        kernel: usize,
        grid: usize,
        shared: usize,
        args: &A,
    ) -> Result<()> {
        match &self.0.backend {
            // SAFETY: the caller's contract.
            Backend::Gpu(gpu) => unsafe { gpu.launch(kernel, grid, shared, args) },
            #[cfg(test)]
            Backend::Emulated(emulator) => {
                // SAFETY: the bytes are those of a live value of a type without padding.
                let bytes = unsafe {
                    std::slice::from_raw_parts(std::ptr::from_ref(args).cast::<u8>(), size_of::<A>())
                };
                emulator.launch(NAMES[kernel], grid, shared, bytes);
                Ok(())
            }
        }
    }

    /// Runs the launches of a closure, each of them [`REPEATS`] times, and returns the seconds that each
    /// took, with the name of its kernel.
    ///
    /// # Errors
    /// Returns an error if the closure or a call of the driver fails.
    pub fn timed(&self, launches: impl FnOnce() -> Result<()>) -> Result<Vec<(&'static str, f64)>> {
        let lock = || self.0.times.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Some(vec![]);
        let done = launches();
        let times = lock().take().unwrap_or_default();
        done.map(|()| times)
    }

    /// Records the launches of a closure instead of running them. The closure must not allocate, read or
    /// wait.
    ///
    /// # Errors
    /// Returns an error if the closure or a call of the driver fails.
    pub fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let recorded = match &self.0.backend {
            Backend::Gpu(gpu) => Recording::Gpu(gpu.record(launches)?),
            #[cfg(test)]
            Backend::Emulated(emulator) => Recording::Emulated(emulator.record(launches)?),
        };
        Ok(Graph { device: self.clone(), recorded })
    }

    /// Waits until all operations issued so far have ended.
    ///
    /// # Errors
    /// Returns an error if an earlier kernel failed.
    pub fn wait(&self) -> Result<()> {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.wait(),
            #[cfg(test)]
            Backend::Emulated(_) => Ok(()),
        }
    }

    /// Returns the bytes of dynamic shared memory per block with which two blocks fit on a multiprocessor.
    pub fn shared_for_two_blocks(&self) -> usize {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.shared_for_two_blocks,
            #[cfg(test)]
            Backend::Emulated(_) => super::emulator::SHARED_FOR_TWO_BLOCKS,
        }
    }

    /// Returns the bytes of dynamic shared memory that a block can have.
    pub fn max_shared(&self) -> usize {
        match &self.0.backend {
            Backend::Gpu(gpu) => gpu.max_shared,
            #[cfg(test)]
            Backend::Emulated(_) => super::emulator::MAX_SHARED,
        }
    }
}

/// Recorded launches. They contain the addresses of the memory that they use, which must be live whenever
/// they run. Dropping a graph does not access this memory, so either may be dropped first.
pub struct Graph {
    device: Device,
    recorded: Recording,
}

enum Recording {
    Gpu(Handle),
    #[cfg(test)]
    Emulated(Recorded),
}

// SAFETY: only the driver's handle keeps a graph from being `Send`, and handles may be used from any thread
// (see `Gpu`). A graph is not `Sync`, so launches of one graph do not overlap.
unsafe impl Send for Graph {}

impl Graph {
    /// Runs all launches, in their order.
    ///
    /// # Safety
    /// The contract of [`Device::launch`] applies to all of them.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub unsafe fn launch(&self) -> Result<()> {
        match (&self.device.0.backend, &self.recorded) {
            // SAFETY: the graph is one of this device.
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
                // SAFETY: the graph is destroyed once, and nothing uses its handle afterwards.
                let _ = unsafe { gpu.call("cuGraphExecDestroy", |d, _| (d.exec_destroy)(exec)) };
            }
            #[cfg(test)]
            _ => {}
        }
    }
}
