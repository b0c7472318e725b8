//! The functions of the CUDA driver that are used here, loaded at run time. The declarations follow `cuda.h`,
//! whose functions keep their meaning from version to version; symbols that end in `_v2` are what its macros
//! expand to.

use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use libloading::Library;

use super::{Error, Result};

/// A handle of the driver: a context, stream, module, function or graph.
pub type Handle = *mut c_void;

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
pub const CAPABILITY_MAJOR: i32 = 75;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
pub const CAPABILITY_MINOR: i32 = 76;
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`.
pub const SHARED_MEMORY: i32 = 97;
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR`.
pub const SHARED_MEMORY_PER_SM: i32 = 81;
/// `CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES`.
pub const STATIC_SHARED: i32 = 1;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub const DYNAMIC_SHARED: i32 = 8;
/// `CU_STREAM_NON_BLOCKING`.
pub const NON_BLOCKING: u32 = 1;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: the threads of other seeds may allocate during a capture.
pub const THREAD_LOCAL: u32 = 1;

/// `CUlaunchConfig`.
#[repr(C)]
pub struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
    pub stream: Handle,
    pub attributes: *const LaunchAttribute,
    pub count: u32,
}

/// `CUlaunchAttribute`, whose value is a union of 64 bytes.
#[repr(C)]
pub struct LaunchAttribute {
    id: u32,
    _pad: u32,
    value: [u64; 8],
}

/// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: a kernel may start before the previous one has
/// ended, and waits for that itself.
pub const OVERLAP: LaunchAttribute = LaunchAttribute { id: 6, _pad: 0, value: [1, 0, 0, 0, 0, 0, 0, 0] };

const OUT_OF_MEMORY: i32 = 2;
const NO_DEVICE: i32 = 100;

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($type:ty),*);)*) => {
        /// The functions of the driver. Each returns 0 or an error code.
        pub struct Driver {
            _library: Library,
            $(pub $name: unsafe extern "C" fn($($type),*) -> i32,)*
        }

        impl Driver {
            fn load() -> Result<Driver> {
                // SAFETY: the driver's initialisers may run at any time.
                let library = unsafe { Library::new("libcuda.so.1") }.map_err(|_| Error::NoDriver)?;
                Ok(Driver {
                    // SAFETY: the type is that in cuda.h.
                    $($name: *unsafe { library.get($symbol.as_bytes()) }.map_err(|_| Error::OldDriver($symbol))?,)*
                    _library: library,
                })
            }
        }
    };
}

functions! {
    init = "cuInit"(u32);
    driver_version = "cuDriverGetVersion"(*mut i32);
    device_count = "cuDeviceGetCount"(*mut i32);
    device = "cuDeviceGet"(*mut i32, i32);
    device_name = "cuDeviceGetName"(*mut c_char, i32, i32);
    device_attribute = "cuDeviceGetAttribute"(*mut i32, i32, i32);
    retain = "cuDevicePrimaryCtxRetain"(*mut Handle, i32);
    release = "cuDevicePrimaryCtxRelease_v2"(i32);
    set_current = "cuCtxSetCurrent"(Handle);
    memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    alloc = "cuMemAlloc_v2"(*mut u64, usize);
    free = "cuMemFree_v2"(u64);
    upload = "cuMemcpyHtoDAsync_v2"(u64, *const c_void, usize, Handle);
    download = "cuMemcpyDtoHAsync_v2"(*mut c_void, u64, usize, Handle);
    copy = "cuMemcpyDtoDAsync_v2"(u64, u64, usize, Handle);
    fill = "cuMemsetD8Async"(u64, u8, usize, Handle);
    stream_create = "cuStreamCreate"(*mut Handle, u32);
    stream_destroy = "cuStreamDestroy_v2"(Handle);
    synchronize = "cuStreamSynchronize"(Handle);
    begin_capture = "cuStreamBeginCapture_v2"(Handle, u32);
    end_capture = "cuStreamEndCapture"(Handle, *mut Handle);
    instantiate = "cuGraphInstantiateWithFlags"(*mut Handle, Handle, u64);
    graph_launch = "cuGraphLaunch"(Handle, Handle);
    exec_destroy = "cuGraphExecDestroy"(Handle);
    graph_destroy = "cuGraphDestroy"(Handle);
    module_load = "cuModuleLoadData"(*mut Handle, *const c_void);
    module_unload = "cuModuleUnload"(Handle);
    function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    function_attribute = "cuFuncGetAttribute"(*mut i32, i32, Handle);
    set_function_attribute = "cuFuncSetAttribute"(Handle, i32, i32);
    launch = "cuLaunchKernelEx"(*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    error_text = "cuGetErrorString"(i32, *mut *const c_char);
}

impl Driver {
    /// Returns the driver, which is loaded and initialised once.
    ///
    /// # Errors
    /// Returns an error if there is no driver, if it is too old, or if there is no GPU.
    pub fn get() -> Result<&'static Driver> {
        static DRIVER: OnceLock<Result<Driver>> = OnceLock::new();
        let start = || {
            let driver = Driver::load()?;
            // SAFETY: `cuInit` must be the first call, and is.
            match unsafe { (driver.init)(0) } {
                NO_DEVICE => Err(Error::NoDevice),
                status => driver.check("cuInit", status).map(|()| driver),
            }
        };
        DRIVER.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    /// Converts a status to a result.
    ///
    /// # Errors
    /// Returns an error for any status but 0.
    pub fn check(&self, call: &'static str, status: i32) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(Error::Driver { call, text: self.text(status) }) }
    }

    /// Returns the driver's message for a status.
    pub fn text(&self, status: i32) -> String {
        let mut text = std::ptr::null();
        // SAFETY: the call sets the pointer to a static string or to null.
        let words = unsafe {
            if (self.error_text)(status, &raw mut text) == 0 && !text.is_null() {
                CStr::from_ptr(text).to_string_lossy()
            } else {
                "unknown error".into()
            }
        };
        format!("{words} (error {status})")
    }

    /// Returns the version of CUDA that the driver supports, such as (13, 0).
    pub fn version(&self) -> (i32, i32) {
        let mut version = 0;
        // SAFETY: it writes one number.
        unsafe { (self.driver_version)(&raw mut version) };
        (version / 1000, version % 1000 / 10)
    }

    /// Allocates memory in the current context.
    ///
    /// # Errors
    /// Returns [`Error::Memory`], with the `bytes_in_use` by the caller, if there is not enough memory.
    pub fn allocate(&self, bytes: usize, bytes_in_use: usize) -> Result<u64> {
        let mut at = 0;
        // SAFETY: it writes one address.
        let status = unsafe { (self.alloc)(&raw mut at, bytes.max(1)) };
        if status == OUT_OF_MEMORY {
            let (mut free, mut total) = (0, 0);
            // SAFETY: it writes two numbers.
            unsafe { (self.memory_info)(&raw mut free, &raw mut total) };
            let mib = |bytes: usize| bytes.div_ceil(1 << 20) as u64;
            let (held, needed, free) = (mib(bytes_in_use), mib(bytes), (free >> 20) as u64);
            return Err(Error::Memory { held, needed, free });
        }
        self.check("cuMemAlloc", status).map(|()| at)
    }
}
