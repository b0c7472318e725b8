//! Vectors of `f32` for the CPU kernels, and the choice of the instruction set at run time.
//!
//! A kernel is written once, over [`Vector`], as a [`Task`]; [`run`] instantiates it for every instruction set inside a
//! function that has the set's target features, so that everything inlined into it is compiled with them. Not for
//! general use: only what the kernels need is here.

use std::sync::OnceLock;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// 512-bit vectors (x86-64).
    Avx512,
    /// 256-bit vectors with fused multiply-add (x86-64).
    Avx2,
    /// 128-bit vectors (aarch64).
    Neon,
    /// Plain Rust, multiply and add rounded apart.
    Portable,
}

impl Isa {
    /// Whether it has 32 registers.
    pub fn is_wide(self) -> bool {
        matches!(self, Isa::Avx512 | Isa::Neon)
    }

    /// Those that this machine can run, best first.
    pub fn available() -> Vec<Isa> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                sets.push(Isa::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Isa::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Isa::Neon);
        sets.push(Isa::Portable);
        sets
    }

    /// The name used in `$REMIX_ISA` and in manifests' `run`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    /// The set in use: the best available one, or the one named by `$REMIX_ISA` if the machine has it.
    pub fn get() -> Isa {
        #[cfg(test)]
        if let Some(isa) = FORCED.get() {
            return isa;
        }
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| {
            let sets = Isa::available();
            let Ok(asked) = std::env::var("REMIX_ISA") else {
                return sets[0];
            };
            sets.iter().copied().find(|s| s.name() == asked).unwrap_or_else(|| {
                log::warn!("REMIX_ISA={asked}: not on this machine, using {}", sets[0].name());
                sets[0]
            })
        })
    }
}

#[cfg(test)]
thread_local!(static FORCED: std::cell::Cell<Option<Isa>> = const { std::cell::Cell::new(None) });

/// Runs a test once for every instruction set that the machine has.
#[cfg(test)]
pub(crate) fn for_each_isa(mut test: impl FnMut(Isa)) {
    for isa in Isa::available() {
        FORCED.set(Some(isa));
        test(isa);
    }
    FORCED.set(None);
}

/// A register of `LANES` values.
///
/// # Safety
/// All methods compile to instructions of one set and may only run where the machine has it: inside [`run`].
/// Pointers must be valid for `LANES` values.
#[allow(clippy::missing_safety_doc)]
pub unsafe trait Vector: Copy {
    /// Number of values.
    const LANES: usize;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self;
    /// Reads `LANES` values.
    unsafe fn load(p: *const f32) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, p: *mut f32);
    /// `self + a · b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// `self + a`.
    unsafe fn add(self, a: Self) -> Self;
    /// `self − a`.
    unsafe fn sub(self, a: Self) -> Self;
    /// Lanes of `self` where `a > 0`, else 0.
    unsafe fn where_positive(self, a: Self) -> Self;
    /// Lanes of `self` where they are positive, else 0.
    unsafe fn relu(self) -> Self;
}

