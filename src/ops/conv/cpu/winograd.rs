//! The 3×3 convolution by Winograd's F(m×m, 3×3): (m + 2)² multiplications for m² outputs instead of 9 m².
//!
//! An output tile of m×m sees an input tile d of (m + 2)×(m + 2) (Lavin and Gray, arXiv 1509.09308, section 4):
//!
//! ```text
//! y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A        dw = Gᵀ [ Σ (Bᵀ d B) ⊙ (A dy Aᵀ) ] G
//!
//! m = 2:
//!      1  0 −1  0           1   0   0             1  0
//! Bᵀ = 0  1  1  0       G = ½   ½   ½         A = 1  1
//!      0 −1  1  0           ½  −½   ½             1 −1
//!      0  1  0 −1           0   0   1             0 −1
//! ```
//!
//! m = 4 has the points 0, ±1, ±2, ∞ of the same paper; it rounds ten times as coarsely and serves inference only.
//!
//! With channels, each of the places ⊙ is a matrix product over some tiles, for which [`super::tile`] has the loops.
//! Transformed values are kept as planes, one a place: (places, tiles, channels). In bf16 they are rounded to it after the
//! transform, and lie in lanes as [`super::tile`] takes them: for the weight gradient two neighbouring tiles share one.

// Indices are those of the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use super::tile::{Outer, Run, Sink, Walk, correlate, outer};
use crate::ops::conv::Geometry;
use crate::ops::simd::{Isa, Task, Vector, run};
use crate::ops::value::Value;
use half::bf16;

/// The transforms of a tile size: `IN` = `OUT` + 2.
pub trait Form<const IN: usize, const OUT: usize> {
    /// `Bᵀ d`.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn input<V: Vector>(d: [V; IN]) -> [V; IN];
    /// `Aᵀ m`.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn output<V: Vector>(m: [V; IN]) -> [V; OUT];
    /// `G w`.
    ///
    /// # Safety
    /// As [`Vector`].
    unsafe fn weight<V: Vector>(w: [V; 3]) -> [V; IN];
}

/// F(2×2, 3×3).
pub struct Two;

