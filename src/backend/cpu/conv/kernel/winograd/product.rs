//! The products of the components, which take most of the time.
//!
//! A register tile holds a whole row of components (F(2×2)), or half of a row for twice as many tiles
//! (F(4×4), except where stores are slow). This way the first half of the output transform happens in
//! registers, and only half (F(2×2)) or two thirds (F(4×4)) of the values that would otherwise be stored and
//! read again remain. With 16 registers ([`products_by_component`]), a register tile is one component of two
//! vectors of channels, and the row is collected in the first-level cache.

// Indices match those of the formulas.
#![allow(clippy::needless_range_loop)]

use super::form::Form;
use super::planes::column;
use crate::backend::cpu::conv::kernel::walk::Sink;
use crate::simd::value::Value;
use crate::simd::{Vector, opaque, prefetch};

/// Sizes and strides of [`products`].
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Number of tiles, which is even.
    pub tiles: usize,
    /// Number of lanes that a tile's channels take in a component of `v`.
    pub lanes: usize,
    /// Number of channels of `m`.
    pub cout: usize,
    /// Stride between rows of components of `m`, in floats.
    pub m_row: usize,
    /// Whether a register tile holds a whole row of components, even if [`Form::PART_LEN`] is less: the
    /// operations are the same, with more loads and fewer stores.
    pub whole: bool,
}

/// Number of lanes that are multiplied at a time: their weights for a vector of channels stay in the
/// first-level cache.
const LANES_PER_PASS: usize = 64;

/// Computes row `i` of the components of `m = (u ⊙ v) A`, which is (rows of components, tiles, output
/// columns, cout), from the same row of `v`, (tiles, components, lanes), and from `u` of
/// [`super::transform_weight`]. The outputs start from the values that the sink gives.
///
/// # Safety
/// The caller must uphold the contract of [`Vector`]; `v`, `u` and `m` must be as large as `size` requires.
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
            // Row 1 of `A` is all ones, so component (1, 1) is added to each output exactly once; the initial
            // value goes there.
            let start = if i == 1 { sink.start(block * V::LANES) } else { V::splat(0.0) };
            let u = u.add((i * blocks + block) * size.lanes * IN * V::LANES);
            let m = m.add(i * size.m_row + block * V::LANES);
            for first in (0..size.lanes).step_by(LANES_PER_PASS) {
                let mut tile = 0;
                while tile < size.tiles {
                    let (v, m) = (v.add(tile * IN * size.lanes), m.add(tile * OUT * size.cout));
                    let left = size.tiles - tile;
                    if 2 * F::PART_LEN == IN && !size.whole {
                        if left >= 8 {
                            register_tile::<V, T, F, IN, OUT, 8, 0, 1>(size, first, start, v, u, m);
                            register_tile::<V, T, F, IN, OUT, 8, 1, 2>(size, first, start, v, u, m);
                            tile += 8;
                        } else {
                            register_tile::<V, T, F, IN, OUT, 2, 0, 1>(size, first, start, v, u, m);
                            register_tile::<V, T, F, IN, OUT, 2, 1, 2>(size, first, start, v, u, m);
                            tile += 2;
                        }
                    } else if left >= 4 {
                        if size.lanes > LANES_PER_PASS && F::PART_LEN == IN {
                            // Each tile prefetches its share of the weights that come next.
                            let next = u.wrapping_add((first + LANES_PER_PASS) * IN * V::LANES);
                            let part = LANES_PER_PASS * IN * V::LANES / size.tiles;
                            for line in (tile * part..(tile + 4) * part).step_by(16) {
                                prefetch(next.wrapping_add(line).cast());
                            }
                        }
                        register_tile::<V, T, F, IN, OUT, 4, 0, 2>(size, first, start, v, u, m);
                        tile += 4;
                    } else {
                        register_tile::<V, T, F, IN, OUT, 2, 0, 2>(size, first, start, v, u, m);
                        tile += 2;
                    }
                }
            }
        }
    }
}

/// Computes [`products`] for a register tile: a vector of channels, at most [`LANES_PER_PASS`] lanes from
/// `lane` on, `P` tiles and the parts `FROM..TO` of the row, as far as they exist.
///
/// # Safety
/// The same as for [`products`], of which the register tile must be a part.
#[inline(always)]
unsafe fn register_tile<
    V,
    T,
    F,
    const IN: usize,
    const OUT: usize,
    const P: usize,
    const FROM: usize,
    const TO: usize,
