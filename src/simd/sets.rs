//! Implementations of [`Vector`] for the registers of each instruction set.

use super::Vector;
#[cfg(target_arch = "x86_64")]
use half::bf16;

// SAFETY: a plain float needs no instruction set.
unsafe impl Vector for f32 {
    const LANES: usize = 1;
    const WIDE: bool = false;
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
        if self < 0.0 { 0.0 } else { self }
    }
}

/// A vector of four lanes in plain Rust.
#[derive(Clone, Copy)]
pub struct Plain([f32; 4]);

// SAFETY: plain Rust needs no instruction set.
unsafe impl Vector for Plain {
    const LANES: usize = 4;
    const WIDE: bool = false;
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
        Plain(self.0.map(|x| if x < 0.0 { 0.0 } else { x }))
    }
}

/// Implements [`Vector`] for a register type of `core::arch` from its intrinsics.
macro_rules! vector {
    ($vector:ty, $lanes:literal, $wide:literal,
     $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $max:ident,
     fma: |$c:ident, $a:ident, $b:ident| $fma:expr,
     positive: |$x:ident, $m:ident| $positive:expr $(, $own:item)*) => {
        // SAFETY: each method is one or two instructions of the set; the callers are inside `run`.
        #[allow(unused_unsafe)]
        unsafe impl Vector for $vector {
            const LANES: usize = $lanes;
            const WIDE: bool = $wide;
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
                // SAFETY: the trait's contract. On x86 the maximum is the second operand if one of them is
                // NaN.
                unsafe { $max($splat(0.0), self) }
            }
            $($own)*
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Vector;
    use half::bf16;

    /// Returns the indices for a permutation that interleaves the lanes from `first` on and those from
    /// `second` on.
    const fn in_turns(first: u16, second: u16) -> [u16; 32] {
        let (mut lanes, mut i) = ([0; 32], 0);
        while i < 32 {
            lanes[i] = [first, second][i % 2] + i as u16 / 2;
            i += 1;
        }
        lanes
    }

    vector!(__m512, 16, true,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_max_ps,
    fma: |c, a, b| _mm512_fmadd_ps(a, b, c),
    positive: |x, m| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(m, _mm512_setzero_ps()), x),
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32) {
        // SAFETY: the trait's contract; the instruction needs an address that is aligned to a cache line.
        unsafe {
            if p.addr().is_multiple_of(64) { _mm512_stream_ps(p, self) } else { _mm512_storeu_ps(p, self) }
        }
    },
    // The methods below use AVX512-BF16, which `run_pairs` makes sure of.
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    },
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16) {
        // SAFETY: the trait's contract.
        unsafe {
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self));
            _mm256_storeu_si256(p.cast(), rounded)
        }
    },
    #[inline(always)]
    unsafe fn side_by_side(first: *const bf16, second: *const bf16, out: *mut bf16) {
        const LOW: [u16; 32] = in_turns(0, 32);
        const HIGH: [u16; 32] = in_turns(16, 48);
        // SAFETY: the trait's contract.
        unsafe {
            let (a, b) = (_mm512_loadu_si512(first.cast()), _mm512_loadu_si512(second.cast()));
            let low = _mm512_permutex2var_epi16(a, _mm512_loadu_si512(LOW.as_ptr().cast()), b);
            let high = _mm512_permutex2var_epi16(a, _mm512_loadu_si512(HIGH.as_ptr().cast()), b);
            _mm512_storeu_si512(out.cast(), low);
            _mm512_storeu_si512(out.add(32).cast(), high);
        }
    },
    #[inline(always)]
    unsafe fn pair(low: Self, high: Self) -> Self {
        const TURNS: [u16; 32] = in_turns(0, 16);
        // SAFETY: the trait's contract; registers of one size.
        unsafe {
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(TURNS.as_ptr().cast()), both))
        }
    },
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract; registers of one size.
        unsafe {
            let pairs = |x: __m512| std::mem::transmute::<__m512, __m512bh>(x);
            _mm512_dpbf16_ps(self, pairs(b), pairs(a))
        }
    });
    vector!(__m256, 8, false,
        _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_max_ps,
        fma: |c, a, b| _mm256_fmadd_ps(a, b, c),
        positive: |x, m| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(m, _mm256_setzero_ps()), x));
}

/// An AVX-512 register on a machine that also has AMX tiles. Its own operations are those of AVX-512.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Tiled(std::arch::x86_64::__m512);

#[cfg(target_arch = "x86_64")]
type M = std::arch::x86_64::__m512;

// SAFETY: each method is that of the AVX-512 register.
#[cfg(target_arch = "x86_64")]
unsafe impl Vector for Tiled {
    const LANES: usize = <M as Vector>::LANES;
    const WIDE: bool = <M as Vector>::WIDE;
    const TILES: bool = true;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::splat(x) })
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::load(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the trait's contract, which is the same.
        unsafe { <M as Vector>::store(self.0, p) }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::fma(self.0, a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn add(self, a: Self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::add(self.0, a.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, a: Self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::sub(self.0, a.0) })
    }
    #[inline(always)]
    unsafe fn where_positive(self, a: Self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::where_positive(self.0, a.0) })
    }
    #[inline(always)]
    unsafe fn relu(self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::relu(self.0) })
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::load_bf16(p) })
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16) {
        // SAFETY: the trait's contract, which is the same.
        unsafe { <M as Vector>::store_bf16(self.0, p) }
    }
    #[inline(always)]
    unsafe fn side_by_side(first: *const bf16, second: *const bf16, out: *mut bf16) {
        // SAFETY: the trait's contract, which is the same.
        unsafe { <M as Vector>::side_by_side(first, second, out) }
    }
    #[inline(always)]
    unsafe fn pair(low: Self, high: Self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::pair(low.0, high.0) })
    }
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract, which is the same.
        Tiled(unsafe { <M as Vector>::dot(self.0, a.0, b.0) })
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Vector;
    use std::arch::aarch64::*;

    vector!(float32x4_t, 4, true, vdupq_n_f32, vld1q_f32, vst1q_f32, vaddq_f32, vsubq_f32, vmaxq_f32,
        fma: |c, a, b| vfmaq_f32(c, a, b),
        positive: |x, m| vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(m), vreinterpretq_u32_f32(x))));
}
