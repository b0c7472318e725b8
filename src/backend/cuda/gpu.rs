//! A real GPU: its context, stream and loaded kernels. [`super::device`] is the interface to it.

use std::ffi::{CString, c_void};

use super::args::Plain;
use super::driver::{self, Driver, Handle, LaunchConfig, OVERLAP};
use super::kernels::NAMES;
use super::nvrtc::Nvrtc;
use super::tiles::THREADS;
use super::{Error, Result, program};
use crate::backend::Precision;

/// A GPU, the kernels loaded on it, and a stream.
pub struct Gpu {
    driver: &'static Driver,
    /// The number of the GPU, from 0.
    pub index: i32,
    /// The driver's handle of the GPU.
    device: i32,
    /// The name of the GPU.
    pub name: String,
    context: Handle,
    stream: Handle,
    module: Handle,
    functions: Vec<Handle>,
    /// Bytes of dynamic shared memory that a block can have.
    pub max_shared: usize,
    /// Bytes of it per block with which two blocks fit on a multiprocessor.
    pub shared_for_two_blocks: usize,
    /// Whether a kernel may start before the previous one has ended.
    pub overlap: bool,
}

// SAFETY: the handles of the driver may be used from any thread; each call first makes the context current in
// its thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Opens GPU `index` and loads the kernels.
    pub fn open(index: i32, precision: Precision) -> Result<Gpu> {
        let driver = Driver::get()?;
        let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (mut device, mut text) = (0, [0; 256]);
        // SAFETY: it writes one number.
        driver.check("cuDeviceGet", unsafe { (driver.device)(&raw mut device, index) })?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: it writes one number.
            let status = unsafe { (driver.device_attribute)(&raw mut value, which, device) };
            driver.check("cuDeviceGetAttribute", status).map(|()| value)
        };
        // SAFETY: it writes no more text than there is room for.
        let status = unsafe { (driver.device_name)(text.as_mut_ptr(), text.len() as i32, device) };
        driver.check("cuDeviceGetName", status)?;
        let name: String = text.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect();
        let (major, minor) = (attribute(driver::CAPABILITY_MAJOR)?, attribute(driver::CAPABILITY_MINOR)?);
        if major < 8 {
            return Err(Error::OldDevice { name, major, minor });
        }
        let max_shared = attribute(driver::SHARED_MEMORY)? as usize;
        // The static shared memory of a block is less than 3 KiB; the driver reserves 1 KiB.
        let half = attribute(driver::SHARED_MEMORY_PER_SM)? as usize / 2;
        let shared_for_two_blocks = half.saturating_sub(4 << 10);
        let image = program::cached(precision, &format!("sm_{major}{minor}"))?;
        // SAFETY: each call writes a handle. The context is released by `drop`, which runs in any case once
        // `gpu` exists.
        unsafe {
            driver.check("cuDevicePrimaryCtxRetain", (driver.retain)(&raw mut context, device))?;
            let null = std::ptr::null_mut();
            let mut gpu = Gpu {
                driver,
                index,
                device,
                name,
                context,
                stream: null,
                module: null,
                functions: vec![],
                max_shared,
                shared_for_two_blocks,
                overlap: major >= 9 && driver.version() >= (12, 3),
            };
            gpu.call("cuStreamCreate", |d, _| (d.stream_create)(&raw mut stream, driver::NON_BLOCKING))?;
            gpu.stream = stream;
            gpu.load(&image)?;
            Ok(gpu)
        }
    }

    /// Loads the kernels and allows each of them all available shared memory.
    fn load(&mut self, image: &[u8]) -> Result<()> {
        let (driver, mut module) = (self.driver, std::ptr::null_mut());
        // SAFETY: the image is valid: it comes from the compiler, or from a file whose hash was checked.
        let status = unsafe { (driver.module_load)(&raw mut module, image.as_ptr().cast()) };
        if status != 0 {
            let ((major, minor), compiler) = (self.driver.version(), Nvrtc::get()?.version());
            return Err(Error::Image {
                driver: format!("{major}.{minor}"),
                compiler,
                text: self.driver.text(status),
            });
        }
        self.module = module;
        let most = self.max_shared;
        for name in NAMES {
            let name = CString::new(name).expect("a name without NUL");
            let (mut function, mut fixed) = (std::ptr::null_mut(), 0);
            // SAFETY: each call writes a handle or a number.
            unsafe {
                let status = (driver.function)(&raw mut function, module, name.as_ptr());
                driver.check("cuModuleGetFunction", status)?;
                let status = (driver.function_attribute)(&raw mut fixed, driver::STATIC_SHARED, function);
                driver.check("cuFuncGetAttribute", status)?;
                let dynamic = most.saturating_sub(fixed as usize);
                let status =
                    (driver.set_function_attribute)(function, driver::DYNAMIC_SHARED, dynamic as i32);
                driver.check("cuFuncSetAttribute", status)?;
                self.max_shared = self.max_shared.min(dynamic);
            }
            self.functions.push(function);
        }
        Ok(())
    }

    /// Makes this GPU's context the current one of the calling thread.
    fn make_current(&self) -> Result<()> {
        // SAFETY: the context is live.
        self.driver.check("cuCtxSetCurrent", unsafe { (self.driver.set_current)(self.context) })
    }

    /// Calls a function of the driver with this GPU's stream, in this GPU's context.
    ///
    /// # Safety
    /// The contract of the driver's function applies.
    pub unsafe fn call(&self, name: &'static str, f: impl FnOnce(&Driver, Handle) -> i32) -> Result<()> {
        self.make_current()?;
        self.driver.check(name, f(self.driver, self.stream))
    }

    /// Allocates memory with all bits zero; the device already has `bytes_in_use`.
    pub fn zeros(&self, bytes: usize, bytes_in_use: usize) -> Result<u64> {
        self.make_current()?;
        let at = self.driver.allocate(bytes, bytes_in_use)?;
        // SAFETY: the memory has the size that is cleared.
        let status = unsafe { (self.driver.fill)(at, 0, bytes.max(1), self.stream) };
        if status != 0 {
            // SAFETY: nothing uses the memory.
            unsafe { (self.driver.free)(at) };
        }
        self.driver.check("cuMemsetD8Async", status).map(|()| at)
    }

    /// Returns the number of bytes of memory that are free.
    pub fn free_memory(&self) -> Result<usize> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is live, and the call writes two numbers.
        unsafe { self.call("cuMemGetInfo", |d, _| (d.memory_info)(&raw mut free, &raw mut total)) }?;
        Ok(free)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The contract of [`super::Device::launch`] applies.
    pub unsafe fn launch<A: Plain>(&self, kernel: usize, grid: usize, shared: usize, args: &A) -> Result<()> {
        let mut list = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        let (function, none) = (self.functions[kernel], std::ptr::null_mut());
        let config = LaunchConfig {
            grid: [grid as u32, 1, 1],
            block: [THREADS as u32, 1, 1],
            shared: shared as u32,
            stream: self.stream,
            attributes: &OVERLAP,
            count: self.overlap.into(),
        };
        // SAFETY: the kernel takes one struct, which the driver copies; the caller guarantees the addresses
        // in it.
        unsafe {
            self.call("cuLaunchKernelEx", |d, _| {
                (d.launch)(&raw const config, function, list.as_mut_ptr(), none)
            })
        }
    }

    /// Records the launches of a closure as an executable graph.
    pub fn record(&self, launches: impl FnOnce() -> Result<()>) -> Result<Handle> {
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: each call writes a handle; the graph is destroyed, whether it could be instantiated or not.
        unsafe {
            self.call("cuStreamBeginCapture", |d, stream| (d.begin_capture)(stream, driver::THREAD_LOCAL))?;
            let done = launches();
            let ended = self.call("cuStreamEndCapture", |d, stream| (d.end_capture)(stream, &raw mut graph));
            let made = done.and(ended).and_then(|()| {
                self.call("cuGraphInstantiate", |d, _| (d.instantiate)(&raw mut exec, graph, 0))
            });
            if !graph.is_null() {
                let _ = self.call("cuGraphDestroy", |d, _| (d.graph_destroy)(graph));
            }
            made.map(|()| exec)
        }
    }

    /// Waits for the stream.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: the stream is live.
        unsafe { self.call("cuStreamSynchronize", |d, stream| (d.synchronize)(stream)) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: memory and graphs hold a reference to the device, so nothing uses these handles any more.
        // Errors are ignored because nothing can be done about them here.
        unsafe {
            if !self.module.is_null() {
                let _ = self.call("cuModuleUnload", |d, _| (d.module_unload)(self.module));
            }
            if !self.stream.is_null() {
                let _ = self.call("cuStreamDestroy", |d, stream| (d.stream_destroy)(stream));
            }
            (self.driver.release)(self.device);
        }
    }
}