// SAFETY: a plain float needs no instruction set.
unsafe impl Vector for f32 {
    const LANES: usize = 1;
    #[inline(always)]
    unsafe fn splat(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> f32 {
        // SAFETY: the trait's contract.
        unsafe { *p }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { *p = self }
    }
    #[inline(always)]
    unsafe fn fma(self, a: f32, b: f32) -> f32 {
        self + a * b
    }
    #[inline(always)]
    unsafe fn add(self, a: f32) -> f32 {
        self + a
    }
    #[inline(always)]
    unsafe fn sub(self, a: f32) -> f32 {
        self - a
    }
    #[inline(always)]
    unsafe fn where_positive(self, a: f32) -> f32 {
        if a > 0.0 { self } else { 0.0 }
    }
    #[inline(always)]
    unsafe fn relu(self) -> f32 {
        self.max(0.0)
    }
}

/// Four lanes of plain Rust.
#[derive(Clone, Copy)]
pub struct Plain([f32; 4]);

// SAFETY: plain Rust needs no instruction set.
unsafe impl Vector for Plain {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Plain([x; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the trait's contract; an array of floats needs no more alignment than a float.
        Plain(unsafe { *p.cast() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as above.
        unsafe { *p.cast() = self.0 }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn add(self, a: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] + a.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] - a.0[i]))
    }
    #[inline(always)]
    unsafe fn where_positive(self, a: Self) -> Self {
        Plain(std::array::from_fn(|i| if a.0[i] > 0.0 { self.0[i] } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        Plain(self.0.map(|x| x.max(0.0)))
    }
}

/// Implements [`Vector`] for a register type of `core::arch` from its intrinsics.
macro_rules! vector {
    ($vector:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident,
     fma: |$c:ident, $a:ident, $b:ident| $fma:expr, positive: |$x:ident, $m:ident| $positive:expr) => {
        // SAFETY: each method is one or two instructions of the set; the callers are inside `run`.
        #[allow(unused_unsafe)]
        unsafe impl Vector for $vector {
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: the trait's contract.
                unsafe { $splat(x) }
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> Self {
                // SAFETY: the trait's contract.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32) {
                // SAFETY: the trait's contract.
                unsafe { $store(p, self) }
            }
            #[inline(always)]
            unsafe fn fma(self, $a: Self, $b: Self) -> Self {
                let $c = self;
                // SAFETY: the trait's contract.
                unsafe { $fma }
            }
            #[inline(always)]
            unsafe fn add(self, a: Self) -> Self {
                // SAFETY: the trait's contract.
                unsafe { $add(self, a) }
            }
            #[inline(always)]
            unsafe fn sub(self, a: Self) -> Self {
                // SAFETY: the trait's contract.
                unsafe { $sub(self, a) }
            }
            #[inline(always)]
            unsafe fn where_positive(self, $m: Self) -> Self {
                let $x = self;
                // SAFETY: the trait's contract.
                unsafe { $positive }
            }
            #[inline(always)]
            unsafe fn relu(self) -> Self {
                // SAFETY: the trait's contract.
                unsafe { self.where_positive(self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    vector!(__m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps,
        fma: |c, a, b| _mm512_fmadd_ps(a, b, c),
        positive: |x, m| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(m, _mm512_setzero_ps()), x));
    vector!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps,
        fma: |c, a, b| _mm256_fmadd_ps(a, b, c),
        positive: |x, m| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(m, _mm256_setzero_ps()), x));
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Vector;
    use std::arch::aarch64::*;

    vector!(float32x4_t, 4, vdupq_n_f32, vld1q_f32, vst1q_f32, vaddq_f32, vsubq_f32,
        fma: |c, a, b| vfmaq_f32(c, a, b),
        positive: |x, m| vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(m), vreinterpretq_u32_f32(x))));
}

/// Work that is compiled once for each instruction set.
pub trait Task {
    /// Does the work with vectors `V`. `WIDE` says that there are 32 registers, so that accumulator tiles of 16 fit;
    /// else they are 8.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`. Implementations are `#[inline(always)]`, and so is every
    /// function that they hand vectors to.
    unsafe fn run<V: Vector, const WIDE: bool>(self);
}

/// Runs a task with the vectors of an instruction set.
///
/// # Panics
/// If the machine does not have the set ([`Isa::available`]).
#[inline]
pub fn run<T: Task>(isa: Isa, task: T) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
        unsafe fn avx512<T: Task>(task: T) {
            // SAFETY: this function has the features.
            unsafe { task.run::<std::arch::x86_64::__m512, true>() }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<T: Task>(task: T) {
            // SAFETY: this function has the features.
            unsafe { task.run::<std::arch::x86_64::__m256, false>() }
        }
        match isa {
            // SAFETY: `Isa::Avx512` and `Isa::Avx2` exist only where `available` has found the features.
            Isa::Avx512 => return unsafe { avx512(task) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(task) },
            _ => {}
        }
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        // SAFETY: NEON is part of every aarch64.
        return unsafe { task.run::<std::arch::aarch64::float32x4_t, true>() };
    }
    assert_eq!(isa, Isa::Portable, "the instruction set is of another architecture");
    // SAFETY: plain Rust.
    unsafe { task.run::<Plain, false>() }
}
