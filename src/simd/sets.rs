//! Implementations of [`Vector`] for the registers of each instruction set.

use super::Vector;

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

/// Declares a [`Vector`] that wraps a register type of `core::arch`, from the type's intrinsics.
macro_rules! vector {
    ($(#[$doc:meta])* $vector:ident $(<const $tiles:ident>)?, $register:ty, $lanes:literal, $wide:literal,
     $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $max:ident,
     fma: |$c:ident, $a:ident, $b:ident| $fma:expr,
     positive: |$x:ident, $m:ident| $positive:expr $(, $own:item)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $vector$(<const $tiles: bool>)?($register);

        // SAFETY: each method is one or two instructions of the set; the callers are inside `run`.
        #[allow(unused_unsafe)]
        unsafe impl$(<const $tiles: bool>)? Vector for $vector$(<$tiles>)? {
            $(const TILES: bool = $tiles;)?
            const LANES: usize = $lanes;
            const WIDE: bool = $wide;
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: the trait's contract.
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            unsafe fn load(p: *const f32) -> Self {
                // SAFETY: the trait's contract.
                Self(unsafe { $load(p) })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32) {
                // SAFETY: the trait's contract.
                unsafe { $store(p, self.0) }
            }
            #[inline(always)]
            unsafe fn fma(self, a: Self, b: Self) -> Self {
                let ($c, $a, $b) = (self.0, a.0, b.0);
                // SAFETY: the trait's contract.
                Self(unsafe { $fma })
            }
            #[inline(always)]
            unsafe fn add(self, a: Self) -> Self {
                // SAFETY: the trait's contract.
                Self(unsafe { $add(self.0, a.0) })
            }
            #[inline(always)]
            unsafe fn sub(self, a: Self) -> Self {
                // SAFETY: the trait's contract.
                Self(unsafe { $sub(self.0, a.0) })
            }
            #[inline(always)]
            unsafe fn where_positive(self, a: Self) -> Self {
                let ($x, $m) = (self.0, a.0);
                // SAFETY: the trait's contract.
                Self(unsafe { $positive })
            }
            #[inline(always)]
            unsafe fn relu(self) -> Self {
                // SAFETY: the trait's contract. On x86 the maximum is the second operand if one of them is
                // NaN.
                Self(unsafe { $max($splat(0.0), self.0) })
            }
            $($own)*
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub mod x86 {
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

    vector!(
    /// A register of AVX-512; `TILES` says whether the machine also has AMX tiles.
    Avx512<const TILES>, __m512, 16, true,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_max_ps,
    fma: |c, a, b| _mm512_fmadd_ps(a, b, c),
    positive: |x, m| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(m, _mm512_setzero_ps()), x),
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32) {
        // SAFETY: the trait's contract; the instruction needs an address that is aligned to a cache line.
        unsafe {
            if p.addr().is_multiple_of(64) {
                _mm512_stream_ps(p, self.0)
            } else {
                _mm512_storeu_ps(p, self.0)
            }
        }
    },
    // The methods below use AVX512-BF16, which `run_pairs` makes sure of.
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    },
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16) {
        // SAFETY: the trait's contract.
        unsafe {
            let rounded = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(self.0));
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
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high.0, low.0));
            let turns = _mm512_loadu_si512(TURNS.as_ptr().cast());
            Self(_mm512_castsi512_ps(_mm512_permutexvar_epi16(turns, both)))
        }
    },
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract; registers of one size.
        unsafe {
            let pairs = |x: __m512| std::mem::transmute::<__m512, __m512bh>(x);
            Self(_mm512_dpbf16_ps(self.0, pairs(b.0), pairs(a.0)))
        }
    });
    vector!(
    /// A register of AVX2.
    Avx2, __m256, 8, false,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_max_ps,
    fma: |c, a, b| _mm256_fmadd_ps(a, b, c),
    positive: |x, m| _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(m, _mm256_setzero_ps()), x),
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    },
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut bf16) {
        // SAFETY: the trait's contract.
        unsafe {
            let rounded = _mm256_srli_epi32::<16>(round(self.0));
            let (low, high) = (_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            _mm_storeu_si128(p.cast(), _mm_packus_epi32(low, high));
        }
    },
    #[inline(always)]
    unsafe fn pair(low: Self, high: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let low = _mm256_srli_epi32::<16>(round(low.0));
            Self(_mm256_castsi256_ps(_mm256_blend_epi16::<0b1010_1010>(low, round(high.0))))
        }
    },
    #[inline(always)]
    unsafe fn dot(self, a: Self, b: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            let ([a0, a1], [b0, b1]) = (unpair(a.0), unpair(b.0));
            Self(_mm256_fmadd_ps(a1, b1, _mm256_fmadd_ps(a0, b0, self.0)))
        }
    });

    /// Rounds to bf16, ties to even, in the upper halves of the lanes; the lower halves are left over. NaN
    /// stays NaN.
    #[inline(always)]
    unsafe fn round(x: __m256) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            _mm256_blendv_epi8(up, _mm256_set1_epi32(0x7fc0_0000), nan)
        }
    }

    /// Splits pairs of bf16 into vectors of their first and of their second values.
    #[inline(always)]
    unsafe fn unpair(pairs: __m256) -> [__m256; 2] {
        // SAFETY: the caller has AVX2.
        unsafe {
            let pairs = _mm256_castps_si256(pairs);
            let high = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(high)]
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod arm {
    use super::Vector;
    use std::arch::aarch64::*;

    vector!(
        /// A register of NEON.
        Neon, float32x4_t, 4, true, vdupq_n_f32, vld1q_f32, vst1q_f32, vaddq_f32, vsubq_f32, vmaxq_f32,
        fma: |c, a, b| vfmaq_f32(c, a, b),
        positive: |x, m| vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(m), vreinterpretq_u32_f32(x))));
}
