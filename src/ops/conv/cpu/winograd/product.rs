//! The products of the places: what takes the time.
//!
//! A register tile holds all places of a row of places (F(2×2)) or half of them for twice as many tiles (F(4×4)), so that the first half of
//! the output's transform is made in registers and half (F(2×2)) or two thirds (F(4×4)) of what would else be stored and read again remain.

// Indices are those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::form::Form;
use super::planes::column;
use crate::ops::conv::cpu::tile::Sink;
use crate::ops::simd::{Vector, opaque};
use crate::ops::value::Value;

/// Sizes and distances of [`products`].
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tiles: an even number.
    pub tiles: usize,
    /// Lanes that a tile's channels take at a place of `v`.
    pub lanes: usize,
    /// Channels of `m`.
    pub cout: usize,
    /// Floats between two rows of places of `m`.
    pub m_row: usize,
}

/// Lanes whose weights for a vector of channels stay in the first-level cache.
const NEAR: usize = 64;

/// Row `i` of the places of `m = (u ⊙ v) A`, which is (rows of places, tiles, output columns, cout), from that row of `v`, (tiles, places,
/// lanes), and `u` of [`super::transform_weight`]; the outputs start from what the sink says.
///
/// # Safety
/// As [`Vector`]; `v`, `u` and `m` hold what the sizes say.
#[inline(always)]
pub unsafe fn products<V, T, S, F, const IN: usize, const OUT: usize>(
    size: Sizes,
    i: usize,
    v: *const f32,
    u: *const f32,
    m: *mut f32,
    sink: &S,
) where
    V: Vector,
    T: Value,
    S: Sink,
    F: Form<IN, OUT>,
{
    let blocks = size.cout / V::LANES;
    for block in 0..blocks {
        // SAFETY: the caller's contract.
        unsafe {
            // Rows and columns of `A` at place 1 are ones: every output gets that place once.
            let start = if i == 1 { sink.start(block * V::LANES) } else { V::splat(0.0) };
            let u = u.add((i * blocks + block) * size.lanes * IN * V::LANES);
            let m = m.add(i * size.m_row + block * V::LANES);
            for first in (0..size.lanes).step_by(NEAR) {
                let mut tile = 0;
                while tile < size.tiles {
                    let (v, m) = (v.add(tile * IN * size.lanes), m.add(tile * OUT * size.cout));
                    let left = size.tiles - tile;
                    if 2 * F::PLACES == IN {
                        if left >= 8 {
                            some::<V, T, F, IN, OUT, 8, 0>(size, first, start, v, u, m);
                            some::<V, T, F, IN, OUT, 8, 1>(size, first, start, v, u, m);
                            tile += 8;
                        } else {
                            some::<V, T, F, IN, OUT, 2, 0>(size, first, start, v, u, m);
                            some::<V, T, F, IN, OUT, 2, 1>(size, first, start, v, u, m);
                            tile += 2;
                        }
                    } else if left >= 4 {
                        some::<V, T, F, IN, OUT, 4, 0>(size, first, start, v, u, m);
                        tile += 4;
                    } else {
                        some::<V, T, F, IN, OUT, 2, 0>(size, first, start, v, u, m);
                        tile += 2;
                    }
                }
            }
        }
    }
}

/// The part of [`products`] for a vector of channels, [`NEAR`] lanes from `lane` on, `P` tiles and `PART` of the places.
#[inline(always)]
unsafe fn some<V, T, F, const IN: usize, const OUT: usize, const P: usize, const PART: usize>(
    Sizes { lanes, cout, .. }: Sizes,
    lane: usize,
    start: V,
    v: *const f32,
    u: *const f32,
    m: *mut f32,
) where
    V: Vector,
    T: Value,
    F: Form<IN, OUT>,
{
    // SAFETY: the contract of `products`.
    unsafe {
        let first = PART * F::PLACES;
        let mut acc = [[V::splat(0.0); IN]; P];
        if lane + first == 0 {
            for p in 0..P {
                acc[p][1] = start;
            }
        }
        let (mut v, mut u) = (v.add(lane), u.add((first * lanes + lane * F::PLACES) * V::LANES));
        for _ in lane..lanes.min(lane + NEAR) {
            v = opaque(v);
            let mut weights = [V::splat(0.0); IN];
            for j in 0..F::PLACES {
                weights[j] = V::load(u.add(j * V::LANES));
            }
            for p in 0..P {
                for j in first..first + F::PLACES {
                    let x = V::splat(*v.add((p * IN + j) * lanes));
                    acc[p][j] = T::multiply_add(acc[p][j], x, weights[j - first]);
                }
            }
            (v, u) = (v.add(1), u.add(F::PLACES * V::LANES));
        }
        for p in 0..P {
            let m = m.add(p * OUT * cout);
            let mut sums = [V::splat(0.0); OUT];
            if lane + first > 0 {
                sums = column::<V, f32, OUT>(m, cout);
            }
            for (x, sum) in F::output_part(PART, acc[p], sums).into_iter().enumerate() {
                // The first part begins the outputs; here it goes on with those of the lanes before.
                let sum = if PART == 0 && lane > 0 { sums[x].add(sum) } else { sum };
                sum.store(m.add(x * cout));
            }
        }
    }
}
