//! Training and inference on NVIDIA GPUs.
//!
//! Nothing is linked: the driver and NVRTC (the run-time compiler) are looked for when a GPU is asked for, so
//! one binary runs with and without them. The kernels are CUDA C++ in `kernels/`; [`program`] compiles and
//! caches them, [`device`] runs them, `net` is the network in a GPU's memory, [`trainer`] what `train` drives
//! and [`infer`] what `eval` and `embed` call.
//!
//! Tests run the same kernels and the same host code on `emulator`, a model of a GPU compiled by a C++
//! compiler, and on a GPU where there is one.

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

use std::path::PathBuf;

/// Why a GPU cannot be used. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No driver library.
    #[error(
        "no NVIDIA driver here (libcuda.so.1 is not found); install one, pass the GPU into the container (docker --gpus all), or take \
         --device cpu"
    )]
    NoDriver,
    /// A driver without what is used of it.
    #[error(
        "the NVIDIA driver is too old (it has no {0}); install one of CUDA 11.8 or newer, or take --device cpu"
    )]
    OldDriver(&'static str),
    /// The driver finds no GPU.
    #[error("the NVIDIA driver finds no GPU; is CUDA_VISIBLE_DEVICES empty? Or take --device cpu")]
    NoDevice,
    /// A GPU's number that is too large.
    #[error("there is no GPU {index}, only {count} (numbered from 0); see nvidia-smi -L")]
    NoSuchDevice {
        /// The number asked for.
        index: usize,
        /// Number of GPUs.
        count: usize,
    },
    /// A GPU without bf16 tensor cores.
    #[error(
        "{name} has compute capability {major}.{minor}, at least 8.0 is needed (A100 or newer); take --device cpu"
    )]
    OldDevice {
        /// The GPU.
        name: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// No run-time compiler.
    #[error(
        "NVRTC, which compiles the kernels, is not found (libnvrtc.so.13 or .12): it comes with the CUDA toolkit or with `pip install \
         nvidia-cuda-nvrtc` (nvidia-cuda-nvrtc-cu12 for CUDA 12); put its directory into LD_LIBRARY_PATH, or take --device cpu"
    )]
    NoCompiler,
    /// The run-time compiler refused.
    #[error("NVRTC cannot compile the kernels for {arch}: {log}")]
    Compile {
        /// Such as `sm_90`.
        arch: String,
        /// What it says.
        log: String,
    },
    /// Compiled kernels that the driver cannot load.
    #[error(
        "the driver (CUDA {driver}) cannot load what NVRTC {compiler} compiles ({text}); take an NVRTC that is no newer than the driver"
    )]
    Image {
        /// Version that the driver supports.
        driver: String,
        /// Version of NVRTC.
        compiler: String,
        /// The driver's words.
        text: String,
    },
    /// Not enough memory on the GPU.
    #[error(
        "out of memory on the GPU: {held} MiB are held, {needed} MiB more are needed and {free} MiB are free; lower --batch-size, train \
         fewer --seeds at a time (--parallel 1), or stop what else runs there"
    )]
    Memory {
        /// What this run holds already, in MiB.
        held: u64,
        /// What it asked for, in MiB.
        needed: u64,
        /// What is free, in MiB.
        free: u64,
    },
    /// Sizes that the kernels do not take.
    #[error("{0}; take --device cpu")]
    Size(String),
    /// A network or images that there is no engine for.
    #[error("{0}")]
    Network(String),
    /// Anything else that the driver says.
    #[error("{call}: {text}")]
    Driver {
        /// The function that failed.
        call: &'static str,
        /// The driver's words.
        text: String,
    },
    /// The cache of compiled kernels.
    #[error("{}: {text}", .path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
}

/// Result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub use args::Row;
pub use device::Device;
pub use net::supports;
