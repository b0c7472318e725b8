//! The one-dimensional transforms of a tile size. They are functions, not closures, because only functions
//! can be forced inline, and what is not inlined is compiled without the instruction set.

use crate::simd::Vector;

/// The transforms of a tile size, where `IN` = `OUT` + 2. The `IN`×`IN` elements of a transformed tile (of
/// `G w Gᵀ`, `Bᵀ d B` or `A dy Aᵀ`) are its *components*.
pub trait Form<const IN: usize, const OUT: usize> {
    /// The rows of components in the order in which they are computed; neighbours use the same rows of `d`.
    const ROWS: [usize; IN];
    /// Number of rows of components that are computed at a time. More rows share loads; fewer keep the
    /// intermediate values in a faster cache.
    const ROWS_PER_PASS: usize;
    /// Number of tiles that are computed at a time, if rows of tiles allow it. More tiles share the reads of
    /// all weights, or of their gradient; fewer keep the intermediate values in a faster cache.
    const TILES_PER_GROUP: usize;
    /// Number of components of a part of a row. A part, which is all or half of the row, is multiplied at
    /// once, for as many tiles as then fit in the registers. With fewer components, more tiles share the
    /// loaded weights.
    const PART_LEN: usize;

    /// Computes `Bᵀ d`.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`].
    unsafe fn input<V: Vector>(d: [V; IN]) -> [V; IN];
    /// Computes the contribution to `Aᵀ m` of one `part` of `m`, which is [`Form::PART_LEN`] components, and
    /// adds it to the `sums` of the parts before. The first part ignores `sums`.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`].
    unsafe fn output_part<V: Vector>(part: usize, m: [V; IN], sums: [V; OUT]) -> [V; OUT];
    /// Computes `Aᵀ m`.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`].
    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; IN]) -> [V; OUT] {
        // SAFETY: the caller's contract.
        unsafe {
            let mut sums = [V::splat(0.0); OUT];
            for part in 0..IN / Self::PART_LEN {
                sums = Self::output_part(part, m, sums);
            }
            sums
        }
    }
    /// Computes `G w`.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`].
    unsafe fn weight<V: Vector>(w: [V; 3]) -> [V; IN];
}

/// The transforms of F(2×2, 3×3).
pub struct F2x2;

impl Form<4, 2> for F2x2 {
    const ROWS: [usize; 4] = [0, 1, 2, 3];
    const ROWS_PER_PASS: usize = 1;
    const TILES_PER_GROUP: usize = 16;
    const PART_LEN: usize = 4;

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 4]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe { [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3])] }
    }

    #[inline(always)]
    unsafe fn output_part<V: Vector>(_part: usize, m: [V; 4], _sums: [V; 2]) -> [V; 2] {
        // SAFETY: the caller's contract.
        unsafe { [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3])] }
    }

    #[inline(always)]
    unsafe fn weight<V: Vector>(w: [V; 3]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let (even, half, zero) = (w[0].add(w[2]), V::splat(0.5), V::splat(0.0));
            [w[0], zero.fma(even.add(w[1]), half), zero.fma(even.sub(w[1]), half), w[2]]
        }
    }
}

/// The transforms of F(4×4, 3×3). The first and the last component are halved in the weights and doubled in
/// the output, which turns additions into multiply-adds.
pub struct F4x4;

impl Form<6, 4> for F4x4 {
    const ROWS: [usize; 6] = [1, 2, 3, 4, 0, 5];
    const ROWS_PER_PASS: usize = 2;
    const TILES_PER_GROUP: usize = 8;
    const PART_LEN: usize = 3;

    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 6]) -> [V; 6] {
        // SAFETY: the caller's contract.
        unsafe {
            // There are as many additions as multiply-adds, because processors do one of each at a time.
            let (two, four) = (V::splat(-2.0), V::splat(-4.0));
            let (even, odd) = (d[4].fma(d[2], four), d[3].fma(d[1], four));
            let (outer, inner) = (d[4].sub(d[2]), d[3].sub(d[1]));
            [
                outer.fma(d[2].sub(d[0]), four),
                even.add(odd),
                even.sub(odd),
                outer.fma(inner, V::splat(2.0)),
                outer.fma(inner, two),
                d[5].sub(d[3]).fma(inner, four),
            ]
        }
    }

    #[inline(always)]
    unsafe fn output_part<V: Vector>(part: usize, m: [V; 6], sums: [V; 4]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let two = V::splat(2.0);
            if part == 0 {
                let (even, odd) = (m[1].add(m[2]), m[1].sub(m[2]));
                return [even.fma(m[0], two), odd, even, odd];
            }
            let (even, odd) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                sums[0].add(even),
                sums[1].fma(odd, two),
                sums[2].fma(even, V::splat(4.0)),
                sums[3].fma(odd, V::splat(8.0)).fma(m[5], two),
            ]
        }
    }

    #[inline(always)]
    unsafe fn weight<V: Vector>(w: [V; 3]) -> [V; 6] {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = V::splat(0.0);
            let (even1, even2) = (w[0].add(w[2]), w[0].fma(w[2], V::splat(4.0)));
            let (sixth, other) = (V::splat(-1.0 / 6.0), V::splat(1.0 / 24.0));
            [
                zero.fma(w[0], V::splat(0.125)),
                zero.fma(even1.add(w[1]), sixth),
                zero.fma(even1.sub(w[1]), sixth),
                zero.fma(even2.fma(w[1], V::splat(2.0)), other),
                zero.fma(even2.fma(w[1], V::splat(-2.0)), other),
                zero.fma(w[2], V::splat(0.5)),
            ]
        }
    }
}

/// Computes `A y` of F(2×2), the transpose of [`Form::output`].
///
/// # Safety
/// The caller must uphold the contract of [`Vector`].
#[inline(always)]
pub unsafe fn output_transposed<V: Vector>(y: [V; 2]) -> [V; 4] {
    // SAFETY: the caller's contract.
    unsafe { [y[0], y[0].add(y[1]), y[0].sub(y[1]), V::splat(0.0).sub(y[1])] }
}

/// Computes `Gᵀ u` of F(2×2), the transpose of [`Form::weight`].
///
/// # Safety
/// The caller must uphold the contract of [`Vector`].
#[inline(always)]
pub unsafe fn weight_transposed<V: Vector>(u: [V; 4]) -> [V; 3] {
    // SAFETY: the caller's contract.
    unsafe {
        let half = V::splat(0.5);
        let (sum, difference) = (u[1].add(u[2]), u[1].sub(u[2]));
        [u[0].fma(sum, half), V::splat(0.0).fma(difference, half), u[3].fma(sum, half)]
    }
}
