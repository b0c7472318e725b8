//! Vectors of `f32` for the CPU kernels, and their instantiation for every instruction set.
//!
//! A kernel is written once, over [`Vector`], as a [`Task`]; [`run`] instantiates it for every instruction
//! set inside a function that has the set's target features, so that everything inlined into it is compiled
//! with them. [`Isa`] names the sets and chooses one at run time. This is not a general-purpose library: it
//! has only what the kernels need.

#[cfg(target_arch = "x86_64")]
pub mod amx;
mod isa;
mod sets;
pub mod value;

use half::bf16;

pub use isa::{Isa, stores_are_slow};
#[cfg(test)]
pub(crate) use isa::{for_each_isa, forced};
use sets::Plain;

/// A vector register of `LANES` values.
///
/// # Safety
/// All methods compile to instructions of one set and may only be called on a machine that has it, inside
/// [`run`]. Pointers must be valid for `LANES` values.
#[allow(clippy::missing_safety_doc)]
pub unsafe trait Vector: Copy {
    /// The number of values.
    const LANES: usize;
    /// Whether there are 32 registers, so that tiles of 16 accumulators fit; otherwise tiles have 8.
    const WIDE: bool;
    /// Whether the machine also has AMX tiles for bf16.
    const TILES: bool = false;
    /// Whether to use Winograd's algorithm: with at least eight lanes or 32 registers, but not beside AMX, whose
    /// multiplications are so fast that the algorithm's transforms cost more than they save.
    const WINOGRAD: bool = (Self::WIDE || Self::LANES >= 8) && !Self::TILES;
    /// Returns a vector with `x` in all lanes.
    unsafe fn splat(x: f32) -> Self;
    /// Reads `LANES` values.
    unsafe fn load(p: *const f32) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, p: *mut f32);
    /// Writes `LANES` values that are not read again soon. If a vector is as large as a cache line, the store
    /// bypasses the caches, so that the line is not read only to be overwritten. After its last such store
    /// and before another thread may read the values, a thread must call [`finish`].
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32) {
        // SAFETY: the trait's contract.
        unsafe { self.store(p) }
    }
    /// Returns `self + a · b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// Returns `self + a`.
    unsafe fn add(self, a: Self) -> Self;
    /// Returns `self − a`.
    unsafe fn sub(self, a: Self) -> Self;
    /// Returns the lanes of `self` where `a > 0`, and 0 elsewhere.
    unsafe fn where_positive(self, a: Self) -> Self;
    /// Returns the lanes of `self`, with 0 for negative ones; NaN stays NaN.
    unsafe fn relu(self) -> Self;

    // The methods below compute in bf16. Their default bodies work for any set: the compiler turns the loops
    // over lanes into the set's instructions.

    /// Reads `LANES` bf16 values.
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        let mut lanes = [0f32; MAX_LANES];
        for (i, lane) in lanes[..Self::LANES].iter_mut().enumerate() {
            // SAFETY: the trait's contract.
            *lane = unsafe { f32::from_bits(u32::from((*p.add(i)).to_bits()) << 16) };
        }
        // SAFETY: the array is long enough.
        unsafe { Self::load(lanes.as_ptr()) }
    }

    /// Rounds to bf16, ties to even, and writes `LANES` values.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16) {
        let mut lanes = [0f32; MAX_LANES];
        // SAFETY: the array is long enough; the trait's contract.
        unsafe {
            self.store(lanes.as_mut_ptr());
            for (i, lane) in lanes[..Self::LANES].iter().enumerate() {
                *p.add(i) = round(*lane);
            }
        }
    }

    /// Reads `2·LANES` values of each of two images and writes them interleaved.
    #[inline(always)]
    unsafe fn side_by_side(first: *const bf16, second: *const bf16, out: *mut bf16) {
        for i in 0..2 * Self::LANES {
            // SAFETY: the trait's contract.
            unsafe { (*out.add(2 * i), *out.add(2 * i + 1)) = (*first.add(i), *second.add(i)) };
        }
    }

    /// Rounds two vectors to bf16 and packs their lanes into pairs, with those of `low` in the lower halves.
    #[inline(always)]
    unsafe fn pair(low: Self, high: Self) -> Self {
        let (mut lows, mut highs) = ([0f32; MAX_LANES], [0f32; MAX_LANES]);
        // SAFETY: the arrays are long enough; the caller's contract.
        unsafe {
            low.store(lows.as_mut_ptr());
            high.store(highs.as_mut_ptr());
            for (low, high) in lows[..Self::LANES].iter_mut().zip(highs) {
                *low =
                    f32::from_bits(u32::from(round(*low).to_bits()) | u32::from(round(high).to_bits()) << 16);
            }
            Self::load(lows.as_ptr())
        }
    }

    /// Returns `self + a₀·b₀ + a₁·b₁`, where the lanes of `a` and `b` are pairs of bf16 with the first value
    /// in the lower half.
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            let ([a0, a1], [b0, b1]) = (unpair(a), unpair(b));
            self.fma(a0, b0).fma(a1, b1)
        }
    }
}