>(
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
    // SAFETY: the caller's contract.
    unsafe {
        let components = FROM * F::PART_LEN..IN.min(TO * F::PART_LEN);
        let mut acc = [[V::splat(0.0); IN]; P];
        if lane + FROM == 0 {
            for p in 0..P {
                acc[p][1] = start;
            }
        }
        let (mut v, mut u) = (v.add(lane), u.add(lane * F::PART_LEN * V::LANES));
        for _ in lane..lanes.min(lane + LANES_PER_PASS) {
            v = opaque(v);
            let mut weights = [V::splat(0.0); IN];
            for j in components.clone() {
                let (part, offset) = (j / F::PART_LEN, j % F::PART_LEN);
                weights[j] = V::load(u.add((part * lanes * F::PART_LEN + offset) * V::LANES));
            }
            for p in 0..P {
                for j in components.clone() {
                    let x = V::splat(*v.add((p * IN + j) * lanes));
                    acc[p][j] = T::multiply_add(acc[p][j], x, weights[j]);
                }
            }
            (v, u) = (v.add(1), u.add(F::PART_LEN * V::LANES));
        }
        for p in 0..P {
            add_row::<V, F, IN, OUT, FROM, TO>(acc[p], lane, m.add(p * OUT * cout), cout);
        }
    }
}

/// Computes the same as [`products`] where there are only 16 registers, and for an even number of vectors of
/// channels: one component at a time, for two vectors of channels of some tiles.
///
/// # Safety
/// The same as for [`products`].
#[inline(always)]
pub unsafe fn products_by_component<V, T, S, F, const IN: usize, const OUT: usize>(
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
    assert!(blocks.is_multiple_of(2));
    for block in (0..blocks).step_by(2) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut start = [V::splat(0.0); 2];
            if i == 1 {
                start = [sink.start(block * V::LANES), sink.start((block + 1) * V::LANES)];
            }
            let u = u.add((i * blocks + block) * size.lanes * IN * V::LANES);
            let m = m.add(i * size.m_row + block * V::LANES);
            for first in (0..size.lanes).step_by(LANES_PER_PASS) {
                let mut tile = 0;
                while tile < size.tiles {
                    let (v, m) = (v.add(tile * IN * size.lanes), m.add(tile * OUT * size.cout));
                    let left = size.tiles - tile;
                    // In bf16 the halves of the pairs need registers of their own.
                    if left >= 6 && T::PACK == 1 {
                        component_tile::<V, T, F, IN, OUT, 6>(size, first, start, v, u, m);
                        tile += 6;
                    } else if left >= 4 {
                        component_tile::<V, T, F, IN, OUT, 4>(size, first, start, v, u, m);
                        tile += 4;
                    } else {
                        component_tile::<V, T, F, IN, OUT, 2>(size, first, start, v, u, m);
                        tile += 2;
                    }
                }
            }
        }
    }
}

/// Computes [`products_by_component`] for two vectors of channels, at most [`LANES_PER_PASS`] lanes from
/// `lane` on and `P` tiles.
///
/// # Safety
/// The same as for [`products_by_component`], of which this must be a part.
#[inline(always)]
unsafe fn component_tile<V, T, F, const IN: usize, const OUT: usize, const P: usize>(
    Sizes { lanes, cout, .. }: Sizes,
    lane: usize,
    start: [V; 2],
    v: *const f32,
    u: *const f32,
    m: *mut f32,
) where
    V: Vector,
    T: Value,
    F: Form<IN, OUT>,
{
    // SAFETY: the caller's contract.
    unsafe {
        let mut rows = [[[V::splat(0.0); IN]; 2]; P];
        for j in 0..IN {
            let (part, offset) = (j / F::PART_LEN, j % F::PART_LEN);
            let mut acc = [[V::splat(0.0); 2]; P];
            if lane == 0 && j == 1 {
                acc = [start; P];
            }
            let mut v = v.add(j * lanes + lane);
            let mut u = u.add(((part * lanes + lane) * F::PART_LEN + offset) * V::LANES);
            for _ in lane..lanes.min(lane + LANES_PER_PASS) {
                v = opaque(v);
                let weights = [V::load(u), V::load(u.add(lanes * IN * V::LANES))];
                for p in 0..P {
                    let x = V::splat(*v.add(p * IN * lanes));
                    for q in 0..2 {
                        acc[p][q] = T::multiply_add(acc[p][q], x, weights[q]);
                    }
                }
                (v, u) = (v.add(1), u.add(F::PART_LEN * V::LANES));
            }
            for p in 0..P {
                for q in 0..2 {
                    rows[p][q][j] = acc[p][q];
                }
            }
        }
        for p in 0..P {
            for q in 0..2 {
                let m = m.add(p * OUT * cout + q * V::LANES);
                add_row::<V, F, IN, OUT, 0, IN>(rows[p][q], lane, m, cout);
            }
        }
    }
}

