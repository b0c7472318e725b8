//! AMX: matrix products of bf16 tiles, in inline assembly, because the intrinsics are not stable.
//!
//! A tile register has up to 16 rows of 64 bytes. Here registers 0 to 4 hold sums, 16 floats per row;
//! register 5 holds a left factor, whose rows are pairs of bf16; register 6 holds a right factor, whose rows
//! are 16 such pairs, one for each column. The processor renames registers, so the next factor is loaded
//! while the last one is in use. The product of two left and two right factors also uses registers 4 and 7.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid, __cpuid_count, __m512, _mm512_shuffle_f32x4, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
};
use std::arch::x86_64::{_mm512_castpd_ps, _mm512_castps_pd, _mm512_unpacklo_pd, _mm512_unpacklo_ps};
use std::sync::OnceLock;

/// The number of sums that are computed together.
pub const SUMS: usize = 5;

/// The number of floats in a sum of 16 rows.
pub const SUM: usize = 256;

/// Returns whether the machine has AMX for bf16 and Linux lets the process use the tile registers, for which
/// the process must ask.
pub fn is_available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        const TILE: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        // SAFETY: every x86-64 processor has CPUID. The intrinsics are safe functions in newer versions of
        // Rust.
        #[allow(unused_unsafe)]
        let (leaves, features) = unsafe { (__cpuid(0).eax, __cpuid_count(7, 0).edx) };
        let found = leaves >= 7 && features & (TILE | BF16) == TILE | BF16;
        found && cfg!(target_os = "linux") && permitted()
    })
}

/// Asks Linux for the tile registers, by `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
fn permitted() -> bool {
    let mut status: i64 = 158;
    // SAFETY: the system call takes two numbers and no pointers.
    unsafe {
        asm!(
            "syscall",
            inout("rax") status, in("rdi") 0x1023_u64, in("rsi") 18_u64, out("rcx") _, out("r11") _,
            options(nostack)
        );
    }
    status == 0
}

/// Configures the tile registers: sums and left factors have `rows` rows, a row of a left factor has `pairs`
/// pairs of bf16, and right factors have `pairs` rows.
///
/// # Safety
/// [`is_available`] must have returned true, and `rows` and `pairs` must be at most 16.
#[inline(always)]
pub unsafe fn configure(rows: usize, pairs: usize) {
    #[repr(C, align(64))]
    struct Config {
        palette: u8,
        start: u8,
        _reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }
    let mut config = Config { palette: 1, start: 0, _reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
    for n in 0..8 {
        config.bytes[n] = if n == 5 { 4 * pairs as u16 } else { 64 };
        config.rows[n] = if n < 6 { rows as u8 } else { pairs as u8 };
    }
    // SAFETY: the caller's contract.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
}

/// Releases the tile registers, so that they need not be saved on a context switch.
///
/// # Safety
/// [`is_available`] must have returned true.
#[inline(always)]
pub unsafe fn release() {
    // SAFETY: the caller's contract.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Sets all sums to zero.
///
/// # Safety
/// The registers must have been configured by [`configure`].
#[inline(always)]
pub unsafe fn clear() {
    // SAFETY: the caller's contract.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            options(nostack, nomem)
        )
    }
}

/// Expands `$do!(n)` for each of the first `$count` sums.
macro_rules! for_sums {
    ($count:expr, $do:ident) => {
        $do!(0);
        if $count > 1 {
            $do!(1);
        }
        if $count > 2 {
            $do!(2);
        }
        if $count > 3 {
            $do!(3);
        }
        if $count > 4 {
            $do!(4);
        }
    };
}

/// Loads a factor, whose rows are `$step` bytes apart, into a register.
macro_rules! load {
    ($register:literal, $from:expr, $step:expr) => {
        asm!(
            concat!("tileloadd tmm", $register, ", [{from} + {step}]"),
            from = in(reg) $from, step = in(reg) $step, options(nostack, readonly)
        )
    };
}

/// Adds the product of the loaded factors to a sum.
macro_rules! product {
    ($sum:literal) => {
        asm!(concat!("tdpbf16ps tmm", $sum, ", tmm5, tmm6"), options(nostack, nomem))
    };
}

