//! Compares training and inference on the GPU with those on the CPU: on the emulator, and on a GPU if there
//! is one.
//!
//! The comparisons run the trainer and the evaluator as `train` does: plan, loader, forward, backward, batch
//! norm, SGD, the smaller last batch, graphs.

mod bits;
mod inference;
mod setup;
mod training;

use std::fmt::Display;
use std::io::Write;

use super::device::usable;
use super::kernels::NAMES;
use super::nvrtc::Nvrtc;
use super::{Error, program};
use crate::backend::Precision;

/// Prints why the running test, or a part of it, is skipped. The test runner shows nothing that passing tests print by
/// macros, so this writes to stderr itself.
pub(super) fn skipped(why: impl Display) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", thread.name().unwrap_or("a test"));
}

#[test]
fn every_kernel_compiles() {
    match Nvrtc::get() {
        Err(e) if std::env::var_os("REMIX_REQUIRE_NVRTC").is_some() => panic!("{e}"),
        Err(e) => skipped(e),
        Ok(nvrtc) => {
            for (arch, precision) in ["sm_80", "sm_90", "sm_100"]
                .into_iter()
                .flat_map(|a| [(a, Precision::F32), (a, Precision::Bf16)])
            {
                let image = program::compile(precision, arch).expect("compiles");
                for name in NAMES {
                    let found = image.windows(name.len()).any(|w| w == name.as_bytes());
                    assert!(found, "{arch} {precision:?}: {name} (NVRTC {})", nvrtc.version());
                }
            }
            let log = nvrtc.compile("wrong", "sm_80", &[]).expect_err("no program").to_string();
            assert!(log.contains("wrong") && log.contains("sm_80"), "{log}");
        }
    }
}

#[test]
fn what_is_missing_is_said() {
    // On a machine with a GPU, nothing is missing but GPU 99.
    let text = usable(99).expect_err("no such GPU").to_string();
    assert!(text.contains("--device cpu") || text.contains("there is no GPU 99"), "{text}");
    assert!(Error::NoCompiler.to_string().contains("pip install nvidia-cuda-nvrtc"));
    let text = Error::Memory { held: 100, needed: 20, free: 7 }.to_string();
    assert!(text.contains("holds 100 MiB and needs 20 MiB more, but 7 MiB are free"), "{text}");
    assert!(text.contains("--batch-size"));
}
