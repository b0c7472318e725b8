//! Transforms of images: from rows of tiles to their components, and back.

// Indices match those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::form::{Form, output_transposed};
use crate::backend::cpu::conv::kernel::walk::{Pixel, Sink};
use crate::net::Geometry;
use crate::simd::Vector;
use crate::simd::value::Value;

/// Loads `N` vectors that are `step` values apart.
///
/// # Safety
/// The machine must have the instruction set of `V`, and `p` must be valid for reading all vectors.
#[inline(always)]
pub unsafe fn column<V: Vector, T: Value, const N: usize>(p: *const T, step: usize) -> [V; N] {
    // SAFETY: the caller's contract.
    unsafe {
        let mut all = [V::splat(0.0); N];
        for (i, v) in all.iter_mut().enumerate() {
            *v = T::load(p.add(i * step));
        }
        all
    }
}

/// Stores the components of `N` neighbouring tiles. One tile is stored as values, two tiles in shared lanes;
/// components are `step` values or lanes apart.
///
/// # Safety
/// The machine must have the instruction set of `V`, and `out` must have room for all components.
#[inline(always)]
pub unsafe fn store_components<V: Vector, T: Value, const N: usize, const IN: usize>(
    tiles: [[V; IN]; N],
    out: *mut f32,
    at: usize,
    step: usize,
) {
    for j in 0..IN {
        let at = at + j * step;
        // SAFETY: the caller's contract.
        unsafe {
            match N {
                1 => T::store(tiles[0][j], out.cast::<T>().add(at)),
                _ => V::pair(tiles[0][j], tiles[1][j]).store(out.add(at)),
            }
        }
    }
}

/// Computes some rows of the components of `v = Bᵀ d B` for a row of tiles, `N` tiles per lane: the rows of a
/// `pass` ([`Form::ROWS_PER_PASS`]), each (tiles, components, channels) and `step` floats after the previous
/// one.
///
/// Only what these rows need is computed, although each column is read again for the next pass: so little is
/// written at a time that the products read it from the first-level cache.
///
/// # Safety
/// The machine must have the instruction set of `V`, the image `x` must have a halo of one pixel and whole
/// vectors of channels, and `v` must have room for the rows.
#[inline(always)]
pub unsafe fn transform_input<V, T, F, const IN: usize, const OUT: usize, const N: usize>(
    geo: Geometry,
    x: *const T,
    row: usize,
    pass: usize,
    step: usize,
    v: *mut f32,
) where
    V: Vector,
    T: Value,
    F: Form<IN, OUT>,
{
    // SAFETY: the caller's contract.
    unsafe {
        match pass {
            0 => input_pass::<V, T, F, IN, OUT, N, 0>(geo, x, row, step, v),
            1 => input_pass::<V, T, F, IN, OUT, N, 1>(geo, x, row, step, v),
            2 => input_pass::<V, T, F, IN, OUT, N, 2>(geo, x, row, step, v),
            3 if IN > 3 * F::ROWS_PER_PASS => input_pass::<V, T, F, IN, OUT, N, 3>(geo, x, row, step, v),
            _ => unreachable!("there are {IN} rows of components"),
        }
    }
}

/// Computes [`transform_input`] for a pass that is known at compile time, so that the other rows are not
/// computed.
///
/// # Safety
/// The same as for [`transform_input`].
#[inline(always)]
unsafe fn input_pass<V, T, F, const IN: usize, const OUT: usize, const N: usize, const PASS: usize>(
    geo: Geometry,
    x: *const T,
    row: usize,
    step: usize,
    v: *mut f32,
) where
    V: Vector,
    T: Value,
    F: Form<IN, OUT>,
{
    /// Number of columns that one tile of 4×4 or two tiles of 2×2 depend on.
    const MAX_COLUMNS: usize = 6;
    let (c, width) = (geo.cin, (geo.width + 2) * geo.cin);
    let seen = N * OUT + 2;
    for channel in (0..c).step_by(V::LANES) {
        // SAFETY: the caller's contract, by which the `IN` rows from row `OUT · row` on are inside the halo.
        unsafe {
            let x = x.add(OUT * row * width + channel);
            let mut columns = [[V::splat(0.0); MAX_COLUMNS]; 2];
            for col in 0..2 {
                let all = F::input(column::<V, T, IN>(x.add(col * c), width));
                for h in 0..F::ROWS_PER_PASS {
                    columns[h][seen - 2 + col] = all[F::ROWS[PASS * F::ROWS_PER_PASS + h]];
                }
            }
            for group in 0..geo.width / OUT / N {
                // The first two columns are the last two of the previous group of `N` tiles.
                for columns in &mut columns {
                    (columns[0], columns[1]) = (columns[seen - 2], columns[seen - 1]);
                }
                for col in 2..seen {
                    let x = x.add((N * OUT * group + col) * c);
                    let all = F::input(column::<V, T, IN>(x, width));
                    for h in 0..F::ROWS_PER_PASS {
                        columns[h][col] = all[F::ROWS[PASS * F::ROWS_PER_PASS + h]];
                    }
                }
                for h in 0..F::ROWS_PER_PASS {
                    let mut components = [[V::splat(0.0); IN]; N];
                    for n in 0..N {
                        let mut line = [V::splat(0.0); IN];
                        for j in 0..IN {
                            line[j] = columns[h][n * OUT + j];
                        }
                        components[n] = F::input(line);
                    }
                    store_components::<V, T, N, IN>(components, v.add(h * step), group * IN * c + channel, c);
                }
            }
        }
    }
}