impl Form<4, 2> for Two {
    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 4]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe { [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3])] }
    }

    #[inline(always)]
    unsafe fn output<V: Vector>(m: [V; 4]) -> [V; 2] {
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

/// F(4×4, 3×3).
pub struct Four;

impl Form<6, 4> for Four {
    #[inline(always)]
    unsafe fn input<V: Vector>(d: [V; 6]) -> [V; 6] {
        // SAFETY: the caller's contract.
        unsafe {
            // As many additions as multiply-adds: processors do one of each at a time.
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
    unsafe fn output<V: Vector>(m: [V; 6]) -> [V; 4] {
        // SAFETY: the caller's contract.
        unsafe {
            let (even1, odd1) = (m[1].add(m[2]), m[1].sub(m[2]));
            let (even2, odd2) = (m[3].add(m[4]), m[3].sub(m[4]));
            [
                m[0].add(even1).add(even2),
                odd1.fma(odd2, V::splat(2.0)),
                even1.fma(even2, V::splat(4.0)),
                odd1.fma(odd2, V::splat(8.0)).add(m[5]),
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
                zero.fma(w[0], V::splat(0.25)),
                zero.fma(even1.add(w[1]), sixth),
                zero.fma(even1.sub(w[1]), sixth),
                zero.fma(even2.fma(w[1], V::splat(2.0)), other),
                zero.fma(even2.fma(w[1], V::splat(-2.0)), other),
                w[2],
            ]
        }
    }
}

/// Whether a layer's sizes suit tiles of `out`×`out`: whole tiles, of which some make rows of eight, and whole vectors.
pub fn fits(geo: Geometry, isa: Isa, out: usize) -> bool {
    let whole = geo.height.is_multiple_of(out) && geo.width.is_multiple_of(8);
    isa.is_wide() && geo.stride == 1 && whole && geo.cin.is_multiple_of(16) && geo.cout.is_multiple_of(16)
}

/// Tiles that are transformed at a time: some whole rows of them, of `images` images one below the other. The fewer, the
/// closer they stay; but all weights are read for each group of them, and the wide layers have many.
fn tiles(geo: Geometry, out: usize, images: usize) -> usize {
    let group = if geo.cin + geo.cout < 128 { 8 } else { 16 };
    let per_row = geo.width / out;
    (group / per_row).clamp(1, images * geo.height / out) * per_row
}

/// Floats of work space for [`forward`] with tiles of `out`×`out`; [`weight_grad`] needs no more than for one image and 2×2.
pub fn scratch_len(geo: Geometry, out: usize, images: usize) -> usize {
    (out + 2) * (out + 2) * tiles(geo, out, images) * (geo.cin + geo.cout)
}

/// `u = G w Gᵀ`: (3, 3, rows, cols) to (places, rows, cols).
pub fn transform_weight<F: Form<IN, OUT>, const IN: usize, const OUT: usize>(
    isa: Isa,
    w: &[f32],
    u: &mut [f32],
) {
    struct Transform<'a, F, const IN: usize, const OUT: usize>(&'a [f32], &'a mut [f32], PhantomData<F>);
    impl<F: Form<IN, OUT>, const IN: usize, const OUT: usize> Task for Transform<'_, F, IN, OUT> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let Transform(w, u, _) = self;
            let plane = w.len() / 9;
            assert!(plane.is_multiple_of(V::LANES) && u.len() >= IN * IN * plane);
            for at in (0..plane).step_by(V::LANES) {
                // SAFETY: inside the planes, by the assertion.
                unsafe {
                    let w = w.as_ptr().add(at);
                    let mut columns = [[V::splat(0.0); IN]; 3];
                    for kw in 0..3 {
                        columns[kw] = F::weight(column::<V, f32, 3>(w.add(kw * plane), 3 * plane));
                    }
                    for i in 0..IN {
                        let row = F::weight([columns[0][i], columns[1][i], columns[2][i]]);
                        for j in 0..IN {
                            row[j].store(u.as_mut_ptr().add((i * IN + j) * plane + at));
                        }
                    }
                }
            }
        }
    }
    run(isa, Transform::<F, IN, OUT>(w, u, PhantomData));
}

/// Rounds to bf16 and pairs the rows of transformed weights, in place: (places, rows, cols) to (places, rows / 2, cols, 2).
pub fn pair_weight(isa: Isa, cols: usize, u: &mut [f32]) {
    struct Pair<'a>(usize, &'a mut [f32]);
    impl Task for Pair<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let Pair(cols, u) = self;
            assert!(cols.is_multiple_of(V::LANES) && u.len().is_multiple_of(2 * cols));
            let start = u.as_mut_ptr();
            for row in 0..u.len() / cols / 2 {
                for at in (0..cols).step_by(V::LANES) {
                    // SAFETY: inside the rows, by the assertion. What is written has been read: rows 0 and 1 go to
                    // row 0, rows 2 and 3 to row 1.
                    unsafe {
                        let rows = start.add(2 * row * cols + at);
                        V::pair(V::load(rows), V::load(rows.add(cols))).store(start.add(row * cols + at));
                    }
                }
            }
        }
    }
    bf16::run(isa, Pair(cols, u));
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
                        g_transposed(column::<V, f32, 4>(u(0), 4 * plane)),
                        g_transposed(column::<V, f32, 4>(u(1), 4 * plane)),
                        g_transposed(column::<V, f32, 4>(u(2), 4 * plane)),
                        g_transposed(column::<V, f32, 4>(u(3), 4 * plane)),
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

/// The outputs of some images, one for each sink, from their inputs inside halos, `x_step` values apart: `geo` with `u` of
/// [`transform_weight`], in bf16 then of [`pair_weight`].
///
/// # Safety
/// As [`Vector`]; `x` holds the images with their halos, `u` the transformed weights and `scratch` [`scratch_len`] floats.
#[inline(always)]
pub unsafe fn forward<V, const WIDE: bool, T, S, F, const IN: usize, const OUT: usize>(
    geo: Geometry,
    x: *const T,
    x_step: usize,
    u: *const f32,
    scratch: &mut [f32],
    sinks: &mut [S],
) where
    V: Vector,
    T: Value,
    S: Sink,
    F: Form<IN, OUT>,
{
    let (per_row, rows) = (geo.width / OUT, geo.height / OUT);
    let group = tiles(geo, OUT, sinks.len());
    let lanes = T::lanes(geo.cin);
    let (v, m) = scratch.split_at_mut(IN * IN * group * lanes);
    for first in (0..sinks.len() * rows).step_by(group / per_row) {
        let last = (first + group / per_row).min(sinks.len() * rows);
        let count = (last - first) * per_row;
        // SAFETY: the caller's contract.
        unsafe {
            for row in first..last {
                let x = x.add(row / rows * x_step);
                let v = v.as_mut_ptr().add((row - first) * per_row * lanes);
                transform_input::<V, T, F, IN, OUT, 1>(geo, x, row % rows, count * geo.cin, v);
            }
            let runs = [Run { offset: 0, len: lanes }];
            let walk = Walk { rows: 1, cols: count, row_step: 0, col_step: lanes, runs: &runs };
            for place in 0..IN * IN {
                let v = v.as_ptr().add(place * count * lanes);
                let m = m.as_mut_ptr().add(place * count * geo.cout);
                let mut product = Product { m, cout: geo.cout };
                let u = u.add(place * lanes * geo.cout);
                correlate::<V, WIDE, T, _>(v, walk, u, geo.cout, &mut product);
            }
            for row in first..last {
                let m = m.as_ptr().add((row - first) * per_row * geo.cout);
                finish::<V, S, F, IN, OUT>(geo, m, row % rows, count * geo.cout, &mut sinks[row / rows]);
            }
        }
    }
}