/// Reads `Q` neighbouring vectors.
///
/// Kernels must not pass vectors through closures that the standard library calls, such as that of
/// [`std::array::from_fn`]: such a call is not always inlined, and is otherwise compiled without the
/// instruction set.
///
/// # Safety
/// The contract of [`Vector`] applies; the pointer must be valid for all values.
#[inline(always)]
pub unsafe fn load<V: Vector, const Q: usize>(p: *const f32) -> [V; Q] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut all = [V::splat(0.0); Q];
        for (q, v) in all.iter_mut().enumerate() {
            *v = V::load(p.add(q * V::LANES));
        }
        all
    }
}

/// The number of lanes of the widest vector.
const MAX_LANES: usize = 16;

/// Rounds to the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> bf16 {
    let bits = x.to_bits();
    let even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { 0x7fc0 } else { even as u16 })
}

/// Splits pairs of bf16 into vectors of their first and of their second values.
///
/// # Safety
/// The contract of [`Vector`] applies.
#[inline(always)]
unsafe fn unpair<V: Vector>(pairs: V) -> [V; 2] {
    let (mut low, mut high) = ([0f32; MAX_LANES], [0f32; MAX_LANES]);
    // SAFETY: the arrays are long enough; the caller's contract.
    unsafe {
        pairs.store(low.as_mut_ptr());
        for i in 0..V::LANES {
            let bits = low[i].to_bits();
            (low[i], high[i]) = (f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000));
        }
        [V::load(low.as_ptr()), V::load(high.as_ptr())]
    }
}

/// Prefetches a cache line into the second-level cache. Any address is allowed.
#[inline(always)]
pub fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64; a prefetch does not fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch does not fault and changes nothing.
    unsafe {
        std::arch::asm!(
            "prfm pldl2keep, [{line}]",
            line = in(reg) line,
            options(nostack, readonly, preserves_flags)
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

/// Ends a series of tasks of a thread: waits until the values of [`Vector::stream`] are visible to other
/// threads, and releases the tile registers, which would otherwise be saved at each switch of threads.
#[inline]
pub fn finish() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64, and the set in use is one that the machine has.
    unsafe {
        std::arch::x86_64::_mm_sfence();
        if Isa::get() == Isa::Amx {
            amx::release();
        }
    }
}

/// Returns the same pointer, but hides from the compiler where it comes from. In a loop over such a pointer,
/// each address is the pointer plus a constant. Otherwise LLVM adds an index to the address at which the loop
/// began, and an Intel processor splits a multiply-add with such a memory operand in two.
#[allow(clippy::pointers_in_nomem_asm_block)] // Nothing is read through it.
#[inline(always)]
pub fn opaque<T>(pointer: *const T) -> *const T {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let same;
        // SAFETY: the assembly contains no instructions.
        unsafe {
            std::arch::asm!(
                "/* {} */",
                inout(reg) pointer => same,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        same
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pointer
}

/// Work that is compiled once for each instruction set.
pub trait Task {
    /// Does the work with vectors of type `V`.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`. Implementations must be `#[inline(always)]`, and so
    /// must every function that they pass vectors to.
    unsafe fn run<V: Vector>(self);
}

/// Declares modules whose `run` runs a task with the features of a set. Each set has a module of its own
/// because rustc compiles the instances of a generic function together with the module that contains it, so
/// that the sets are compiled in parallel.
macro_rules! runners {
    ($($name:ident: $features:literal, $vector:ty;)*) => {
        $(#[cfg(target_arch = "x86_64")]
        mod $name {
            /// # Safety
            /// The machine must have the features.
            #[target_feature(enable = $features)]
            pub unsafe fn run<T: super::Task>(task: T) {
                // SAFETY: this function has the features.
                unsafe { task.run::<$vector>() }
            }
        })*
    };
}

runners! {
    floats: "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma", super::sets::x86::Avx512<false>;
    pairs: "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma", super::sets::x86::Avx512<false>;
    tiles: "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16,avx2,fma", super::sets::x86::Avx512<true>;
    narrow: "avx2,fma", super::sets::x86::Avx2;
}

/// Runs a task that computes in `f32` with the vectors of the instruction set in use.
#[inline]
pub fn run<T: Task>(task: T) {
    let isa = Isa::get().for_floats();
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        // SAFETY: the set in use is one that the machine has.
        return unsafe { floats::run(task) };
    }
    run_others(isa, task);
}

/// Runs a task that computes in pairs of bf16 with the vectors of the instruction set in use.
#[inline]
pub fn run_pairs<T: Task>(task: T) {
    let isa = Isa::get().for_pairs();
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: the set in use is one that the machine has, with instructions for bf16.
        Isa::Avx512 => return unsafe { pairs::run(task) },
        // SAFETY: as above.
        Isa::Amx => return unsafe { tiles::run(task) },
        _ => {}
    }
    run_others(isa, task);
}

/// Runs a task with a set other than AVX-512 and AMX.
fn run_others<T: Task>(isa: Isa, task: T) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx2 {
        // SAFETY: the set in use is one that the machine has.
        return unsafe { narrow::run(task) };
    }
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        // SAFETY: NEON is part of every aarch64.
        return unsafe { task.run::<sets::arm::Neon>() };
    }
    assert_eq!(isa, Isa::Portable, "the instruction set is of another architecture");
    // SAFETY: plain Rust needs no instruction set.
    unsafe { task.run::<Plain>() }
}
