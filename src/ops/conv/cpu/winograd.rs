//! The 3×3 convolution by Winograd's F(2×2, 3×3): 16 multiplications for four outputs instead of 36.
//!
//! An output tile of 2×2 sees an input tile d of 4×4 (Lavin and Gray, arXiv 1509.09308, section 4.1):
//!
//! ```text
//! y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A        dw = Gᵀ [ Σ (Bᵀ d B) ⊙ (A dy Aᵀ) ] G
//!
//!      1  0 −1  0           1   0   0             1  0
//! Bᵀ = 0  1  1  0       G = ½   ½   ½         A = 1  1
//!      0 −1  1  0           ½  −½   ½             1 −1
//!      0  1  0 −1           0   0   1             0 −1
//! ```
//!
//! With channels, each of the 16 places ⊙ is a matrix product over some tiles, for which [`super::tile`] has the loops.
//! Transformed values are kept as 16 planes: (16, tiles, channels).

// Indices are those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::tile::{Outer, Run, Sink, Walk, correlate, outer};
use crate::ops::conv::Geometry;
use crate::ops::simd::{Isa, Task, Vector, run};

/// Whether a layer's sizes suit: whole tiles, four of which fill a row, and whole vectors.
pub fn fits(geo: Geometry, isa: Isa) -> bool {
    let whole = geo.height.is_multiple_of(2) && geo.width.is_multiple_of(8);
    isa.is_wide() && geo.stride == 1 && whole && geo.cin.is_multiple_of(16) && geo.cout.is_multiple_of(16)
}

/// Tiles that are transformed at a time: some whole rows of them.
fn tiles(geo: Geometry) -> usize {
    let per_row = geo.width / 2;
    (16 / per_row).clamp(1, geo.height / 2) * per_row
}

/// Floats of work space for [`forward`]; [`weight_grad`] needs as many.
pub fn scratch_len(geo: Geometry) -> usize {
    16 * tiles(geo) * (geo.cin + geo.cout)
}

/// `u = G w Gᵀ`: (3, 3, rows, cols) to (16, rows, cols).
pub fn transform_weight(isa: Isa, w: &[f32], u: &mut [f32]) {
    struct Transform<'a>(&'a [f32], &'a mut [f32]);
    impl Task for Transform<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let plane = self.0.len() / 9;
            assert!(plane.is_multiple_of(V::LANES) && self.1.len() >= 16 * plane);
            for at in (0..plane).step_by(V::LANES) {
                // SAFETY: inside the planes, by the assertion.
                unsafe {
                    let w = |kw: usize| self.0.as_ptr().add(kw * plane + at);
                    let columns = [
                        g(column::<V, 3>(w(0), 3 * plane)),
                        g(column::<V, 3>(w(1), 3 * plane)),
                        g(column::<V, 3>(w(2), 3 * plane)),
                    ];
                    for i in 0..4 {
                        let u = g([columns[0][i], columns[1][i], columns[2][i]]);
                        for (j, u) in u.into_iter().enumerate() {
                            u.store(self.1.as_mut_ptr().add((i * 4 + j) * plane + at));
                        }
                    }
                }
            }
        }
    }
    run(isa, Transform(w, u));
}

/// `dw = Gᵀ du G`: (16, rows, cols) to (3, 3, rows, cols).
pub fn restore_weight(isa: Isa, du: &[f32], dw: &mut [f32]) {
    struct Restore<'a>(&'a [f32], &'a mut [f32]);
    impl Task for Restore<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let plane = self.1.len() / 9;
            assert!(plane.is_multiple_of(V::LANES) && self.0.len() >= 16 * plane);
            for at in (0..plane).step_by(V::LANES) {
                // SAFETY: inside the planes, by the assertion.
                unsafe {
                    let u = |j: usize| self.0.as_ptr().add(j * plane + at);
                    let columns = [
                        g_transposed(column::<V, 4>(u(0), 4 * plane)),
                        g_transposed(column::<V, 4>(u(1), 4 * plane)),
                        g_transposed(column::<V, 4>(u(2), 4 * plane)),
                        g_transposed(column::<V, 4>(u(3), 4 * plane)),
                    ];
                    for kh in 0..3 {
                        let w =
                            g_transposed([columns[0][kh], columns[1][kh], columns[2][kh], columns[3][kh]]);
                        for (kw, w) in w.into_iter().enumerate() {
                            w.store(self.1.as_mut_ptr().add((kh * 3 + kw) * plane + at));
                        }
                    }
                }
            }
        }
    }
    run(isa, Restore(du, dw));
}