/// Computes the contribution to `m` of the parts `FROM..TO` of a row of components, as far as they exist, and
/// adds it to those of the parts and lanes before.
///
/// # Safety
/// The caller must uphold the contract of [`Vector`]; `m` must be valid for `OUT` vectors, `cout` floats
/// apart.
#[inline(always)]
unsafe fn add_row<V, F, const IN: usize, const OUT: usize, const FROM: usize, const TO: usize>(
    row: [V; IN],
    lane: usize,
    m: *mut f32,
    cout: usize,
) where
    V: Vector,
    F: Form<IN, OUT>,
{
    // SAFETY: the caller's contract.
    unsafe {
        let mut sums = [V::splat(0.0); OUT];
        if lane + FROM > 0 {
            sums = column::<V, f32, OUT>(m, cout);
        }
        for part in FROM..TO.min(IN / F::PART_LEN) {
            let before = sums;
            sums = F::output_part(part, row, sums);
            // Part 0 starts new sums; add those of the preceding lanes.
            if part == 0 && lane > 0 {
                for (sum, before) in sums.iter_mut().zip(before) {
                    *sum = before.add(*sum);
                }
            }
        }
        for (x, sum) in sums.into_iter().enumerate() {
            sum.store(m.add(x * cout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::conv::kernel::walk::Pixel;
    use crate::backend::cpu::conv::kernel::winograd::F4x4;
    use crate::rng::{Purpose, stream, uniform};

    /// A sink that starts from 0.5 and ignores the results.
    struct Half;

    impl Sink for Half {
        unsafe fn start<V: Vector>(&self, _channel: usize) -> V {
            // SAFETY: the caller's contract.
            unsafe { V::splat(0.5) }
        }

        unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, _acc: [[V; Q]; P], _at: Pixel) {}
    }

    #[test]
    fn all_register_tiles_give_the_same_bits() {
        let mut rng = stream(0, Purpose::Init, 0, 0);
        let mut random = |len| -> Vec<f32> { (0..len).map(|_| uniform(&mut rng) as f32 - 0.5).collect() };
        // More lanes than `LANES_PER_PASS`, and numbers of tiles that leave a remainder in all cases.
        for (lanes, cout, tiles) in [(16, 4, 8), (150, 2, 14), (64, 6, 2)] {
            let (v, u) = (random(tiles * 6 * lanes), random(6 * 6 * lanes * cout));
            let compute = |by_component: bool, whole: bool| {
                let m_row = tiles * 4 * cout;
                let mut m = vec![f32::NAN; 6 * m_row];
                let size = Sizes { tiles, lanes, cout, m_row, whole };
                let of = if by_component {
                    products_by_component::<f32, f32, Half, F4x4, 6, 4>
                } else {
                    products::<f32, f32, Half, F4x4, 6, 4>
                };
                for i in 0..6 {
                    // SAFETY: the slices hold what the sizes say.
                    unsafe { of(size, i, v.as_ptr(), u.as_ptr(), m.as_mut_ptr(), &Half) };
                }
                m.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let halves = compute(false, false);
            assert!(halves.iter().all(|x| f32::from_bits(*x).is_finite()));
            assert!(halves == compute(false, true), "{lanes} lanes, {tiles} tiles, whole rows");
            assert!(halves == compute(true, false), "{lanes} lanes, {tiles} tiles, by component");
        }
    }
}