/// Adds one image's weight gradient to `du`: `x` is the input, `g` the output's gradient, both inside halos.
///
/// # Safety
/// As [`forward`]; `du` holds 16·cin·cout floats.
#[inline(always)]
pub unsafe fn weight_grad<V: Vector, const WIDE: bool, T: Value>(
    geo: Geometry,
    x: *const T,
    g: *const T,
    du: *mut f32,
    scratch: &mut [f32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if T::PACK == 1 {
            weight_grad_by::<V, WIDE, T, 1>(geo, x, g, du, scratch);
        } else {
            weight_grad_by::<V, WIDE, T, 2>(geo, x, g, du, scratch);
        }
    }
}

/// [`weight_grad`] with `N` = [`Value::PACK`] tiles to a lane.
#[inline(always)]
unsafe fn weight_grad_by<V: Vector, const WIDE: bool, T: Value, const N: usize>(
    geo: Geometry,
    x: *const T,
    g: *const T,
    du: *mut f32,
    scratch: &mut [f32],
) {
    let (per_row, rows) = (geo.width / 2, geo.height / 2);
    let group = tiles(geo, 2, 1);
    let (v, d) = scratch.split_at_mut(16 * group / N * geo.cin);
    for first in (0..rows).step_by(group / per_row) {
        let last = (first + group / per_row).min(rows);
        let cols = (last - first) * per_row / N;
        let size = Outer { rows: 1, cols, x_row: 0, x_col: geo.cin, g_row: 0, taps: geo.cin, cout: geo.cout };
        // SAFETY: the caller's contract.
        unsafe {
            for row in first..last {
                let at = (row - first) * per_row / N;
                let (v, d) = (v.as_mut_ptr().add(at * geo.cin), d.as_mut_ptr().add(at * geo.cout));
                transform_input::<V, T, Two, 4, 2, N>(geo, x, row, cols * geo.cin, v);
                transform_grad::<V, T, N>(geo, g, row, cols * geo.cout, d);
            }
            for place in 0..16 {
                outer::<V, WIDE, T>(
                    size,
                    v.as_ptr().add(place * cols * geo.cin),
                    d.as_ptr().add(place * cols * geo.cout),
                    du.add(place * geo.cin * geo.cout),
                );
            }
        }
    }
}

// More products with A and G. Functions, not closures: only these can be told to be inlined, and what is not inlined is
// compiled without the instruction set.

/// `A y`.
#[inline(always)]
unsafe fn a_transposed<V: Vector>(y: [V; 2]) -> [V; 4] {
    // SAFETY: the caller's contract.
    unsafe { [y[0], y[0].add(y[1]), y[0].sub(y[1]), V::splat(0.0).sub(y[1])] }
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

/// `N` vectors that are `step` values apart.
#[inline(always)]
unsafe fn column<V: Vector, T: Value, const N: usize>(p: *const T, step: usize) -> [V; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut all = [V::splat(0.0); N];
        for (i, v) in all.iter_mut().enumerate() {
            *v = T::load(p.add(i * step));
        }
        all
    }
}

/// Stores one place of `N` neighbouring tiles: one in its own place, two in shared lanes.
#[inline(always)]
unsafe fn store_place<V: Vector, T: Value, const N: usize>(tiles: [V; N], plane: *mut f32, at: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        match N {
            1 => T::store(tiles[0], plane.cast::<T>().add(at)),
            _ => V::pair(tiles[0], tiles[1]).store(plane.add(at)),
        }
    }
}

