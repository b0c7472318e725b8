//! Training and inference on NVIDIA GPUs.
//!
//! Nothing is linked: the driver and NVRTC (the run-time compiler) are loaded when a GPU is asked for, so one
//! binary runs with and without them. The kernels are CUDA C++ in `kernels/`; [`program`] compiles and caches
//! them, [`device`] runs them, `net` is the network in a GPU's memory, [`trainer`] is what `train` uses, and
//! [`infer`] is what `eval` and `embed` use.
//!
//! Tests run the same kernels and the same host code on `emulator`, an emulated GPU for which the kernels are
//! compiled by a C++ compiler, and on a GPU if there is one.

mod args;
pub mod device;
mod driver;
#[cfg(test)]
mod emulator;
mod gpu;
pub mod images;
pub mod infer;
mod kernels;
mod net;
mod nvrtc;
pub mod program;
#[cfg(test)]
mod tests;
mod tiles;
pub mod trainer;

/// The reason why a GPU cannot be used. The message says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no driver library.
    #[error(
        "there is no NVIDIA driver (libcuda.so.1 was not found); install one, pass the GPU into the container \
         (docker --gpus all), or use --device cpu"
    )]
    NoDriver,
    /// The driver lacks a function that is used.
    #[error(
        "the NVIDIA driver is too old (it lacks {0}); install a driver for CUDA 11.8 or newer, or use \
         --device cpu"
    )]
    OldDriver(&'static str),
    /// The driver finds no GPU.
    #[error("the NVIDIA driver finds no GPU; check CUDA_VISIBLE_DEVICES, or use --device cpu")]
    NoDevice,
    /// There is no GPU with this number.
    #[error("there is no GPU {index}: the driver finds {count}, numbered from 0; nvidia-smi -L lists them")]
    NoSuchDevice {
        /// The number asked for.
        index: usize,
        /// Number of GPUs.
        count: usize,
    },
    /// The GPU has no bf16 tensor cores.
    #[error(
        "{name} has compute capability {major}.{minor}, but at least 8.0 is needed (A100 or newer); use \
         --device cpu"
    )]
    OldDevice {
        /// The name of the GPU.
        name: String,
        /// The major number of its compute capability.
        major: i32,
        /// The minor number of its compute capability.
        minor: i32,
    },
    /// There is no run-time compiler.
    #[error(
        "NVRTC, which compiles the kernels, was not found (libnvrtc.so.13 or .12); it comes with the CUDA \
         toolkit or with `pip install nvidia-cuda-nvrtc` (nvidia-cuda-nvrtc-cu12 for CUDA 12); add its \
         directory to LD_LIBRARY_PATH, or use --device cpu"
    )]
    NoCompiler,
    /// The run-time compiler reported errors.
    #[error("NVRTC cannot compile the kernels for {arch}: {log}")]
    Compile {
        /// The architecture, such as `sm_90`.
        arch: String,
        /// The log of the compiler.
        log: String,
    },
    /// The driver cannot load the compiled kernels.
    #[error(
        "the driver (CUDA {driver}) cannot load the kernels that NVRTC {compiler} compiled ({text}); use an \
         NVRTC that is no newer than the driver"
    )]
    Image {
        /// The version of CUDA that the driver supports.
        driver: String,
        /// The version of NVRTC.
        compiler: String,
        /// The driver's message.
        text: String,
    },
    /// There is not enough memory on the GPU.
    #[error(
        "out of memory on the GPU: this run holds {held} MiB and needs {needed} MiB more, but {free} MiB are \
         free; lower --batch-size, train fewer --seeds at a time (--parallel 1), or stop other programs that \
         use the GPU"
    )]
    Memory {
        /// Memory that this run already holds, in MiB.
        held: u64,
        /// Memory that was asked for, in MiB.
        needed: u64,
        /// Free memory, in MiB.
        free: u64,
    },
    /// The kernels do not support the network or the sizes.
    #[error("{0}; use --device cpu")]
    Size(String),
    /// No engine supports the network or the images.
    #[error("{0}")]
    Network(String),
    /// Another error of the driver.
    #[error("{call}: {text}")]
    Driver {
        /// The function that failed.
        call: &'static str,
        /// The driver's message.
        text: String,
    },
}

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub use args::Row;
pub use device::Device;
pub use net::supports;
