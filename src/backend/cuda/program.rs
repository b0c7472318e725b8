//! The compiled kernels and their cache on disk: NVRTC takes seconds, reading a file milliseconds.

use std::fs;
use std::io::{BufWriter, Write};

use super::Result;
use super::kernels::source;
use super::nvrtc::Nvrtc;
use crate::backend::Precision;
use crate::manifest::hash::cache_dir;
use crate::manifest::store::write_atomic;

const DEVICE: &str = include_str!("kernels/device.h");

/// Options of the compiler in addition to the architecture.
const OPTIONS: [&str; 1] = ["--std=c++17"];

/// Compiles all kernels for an architecture, such as `sm_90`. This needs no GPU.
///
/// # Errors
/// Returns an error if there is no NVRTC, or an error with its log if the kernels do not compile.
pub fn compile(precision: Precision, arch: &str) -> Result<Vec<u8>> {
    Nvrtc::get()?.compile(&source(DEVICE, precision), arch, &OPTIONS)
}

/// Returns the kernels for an architecture, from the cache if they are there, and otherwise compiled and
/// added to the cache. The name of the file is a hash of everything that its content depends on. If the cache
/// cannot be written, that only costs time.
///
/// # Errors
/// Returns an error like [`compile`].
pub fn cached(precision: Precision, arch: &str) -> Result<Vec<u8>> {
    let compiler = Nvrtc::get()?.version();
    let mut hasher = blake3::Hasher::new();
    for part in [&compiler, arch, &OPTIONS.join(" "), &source(DEVICE, precision)] {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    let file = cache_dir("kernels").map(|d| d.join(format!("{arch}-{}.cubin", hasher.finalize().to_hex())));
    if let Some(found) = file.as_ref().and_then(|file| fs::read(file).ok()).and_then(intact) {
        return Ok(found);
    }
    log::debug!("compiling the kernels for {arch} with NVRTC {compiler}");
    let compiled = compile(precision, arch)?;
    if let Some(file) = file {
        let kept = file.parent().map_or(Ok(()), fs::create_dir_all).map_err(|e| e.to_string());
        let hash = *blake3::hash(&compiled).as_bytes();
        let write = |f: &mut BufWriter<&fs::File>| f.write_all(&compiled).and_then(|()| f.write_all(&hash));
        if let Err(text) = kept.and_then(|()| write_atomic(&file, write).map_err(|e| e.to_string())) {
            log::debug!("{}: {text}", file.display());
        }
    }
    Ok(compiled)
}

/// Returns the content of a cached file, whose last 32 bytes are its hash, or `None` if the hash does not
/// match.
fn intact(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let hash = bytes.split_off(bytes.len().checked_sub(blake3::OUT_LEN)?);
    (blake3::hash(&bytes).as_bytes()[..] == hash[..]).then_some(bytes)
}