/// `v = Bᵀ d B` for a row of tiles, `N` to a lane; its planes are `plane` values, or lanes, apart.
#[inline(always)]
unsafe fn transform_input<V, T, F, const IN: usize, const OUT: usize, const N: usize>(
    geo: Geometry,
    x: *const T,
    row: usize,
    plane: usize,
    v: *mut f32,
) where
    V: Vector,
    T: Value,
    F: Form<IN, OUT>,
{
    /// Columns that one tile of 4×4 or two of 2×2 see.
    const MOST: usize = 6;
    let (c, width) = (geo.cin, (geo.width + 2) * geo.cin);
    let seen = N * OUT + 2;
    for channel in (0..c).step_by(V::LANES) {
        // SAFETY: the contract of `forward`: `IN` rows from `OUT` times the tile's are inside the halo.
        unsafe {
            let x = x.add(OUT * row * width + channel);
            let mut columns = [[V::splat(0.0); IN]; MOST];
            for col in 0..2 {
                columns[seen - 2 + col] = F::input(column::<V, T, IN>(x.add(col * c), width));
            }
            for some in 0..geo.width / OUT / N {
                // Two columns are those that the tile before ended with.
                (columns[0], columns[1]) = (columns[seen - 2], columns[seen - 1]);
                for col in 2..seen {
                    let x = x.add((N * OUT * some + col) * c);
                    columns[col] = F::input(column::<V, T, IN>(x, width));
                }
                for i in 0..IN {
                    let mut places = [[V::splat(0.0); IN]; N];
                    for n in 0..N {
                        let mut line = [V::splat(0.0); IN];
                        for j in 0..IN {
                            line[j] = columns[n * OUT + j][i];
                        }
                        places[n] = F::input(line);
                    }
                    for j in 0..IN {
                        let mut place = [V::splat(0.0); N];
                        for n in 0..N {
                            place[n] = places[n][j];
                        }
                        store_place::<V, T, N>(place, v, (i * IN + j) * plane + some * c + channel);
                    }
                }
            }
        }
    }
}

/// `d = A dy Aᵀ` for a row of tiles, `N` to a lane; its planes are `plane` values, or lanes, apart.
#[inline(always)]
unsafe fn transform_grad<V: Vector, T: Value, const N: usize>(
    geo: Geometry,
    g: *const T,
    row: usize,
    plane: usize,
    d: *mut f32,
) {
    let (c, width) = (geo.cout, (geo.width + 2) * geo.cout);
    for some in 0..geo.width / 2 / N {
        for channel in (0..c).step_by(V::LANES) {
            // SAFETY: the contract of `weight_grad`: the two rows of the tile are inside the halo.
            unsafe {
                let at = (2 * row + 1) * width + (2 * N * some + 1) * c + channel;
                let mut sides = [[[V::splat(0.0); 4]; 2]; N];
                for n in 0..N {
                    for side in 0..2 {
                        let g = g.add(at + (2 * n + side) * c);
                        sides[n][side] = a_transposed(column::<V, T, 2>(g, width));
                    }
                }
                for i in 0..4 {
                    let mut places = [[V::splat(0.0); 4]; N];
                    for n in 0..N {
                        places[n] = a_transposed([sides[n][0][i], sides[n][1][i]]);
                    }
                    for j in 0..4 {
                        let mut place = [V::splat(0.0); N];
                        for n in 0..N {
                            place[n] = places[n][j];
                        }
                        store_place::<V, T, N>(place, d, (i * 4 + j) * plane + some * c + channel);
                    }
                }
            }
        }
    }
}

/// `y = Aᵀ m A` for a row of tiles, handed to the sink by eight pixels; the planes of `m` are `plane` floats apart.
#[inline(always)]
unsafe fn finish<V: Vector, S: Sink, F: Form<IN, OUT>, const IN: usize, const OUT: usize>(
    geo: Geometry,
    m: *const f32,
    row: usize,
    plane: usize,
    sink: &mut S,
) {
    let c = geo.cout;
    for channel in (0..c).step_by(V::LANES) {
        for eight in 0..geo.width / 8 {
            // SAFETY: the planes hold the row's tiles; it is whole groups of eight pixels.
            unsafe {
                let mut pixels = [[[V::splat(0.0)]; 8]; OUT];
                for tile in 0..8 / OUT {
                    let m = m.add((eight * (8 / OUT) + tile) * c + channel);
                    let mut columns = [[V::splat(0.0); OUT]; IN];
                    for j in 0..IN {
                        columns[j] = F::output(column::<V, f32, IN>(m.add(j * plane), IN * plane));
                    }
                    for y in 0..OUT {
                        let mut line = [V::splat(0.0); IN];
                        for j in 0..IN {
                            line[j] = columns[j][y];
                        }
                        for (x, v) in F::output(line).into_iter().enumerate() {
                            pixels[y][tile * OUT + x] = [v];
                        }
                    }
                }
                for y in 0..OUT {
                    sink.put::<V, 8, 1>(pixels[y], OUT * row + y, 8 * eight, channel);
                }
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