/// Adds the products of `count` left factors and one right factor to as many sums. Each left factor begins
/// `offset` floats after its pointer in `left`.
///
/// # Safety
/// The registers must have been configured by [`configure`]; the pointers must be valid for reading the
/// factors, with rows `left_step` and `right_step` bytes apart; and `count` must be 1 to [`SUMS`].
#[inline(always)]
pub unsafe fn multiply_lefts(
    count: usize,
    left: &[*const f32; SUMS],
    offset: usize,
    left_step: usize,
    right: *const f32,
    right_step: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        load!(6, right, right_step);
        macro_rules! add {
            ($n:literal) => {
                load!(5, left[$n].add(offset), left_step);
                product!($n);
            };
        }
        for_sums!(count, add);
    }
}

/// Adds the products of one left factor and `count` right factors, which begin 16 floats apart, to as many
/// sums.
///
/// # Safety
/// The contract of [`multiply_lefts`] applies.
#[inline(always)]
pub unsafe fn multiply_rights(
    count: usize,
    left: *const f32,
    left_step: usize,
    right: *const f32,
    right_step: usize,
) {
    // SAFETY: the caller's contract.
    unsafe {
        load!(5, left, left_step);
        macro_rules! add {
            ($n:literal) => {
                load!(6, right.add(16 * $n), right_step);
                product!($n);
            };
        }
        for_sums!(count, add);
    }
}

/// Adds the products of two left factors and two right factors, which begin 16 floats apart, to four sums:
/// first the two of the first left factor, then those of the second. All factors have 16 rows; those of the
/// left factors are contiguous.
///
/// # Safety
/// The contract of [`multiply_lefts`] applies.
#[inline(always)]
pub unsafe fn multiply_square(left: [*const f32; 2], right: *const f32, right_step: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        load!(4, left[0], 64usize);
        load!(6, right, right_step);
        asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nostack, nomem));
        load!(7, right.add(16), right_step);
        asm!("tdpbf16ps tmm1, tmm4, tmm7", options(nostack, nomem));
        load!(5, left[1], 64usize);
        asm!("tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7", options(nostack, nomem));
    }
}

/// Writes the first `count` sums, each to its pointer in `to`, in rows of 16 floats.
///
/// # Safety
/// The registers must have been configured by [`configure`], and the pointers must be valid for writing as
/// many rows as it was given.
#[inline(always)]
pub unsafe fn store(count: usize, to: &[*mut f32; SUMS]) {
    macro_rules! store {
        ($n:literal) => {
            asm!(
                concat!("tilestored [{to} + {step}], tmm", $n),
                to = in(reg) to[$n], step = in(reg) 64usize, options(nostack)
            )
        };
    }
    // SAFETY: the caller's contract.
    unsafe {
        for_sums!(count, store);
    }
}

/// Loads the first `count` sums from where [`store`] has written them.
///
/// # Safety
/// The registers must have been configured by [`configure`], and the pointers must be valid for reading as
/// many rows as it was given.
#[inline(always)]
pub unsafe fn load(count: usize, from: &[*mut f32; SUMS]) {
    macro_rules! load_sum {
        ($n:literal) => {
            load!($n, from[$n], 64usize);
        };
    }
    // SAFETY: the caller's contract.
    unsafe {
        for_sums!(count, load_sum);
    }
}

/// Transposes a 16×16 matrix that is given as its rows.
///
/// # Safety
/// The machine must have AVX-512.
#[inline(always)]
pub unsafe fn transpose(r: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut t = r;
        // Interleaves pairs of rows, then pairs of these: the 128-bit lanes then hold transposed 4×4 blocks.
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..4 {
            let pd = |n: usize| _mm512_castps_pd(t[4 * i + n]);
            u[4 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(0), pd(2)));
            u[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(0), pd(2)));
            u[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pd(1), pd(3)));
            u[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pd(1), pd(3)));
        }
        // The 128-bit lane j of u[4i + n] holds column 4j + n of rows 4i … 4i + 3.
        let mut out = u;
        for n in 0..4 {
            let (a, b, c, d) = (u[n], u[4 + n], u[8 + n], u[12 + n]);
            let (ab0, ab1) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd0, cd1) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            out[n] = _mm512_shuffle_f32x4::<0x88>(ab0, cd0);
            out[8 + n] = _mm512_shuffle_f32x4::<0xdd>(ab0, cd0);
            out[4 + n] = _mm512_shuffle_f32x4::<0x88>(ab1, cd1);
            out[12 + n] = _mm512_shuffle_f32x4::<0xdd>(ab1, cd1);
        }
        out
    }
}