/// The output of one image from its input `x` inside a halo: `geo` with `u` of [`transform_weight`].
///
/// # Safety
/// As [`Vector`]; `x` holds the image with its halo, `u` 16·cin·cout and `scratch` [`scratch_len`] floats.
#[inline(always)]
pub unsafe fn forward<V: Vector, const WIDE: bool, S: Sink>(
    geo: Geometry,
    x: *const f32,
    u: *const f32,
    scratch: &mut [f32],
    sink: &mut S,
) {
    let group = tiles(geo);
    let (v, m) = scratch.split_at_mut(16 * group * geo.cin);
    for (row, count) in groups(geo) {
        // SAFETY: the caller's contract.
        unsafe {
            transform_input::<V>(geo, x, row, count, v.as_mut_ptr());
            let runs = [Run { offset: 0, len: geo.cin }];
            let walk = Walk { rows: 1, cols: count, row_step: 0, col_step: geo.cin, runs: &runs };
            for place in 0..16 {
                let (v, m) =
                    (v.as_ptr().add(place * count * geo.cin), m.as_mut_ptr().add(place * count * geo.cout));
                let mut product = Product { m, cout: geo.cout };
                correlate::<V, WIDE, _>(v, walk, u.add(place * geo.cin * geo.cout), geo.cout, &mut product);
            }
            finish::<V, S>(geo, m.as_ptr(), row, count, sink);
        }
    }
}

/// Adds one image's weight gradient to `du`: `x` is the input, `g` the output's gradient, both inside halos.
///
/// # Safety
/// As [`forward`]; `du` holds 16·cin·cout floats.
#[inline(always)]
pub unsafe fn weight_grad<V: Vector, const WIDE: bool>(
    geo: Geometry,
    x: *const f32,
    g: *const f32,
    du: *mut f32,
    scratch: &mut [f32],
) {
    let group = tiles(geo);
    let (v, d) = scratch.split_at_mut(16 * group * geo.cin);
    for (row, count) in groups(geo) {
        let size =
            Outer { rows: 1, cols: count, x_row: 0, x_col: geo.cin, g_row: 0, taps: geo.cin, cout: geo.cout };
        // SAFETY: the caller's contract.
        unsafe {
            transform_input::<V>(geo, x, row, count, v.as_mut_ptr());
            transform_grad::<V>(geo, g, row, count, d.as_mut_ptr());
            for place in 0..16 {
                outer::<V, WIDE>(
                    size,
                    v.as_ptr().add(place * count * geo.cin),
                    d.as_ptr().add(place * count * geo.cout),
                    du.add(place * geo.cin * geo.cout),
                );
            }
        }
    }
}

/// First row of tiles and number of tiles of each group.
fn groups(geo: Geometry) -> impl Iterator<Item = (usize, usize)> {
    let per_row = geo.width / 2;
    let rows = tiles(geo) / per_row;
    (0..geo.height / 2).step_by(rows).map(move |row| (row, rows.min(geo.height / 2 - row) * per_row))
}

// The products with B, A and G on either side. Functions, not closures: only these can be told to be inlined, and
// what is not inlined is compiled without the instruction set.

/// `Bᵀ d`.
#[inline(always)]
unsafe fn b<V: Vector>(d: [V; 4]) -> [V; 4] {
    // SAFETY: the caller's contract.
    unsafe { [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3])] }
}

/// `Aᵀ m`.
#[inline(always)]
unsafe fn a<V: Vector>(m: [V; 4]) -> [V; 2] {
    // SAFETY: the caller's contract.
    unsafe { [m[0].add(m[1]).add(m[2]), m[1].sub(m[2]).sub(m[3])] }
}

/// `A y`.
#[inline(always)]
unsafe fn a_transposed<V: Vector>(y: [V; 2]) -> [V; 4] {
    // SAFETY: the caller's contract.
    unsafe { [y[0], y[0].add(y[1]), y[0].sub(y[1]), V::splat(0.0).sub(y[1])] }
}

/// `G w`.
#[inline(always)]
unsafe fn g<V: Vector>(w: [V; 3]) -> [V; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let (even, half, zero) = (w[0].add(w[2]), V::splat(0.5), V::splat(0.0));
        [w[0], zero.fma(even.add(w[1]), half), zero.fma(even.sub(w[1]), half), w[2]]
    }
}

/// `Gᵀ u`.
#[inline(always)]
unsafe fn g_transposed<V: Vector>(u: [V; 4]) -> [V; 3] {
    // SAFETY: the caller's contract.
    unsafe {
        let half = V::splat(0.5);
        let (sum, difference) = (u[1].add(u[2]), u[1].sub(u[2]));
        [u[0].fma(sum, half), V::splat(0.0).fma(difference, half), u[3].fma(sum, half)]
    }
}

/// `N` vectors that are `step` floats apart.
#[inline(always)]
unsafe fn column<V: Vector, const N: usize>(p: *const f32, step: usize) -> [V; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut all = [V::splat(0.0); N];
        for (i, v) in all.iter_mut().enumerate() {
            *v = V::load(p.add(i * step));
        }
        all
    }
}

