//! The repulsion between the points of a t-SNE map: all pairs, exactly.
//!
//! The loops are plain Rust over lanes, compiled for each instruction set. Without fused multiply-add and in
//! a fixed order, their result has the same bits everywhere.

use rayon::prelude::*;

use crate::simd::{self, Task, Vector};

/// Number of values that the compiler processes together.
const LANES: usize = 16;
/// Number of points that are processed in one pass over all others.
const BLOCK: usize = 4;
/// Coordinate of the unused lanes after the last point: so far away that (1 + d²)⁻² is 0.
const NOWHERE: f32 = 1e18;

/// Packs one coordinate of all points into whole vectors.
pub fn lanes(values: impl Iterator<Item = f32>) -> Vec<[f32; LANES]> {
    let mut all = Vec::new();
    for (i, value) in values.enumerate() {
        if i % LANES == 0 {
            all.push([NOWHERE; LANES]);
        }
        if let Some(last) = all.last_mut() {
            last[i % LANES] = value;
        }
    }
    all
}

/// Computes sums over all other points j: `force` is Σ q_ij² (y_i − y_j) for each i, (N, 2), and the result
/// is Z = Σ_i Σ_j q_ij, where q_ij = 1 / (1 + |y_i − y_j|²).
pub fn repulsion(y: &[[f32; 2]], force: &mut [[f32; 2]]) -> f64 {
    let xs = lanes(y.iter().map(|p| p[0]));
    let ys = lanes(y.iter().map(|p| p[1]));
    let mut sums = vec![0.0f32; y.len()];
    let outputs = force.par_chunks_mut(BLOCK).zip(sums.par_chunks_mut(BLOCK));
    outputs.zip(y.par_chunks(BLOCK)).with_min_len(8).for_each(|((force, sum), points)| {
        simd::run(Push { points, xs: &xs, ys: &ys, force, sum });
    });
    // Each point was also paired with itself, at distance 0.
    sums.iter().map(|&s| f64::from(s)).sum::<f64>() - y.len() as f64
}

/// The repulsion of up to BLOCK points by all points.
struct Push<'a> {
    points: &'a [[f32; 2]],
    xs: &'a [[f32; LANES]],
    ys: &'a [[f32; LANES]],
    force: &'a mut [[f32; 2]],
    sum: &'a mut [f32],
}

impl Task for Push<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let mut from = [[0.0; 2]; BLOCK];
        from[..self.points.len()].copy_from_slice(self.points);
        let mut sums = [[[0.0f32; LANES]; 3]; BLOCK];
        for (xs, ys) in self.xs.iter().zip(self.ys) {
            for (sums, [x, y]) in sums.iter_mut().zip(from) {
                for l in 0..LANES {
                    let (dx, dy) = (x - xs[l], y - ys[l]);
                    let q = 1.0 / (1.0 + dx * dx + dy * dy);
                    sums[0][l] += q * q * dx;
                    sums[1][l] += q * q * dy;
                    sums[2][l] += q;
                }
            }
        }
        for ((force, sum), [x, y, q]) in self.force.iter_mut().zip(self.sum).zip(sums) {
            *force = [x.iter().sum(), y.iter().sum()];
            *sum = q.iter().sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::for_each_isa;

    #[test]
    fn repulsion_matches_the_sum_over_all_pairs() {
        let y: Vec<[f32; 2]> =
            (0..101).map(|i| [(i as f32 * 0.7).sin() * 9.0, (i as f32 * 1.3).cos() * 4.0]).collect();
        let mut first = None;
        for_each_isa(|isa| {
            let mut force = vec![[0.0; 2]; y.len()];
            let z = repulsion(&y, &mut force);
            let mut expected_z = 0.0;
            for (i, a) in y.iter().enumerate() {
                let mut expected = [0.0; 2];
                for (_, b) in y.iter().enumerate().filter(|(j, _)| *j != i) {
                    let delta = [f64::from(a[0] - b[0]), f64::from(a[1] - b[1])];
                    let q = 1.0 / (1.0 + delta[0] * delta[0] + delta[1] * delta[1]);
                    expected_z += q;
                    (0..2).for_each(|c| expected[c] += q * q * delta[c]);
                }
                for c in 0..2 {
                    assert!((f64::from(force[i][c]) - expected[c]).abs() < 1e-4, "{isa:?}, point {i}");
                }
            }
            assert!((z / expected_z - 1.0).abs() < 1e-6, "{isa:?}: {z} for {expected_z}");
            assert_eq!(
                first.get_or_insert_with(|| (z, force.clone())),
                &(z, force),
                "{isa:?}: the same bits"
            );
        });
    }
}
