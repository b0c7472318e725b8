//! The products of the places: what takes the time.
//!
//! A register tile holds all places of a row of places, so that the first half of the output's transform is made in registers and
//! two thirds (F(4×4)) or half (F(2×2)) of what would else be stored and read again remain.

// Indices are those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::form::Form;
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
            let mut tile = 0;
            while tile < size.tiles {
                let (v, m) = (v.add(tile * IN * size.lanes), m.add(tile * OUT * size.cout));
                tile += if tile + 4 <= size.tiles {
                    some::<V, T, F, IN, OUT, 4>(size, start, v, u, m)
                } else {
                    some::<V, T, F, IN, OUT, 2>(size, start, v, u, m)
                };
            }
        }
    }
}

/// The part of [`products`] for a vector of channels and `P` tiles, whose number it returns.
#[inline(always)]
unsafe fn some<V, T, F, const IN: usize, const OUT: usize, const P: usize>(
    Sizes { lanes, cout, .. }: Sizes,
    start: V,
    v: *const f32,
    u: *const f32,
    m: *mut f32,
) -> usize
where
    V: Vector,
    T: Value,
    F: Form<IN, OUT>,
{
    // SAFETY: the contract of `products`.
    unsafe {
        let mut acc = [[V::splat(0.0); IN]; P];
        for p in 0..P {
            acc[p][1] = start;
        }
        let (mut v, mut u) = (v, u);
        for _ in 0..lanes {
            v = opaque(v);
            let weights: [V; IN] = std::array::from_fn(|j| V::load(u.add(j * V::LANES)));
            for p in 0..P {
                for j in 0..IN {
                    let x = V::splat(*v.add((p * IN + j) * lanes));
                    acc[p][j] = T::multiply_add(acc[p][j], x, weights[j]);
                }
            }
            (v, u) = (v.add(1), u.add(IN * V::LANES));
        }
        for p in 0..P {
            for (x, sum) in F::output(acc[p]).into_iter().enumerate() {
                sum.store(m.add((p * OUT + x) * cout));
            }
        }
    }
    P
}
