//! The instruction sets: which of them the machine can run, and which one is in use.

use std::sync::OnceLock;

#[cfg(doc)]
use super::Vector;
#[cfg(target_arch = "x86_64")]
use super::amx;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 and AMX tiles, for bf16 (x86-64).
    Amx,
    /// 512-bit vectors (x86-64).
    Avx512,
    /// 256-bit vectors with fused multiply-add (x86-64).
    Avx2,
    /// 128-bit vectors (aarch64).
    Neon,
    /// Plain Rust, in which the multiply and the add are rounded separately.
    Portable,
}

impl Isa {
    /// Returns whether the set has 32 vector registers ([`Vector::WIDE`]).
    pub fn is_wide(self) -> bool {
        matches!(self, Isa::Amx | Isa::Avx512 | Isa::Neon)
    }

    /// Returns whether to use Winograd's algorithm ([`Vector::WINOGRAD`]).
    pub fn has_winograd(self) -> bool {
        matches!(self, Isa::Avx512 | Isa::Avx2 | Isa::Neon)
    }

    /// Returns the set to use for computations in `f32`: AVX-512 instead of AMX, whose tiles have no `f32`
    /// products.
    pub fn for_floats(self) -> Isa {
        if self == Isa::Amx { Isa::Avx512 } else { self }
    }

    /// Returns the set to use for computations in pairs of bf16: AVX2 instead of AVX-512 if its bf16
    /// instructions are missing.
    pub fn for_pairs(self) -> Isa {
        #[cfg(target_arch = "x86_64")]
        if self == Isa::Avx512 && !is_x86_feature_detected!("avx512bf16") {
            return Isa::Avx2;
        }
        self
    }

    /// Returns whether this machine can run the set.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => {
                Isa::Avx512.is_available() && is_x86_feature_detected!("avx512bf16") && amx::is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Amx | Isa::Avx512 | Isa::Avx2 => false,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            Isa::Portable => true,
        }
    }

    /// Returns the sets that this machine can run, best first.
    pub fn available() -> Vec<Isa> {
        let all = [Isa::Amx, Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Returns the name of the set in `$REMIX_ISA` and in the `run` object of manifests.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    /// Returns the set that `$REMIX_ISA` names, or the best available one if the variable is empty or unset.
    ///
    /// # Errors
    /// Returns an error if the name is not that of a set of this machine.
    pub fn from_env() -> Result<Isa, String> {
        let sets = Isa::available();
        let asked = std::env::var_os("REMIX_ISA").filter(|asked| !asked.is_empty());
        let Some(asked) = asked else { return Ok(sets[0]) };
        sets.iter().copied().find(|s| *s.name() == *asked).ok_or_else(|| {
            let names: Vec<_> = sets.iter().map(|s| s.name()).collect();
            format!("REMIX_ISA: this machine has no \"{}\"; use one of {}", asked.display(), names.join(", "))
        })
    }

    /// Returns the set in use: that of [`Isa::from_env`], or the best available one if that is an error, with
    /// which the tools refuse to run.
    pub fn get() -> Isa {
        #[cfg(test)]
        if let Some(isa) = FORCED.get() {
            return isa;
        }
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| Isa::from_env().unwrap_or_else(|_| Isa::available()[0]))
    }
}

/// Returns whether storing a vector takes as long as two multiply-adds, as it does on Zen 4 for 512-bit
/// vectors. This is assumed for all AMD processors with AVX-512, and affects only speed.
pub fn stores_are_slow() -> bool {
    static SLOW: OnceLock<bool> = OnceLock::new();
    *SLOW.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        return Isa::Avx512.is_available() && {
            let vendor = std::arch::x86_64::__cpuid(0);
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
        };
        #[cfg(not(target_arch = "x86_64"))]
        false
    })
}

#[cfg(test)]
thread_local!(static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) });

/// Runs a test once for every instruction set that the machine has, on two threads that use only that set.
#[cfg(test)]
pub(crate) fn for_each_isa(mut test: impl FnMut(Isa) + Send) {
    for isa in Isa::available() {
        forced(isa, 2, || test(isa));
    }
}

/// Runs a closure on some threads that use only one instruction set.
#[cfg(test)]
pub(crate) fn forced<R: Send>(isa: Isa, threads: usize, f: impl FnOnce() -> R + Send) -> R {
    assert!(isa.is_available());
    let threads = rayon::ThreadPoolBuilder::new().num_threads(threads);
    let pool = threads.start_handler(move |_| FORCED.set(Some(isa))).build().expect("threads");
    pool.broadcast(|_| assert_eq!(Isa::get(), isa));
    pool.install(f)
}