/// `v = Bᵀ d B` for the tiles from a row on; `v` is (16, count, cin).
#[inline(always)]
unsafe fn transform_input<V: Vector>(geo: Geometry, x: *const f32, row: usize, count: usize, v: *mut f32) {
    let (c, width, plane) = (geo.cin, (geo.width + 2) * geo.cin, count * geo.cin);
    let per_row = geo.width / 2;
    for first in (0..count).step_by(per_row) {
        for channel in (0..c).step_by(V::LANES) {
            // SAFETY: the contract of `forward`: four rows from twice the tile's are inside the halo.
            unsafe {
                let x = x.add(2 * (row + first / per_row) * width + channel);
                let (mut left, mut next) = (b(column::<V, 4>(x, width)), b(column::<V, 4>(x.add(c), width)));
                for tile in 0..per_row {
                    let x = x.add((2 * tile + 2) * c);
                    let (third, last) = (b(column::<V, 4>(x, width)), b(column::<V, 4>(x.add(c), width)));
                    let v = v.add((first + tile) * c + channel);
                    for i in 0..4 {
                        for (j, place) in b([left[i], next[i], third[i], last[i]]).into_iter().enumerate() {
                            place.store(v.add((i * 4 + j) * plane));
                        }
                    }
                    (left, next) = (third, last);
                }
            }
        }
    }
}

/// `d = A dy Aᵀ` for the tiles from a row on; `d` is (16, count, cout).
#[inline(always)]
unsafe fn transform_grad<V: Vector>(geo: Geometry, g: *const f32, row: usize, count: usize, d: *mut f32) {
    let (c, width, plane) = (geo.cout, (geo.width + 2) * geo.cout, count * geo.cout);
    let per_row = geo.width / 2;
    for tile in 0..count {
        for channel in (0..c).step_by(V::LANES) {
            // SAFETY: the contract of `weight_grad`: the two rows of the tile are inside the halo.
            unsafe {
                let at = (2 * (row + tile / per_row) + 1) * width + (2 * (tile % per_row) + 1) * c + channel;
                let left = a_transposed(column::<V, 2>(g.add(at), width));
                let right = a_transposed(column::<V, 2>(g.add(at + c), width));
                let d = d.add(tile * c + channel);
                for i in 0..4 {
                    for (j, place) in a_transposed([left[i], right[i]]).into_iter().enumerate() {
                        place.store(d.add((i * 4 + j) * plane));
                    }
                }
            }
        }
    }
}

/// `y = Aᵀ m A`, handed to the sink by eight pixels; `m` is (16, count, cout).
#[inline(always)]
unsafe fn finish<V: Vector, S: Sink>(geo: Geometry, m: *const f32, row: usize, count: usize, sink: &mut S) {
    let (c, plane, per_row) = (geo.cout, count * geo.cout, geo.width / 2);
    for channel in (0..c).step_by(V::LANES) {
        for first in (0..count).step_by(4) {
            // SAFETY: the planes hold `count` tiles; a row is whole groups of four.
            unsafe {
                let mut above = [[V::splat(0.0)]; 8];
                let mut below = above;
                for tile in 0..4 {
                    let m = m.add((first + tile) * c + channel);
                    let c0 = a(column::<V, 4>(m, 4 * plane));
                    let c1 = a(column::<V, 4>(m.add(plane), 4 * plane));
                    let c2 = a(column::<V, 4>(m.add(2 * plane), 4 * plane));
                    let c3 = a(column::<V, 4>(m.add(3 * plane), 4 * plane));
                    let [y0, y1] = a([c0[0], c1[0], c2[0], c3[0]]);
                    (above[2 * tile], above[2 * tile + 1]) = ([y0], [y1]);
                    let [y0, y1] = a([c0[1], c1[1], c2[1], c3[1]]);
                    (below[2 * tile], below[2 * tile + 1]) = ([y0], [y1]);
                }
                let (y, x) = (2 * (row + first / per_row), 2 * (first % per_row));
                sink.put::<V, 8, 1>(above, y, x, channel);
                sink.put::<V, 8, 1>(below, y + 1, x, channel);
            }
        }
    }
}

/// Stores one place's products, (count, cout).
struct Product {
    m: *mut f32,
    cout: usize,
}

impl Sink for Product {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(
        &mut self,
        acc: [[V; Q]; P],
        _: usize,
        col: usize,
        channel: usize,
    ) {
        for (p, pixel) in acc.into_iter().enumerate() {
            for (q, v) in pixel.into_iter().enumerate() {
                // SAFETY: the trait's contract: the tile is inside the plane.
                unsafe { v.store(self.m.add((col + p) * self.cout + channel + q * V::LANES)) };
            }
        }
    }
}