/// Computes row `i` of the components of `d = A dy Aᵀ` for a row of tiles, `N` tiles per lane. The planes of
/// `d` are `plane` values, or lanes, apart.
///
/// # Safety
/// The machine must have the instruction set of `V`, the gradient `g` must have a halo of one pixel and whole
/// vectors of channels, and `d` must have room for the row.
#[inline(always)]
pub unsafe fn transform_grad<V: Vector, T: Value, const N: usize>(
    geo: Geometry,
    g: *const T,
    row: usize,
    i: usize,
    plane: usize,
    d: *mut f32,
) {
    // SAFETY: the caller's contract.
    unsafe {
        match i {
            0 => grad_row::<V, T, N, 0>(geo, g, row, plane, d),
            1 => grad_row::<V, T, N, 1>(geo, g, row, plane, d),
            2 => grad_row::<V, T, N, 2>(geo, g, row, plane, d),
            _ => grad_row::<V, T, N, 3>(geo, g, row, plane, d),
        }
    }
}

/// Computes [`transform_grad`] for a row that is known at compile time.
///
/// # Safety
/// The same as for [`transform_grad`].
#[inline(always)]
unsafe fn grad_row<V: Vector, T: Value, const N: usize, const I: usize>(
    geo: Geometry,
    g: *const T,
    row: usize,
    plane: usize,
    d: *mut f32,
) {
    let (c, width) = (geo.cout, (geo.width + 2) * geo.cout);
    for group in 0..geo.width / 2 / N {
        for channel in (0..c).step_by(V::LANES) {
            // SAFETY: the caller's contract, by which the two rows of the tile are inside the halo.
            unsafe {
                let at = (2 * row + 1) * width + (2 * N * group + 1) * c + channel;
                let mut components = [[V::splat(0.0); 4]; N];
                for n in 0..N {
                    let mut sides = [V::splat(0.0); 2];
                    for side in 0..2 {
                        let g = g.add(at + (2 * n + side) * c);
                        sides[side] = output_transposed(column::<V, T, 2>(g, width))[I];
                    }
                    components[n] = output_transposed(sides);
                }
                store_components::<V, T, N, 4>(components, d, group * c + channel, plane);
            }
        }
    }
}

/// Computes `y = Aᵀ m` for a row of tiles of [`super::product`], and passes it to the sink `PIXELS` pixels at
/// a time, as many as the registers hold.
///
/// # Safety
/// The machine must have the instruction set of `V`, `m` must hold the row's tiles, the row must consist of
/// whole groups of `PIXELS` pixels, and the sink must accept them.
#[inline(always)]
pub unsafe fn finish<
    V: Vector,
    S: Sink,
    F: Form<IN, OUT>,
    const IN: usize,
    const OUT: usize,
    const PIXELS: usize,
>(
    geo: Geometry,
    m: *const f32,
    image: usize,
    row: usize,
    step: usize,
    sink: &mut S,
) {
    let c = geo.cout;
    for channel in (0..c).step_by(V::LANES) {
        for group in 0..geo.width / PIXELS {
            // SAFETY: the caller's contract.
            unsafe {
                let mut pixels = [[[V::splat(0.0)]; PIXELS]; OUT];
                for col in 0..PIXELS {
                    let m = m.add((group * PIXELS + col) * c + channel);
                    for (y, v) in F::output(column::<V, f32, IN>(m, step)).into_iter().enumerate() {
                        pixels[y][col] = [v];
                    }
                }
                for y in 0..OUT {
                    sink.put(pixels[y], Pixel { image, row: OUT * row + y, col: PIXELS * group, channel });
                }
            }
        }
    }
}
