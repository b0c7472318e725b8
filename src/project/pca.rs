//! Principal component analysis in f64: all eigenvectors of the covariance by Jacobi rotations or, for wide
//! features, for which that would take hours, only the leading ones by subspace iteration.

use rayon::prelude::*;

use super::Rows;
use crate::interrupt::{self, Interrupted};

/// Wider features use subspace iteration. Up to this width, Jacobi rotations, O(N·D² + D³), take seconds.
const WIDE: usize = 256;

/// A projection on the leading principal components.
pub struct Pca {
    /// Coordinates (N, dims), centred, row by row.
    pub projection: Vec<f64>,
    /// Share of each component in the total variance, descending.
    pub explained: Vec<f64>,
}

/// Projects on the first `dims` components; components beyond the width of the features are 0.
///
/// The sign of an eigenvector is arbitrary. Here its entry of the largest absolute value (the first of ties)
/// is positive, as in scikit-learn.
///
/// # Errors
/// Returns [`Interrupted`] after a signal.
pub fn pca(rows: Rows, dims: usize) -> Result<Pca, Interrupted> {
    let d = rows.width;
    let mut mean = vec![0.0; d];
    for row in rows.iter() {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
    }
    mean.iter_mut().for_each(|m| *m /= rows.len() as f64);
    let centred =
        &|row: &[f32]| -> Vec<f64> { row.iter().zip(&mean).map(|(&x, m)| f64::from(x) - m).collect() };
    let (values, axes, total) = match d {
        0..=WIDE => all_components(rows, centred, dims),
        _ => leading_components(rows, centred, dims)?,
    };
    let mut projection = vec![0.0; rows.len() * dims];
    for (out, row) in projection.chunks_exact_mut(dims).zip(rows.iter().map(centred)) {
        for (out, axis) in out.iter_mut().zip(&axes) {
            *out = axis.iter().zip(&row).map(|(a, x)| a * x).sum();
        }
    }
    let mut explained: Vec<f64> = values.iter().map(|value| value.max(0.0) / total).collect();
    explained.resize(dims, 0.0);
    Ok(Pca { projection, explained })
}

/// The largest eigenvalues of Σ x·xᵀ over the rows, descending, their eigenvectors, and the sum of all
/// eigenvalues.
type Components = (Vec<f64>, Vec<Vec<f64>>, f64);

/// Computes the components from the full matrix; `centred` subtracts the mean from a row.
fn all_components(rows: Rows, centred: impl Fn(&[f32]) -> Vec<f64>, dims: usize) -> Components {
    let d = rows.width;
    let mut covariance = vec![0.0; d * d];
    for row in rows.iter().map(centred) {
        for (i, x) in row.iter().enumerate() {
            covariance[i * d..][..=i].iter_mut().zip(&row).for_each(|(c, y)| *c += x * y);
        }
    }
    for i in 0..d {
        for j in 0..i {
            covariance[j * d + i] = covariance[i * d + j];
        }
    }
    let (values, vectors) = eigen(covariance, d);
    let order = descending(&values, dims);
    let axes = order.iter().map(|&k| with_fixed_sign(vectors.iter().skip(k).step_by(d))).collect();
    (order.iter().map(|&k| values[k]).collect(), axes, values.iter().sum())
}

/// Returns the indices of the `some` largest values, in descending order of the values.
fn descending(values: &[f64], some: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(some);
    order
}

/// Computes the components by subspace iteration (Golub and Van Loan, 8.2.4), with a few more vectors than
/// requested and without forming the matrix.
///
/// Each iteration multiplies an orthonormal basis by the matrix, row by row, and computes the eigenvectors
/// within the new subspace.
fn leading_components(
    rows: Rows,
    centred: impl Fn(&[f32]) -> Vec<f64> + Sync,
    dims: usize,
) -> Result<Components, Interrupted> {
    /// Number of vectors in addition to the requested ones.
    const MORE: usize = 8;
    /// Maximum number of iterations.
    const TURNS: usize = 500;
    /// Number of rows that are summed together.
    const BLOCK: usize = 64;
    let d = rows.width;
    let all: Vec<&[f32]> = rows.iter().collect();
    let total = all.iter().flat_map(|row| centred(row)).map(|x| x * x).sum();
    // Arbitrary vectors in general position: waves of different lengths.
    let wave = |k: usize| (0..d).map(|i| ((i + 1) as f64 * (k + 1) as f64 * 0.618).sin()).collect();
    let mut basis: Vec<Vec<f64>> = (0..dims + MORE).map(wave).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let add = |to: &mut [f64], x: f64, v: &[f64]| to.iter_mut().zip(v).for_each(|(t, v)| *t += x * v);
    let multiply = |basis: &[Vec<f64>]| -> Vec<Vec<f64>> {
        let parts = all.par_chunks(BLOCK).map(|rows| {
            let mut part = vec![vec![0.0; d]; basis.len()];
            for row in rows.iter().map(|row| centred(row)) {
                part.iter_mut().zip(basis).for_each(|(part, v)| add(part, dot(&row, v), &row));
            }
            part
        });
        // Add in the order of the rows, whatever the number of threads.
        let parts: Vec<_> = parts.collect();
        let mut sum = vec![vec![0.0; d]; basis.len()];
        parts.iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, part)| add(sum, 1.0, part)));
        sum
    };
    let mut values = vec![];
    for _ in 0..TURNS {
        interrupt::check()?;
        orthonormalise(&mut basis);
        let product = multiply(&basis);
        let small = basis.iter().flat_map(|v| product.iter().map(|w| dot(v, w)).collect::<Vec<_>>());
        let (own, vectors) = eigen(small.collect(), basis.len());
        let order = descending(&own, basis.len());
        let mixed = |of: &[Vec<f64>]| -> Vec<Vec<f64>> {
            let one = |&k: &usize| {
                let mut mixed = vec![0.0; d];
                of.iter().enumerate().for_each(|(i, v)| add(&mut mixed, vectors[i * of.len() + k], v));
                mixed
            };
            order.iter().map(one).collect()
        };
        values = order.iter().map(|&k| own[k]).collect();
        let (eigenvectors, images) = (mixed(&basis), mixed(&product));
        // How far a vector is from an eigenvector.
        let off = |n: usize| {
            let (v, w): (&Vec<f64>, &Vec<f64>) = (&eigenvectors[n], &images[n]);
            v.iter().zip(w).map(|(v, w)| (w - values[n] * v).powi(2)).sum::<f64>().sqrt()
        };
        if (0..dims).all(|n| off(n) <= 1e-10 * values[0]) {
            basis = eigenvectors;
            break;
        }
        basis = images;
    }
    orthonormalise(&mut basis);
    let axes = basis[..dims].iter().map(|v| with_fixed_sign(v.iter())).collect();
    values.truncate(dims);
    Ok((values, axes, total))
}

/// Orthonormalises vectors one after the other, each twice because of rounding. A zero vector stays zero.
fn orthonormalise(vectors: &mut [Vec<f64>]) {
    for n in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(n);
        let v = &mut rest[0];
        for _ in 0..2 {
            for u in before.iter() {
                let along: f64 = u.iter().zip(&*v).map(|(u, v)| u * v).sum();
                v.iter_mut().zip(u).for_each(|(v, u)| *v -= along * u);
            }
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            v.iter_mut().for_each(|x| *x = if length > 0.0 { *x / length } else { 0.0 });
        }
    }
}

/// Returns an eigenvector with its sign fixed.
fn with_fixed_sign<'a>(vector: impl Iterator<Item = &'a f64>) -> Vec<f64> {
    let vector: Vec<f64> = vector.copied().collect();
    let largest = vector.iter().fold(0.0, |best: f64, &x| if x.abs() > best.abs() { x } else { best });
    vector.into_iter().map(|x| if largest < 0.0 { -x } else { x }).collect()
}

/// Returns the eigenvalues of a symmetric matrix (D, D) and the eigenvectors as columns, by cyclic Jacobi
/// rotations (Golub and Van Loan, Matrix Computations, 8.5). Each rotation zeroes one off-diagonal entry, and
/// sweeps over all entries converge quadratically.
fn eigen(mut a: Vec<f64>, d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut v = vec![0.0; d * d];
    (0..d).for_each(|i| v[i * d + i] = 1.0);
    let norm: f64 = a.iter().map(|x| x * x).sum();
    for _sweep in 0..100 {
        let off: f64 = (0..d).flat_map(|p| (0..p).map(move |q| p * d + q)).map(|at| a[at] * a[at]).sum();
        if off <= 1e-30 * norm {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                let apq = a[p * d + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * d + q] - a[p * d + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                let rotate = |m: &mut [f64], i: usize, j: usize| {
                    let (x, y) = (m[i], m[j]);
                    (m[i], m[j]) = (c * x - s * y, s * x + c * y);
                };
                (0..d).for_each(|k| rotate(&mut a, k * d + p, k * d + q));
                (0..d).for_each(|k| rotate(&mut a, p * d + k, q * d + k));
                (0..d).for_each(|k| rotate(&mut v, k * d + p, k * d + q));
            }
        }
    }
    ((0..d).map(|i| a[i * d + i]).collect(), v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilted_ellipse_is_aligned_with_the_axes() {
        // x along (3, 4)/5 with variance 4, across it with variance 1, far from the origin.
        let mut values = Vec::new();
        for (along, across) in [(2.0, 1.0), (2.0, -1.0), (-2.0, 1.0), (-2.0, -1.0)] {
            values.extend([100.0 + 0.6 * along - 0.8 * across, 7.0 + 0.8 * along + 0.6 * across]);
        }
        let p = pca(Rows::new(&values, 2).expect("sound"), 2).expect("components");
        assert!(
            (p.explained[0] - 0.8).abs() < 1e-5 && (p.explained[1] - 0.2).abs() < 1e-5,
            "{:?}",
            p.explained
        );
        // The second axis is (0.8, −0.6), because its largest entry is positive.
        for (found, expected) in p.projection.iter().zip([2.0, -1.0, 2.0, 1.0, -2.0, -1.0, -2.0, 1.0]) {
            assert!((found - expected).abs() < 1e-5, "{:?}", p.projection);
        }
    }

    #[test]
    fn eigenvectors_reconstruct_the_matrix() {
        let d = 7;
        let entry = |i: usize, j: usize| ((i * j + i + j) as f64).sin();
        let a: Vec<f64> = (0..d * d).map(|n| entry(n / d, n % d)).collect();
        let (values, v) = eigen(a.clone(), d);
        for i in 0..d {
            for j in 0..d {
                let back: f64 = (0..d).map(|k| v[i * d + k] * values[k] * v[j * d + k]).sum();
                let unit: f64 = (0..d).map(|k| v[k * d + i] * v[k * d + j]).sum();
                assert!((back - a[i * d + j]).abs() < 1e-12);
                assert!((unit - f64::from(i == j)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn leading_components_match_the_full_decomposition() {
        let (n, d) = (90, 70);
        let entry = |at: usize| {
            let (row, col) = (at / d, at % d);
            ((row * 31 + col * 17 + row * col) as f32 * 0.37).sin() / (1 + col / 7) as f32 + 2.0
        };
        let values: Vec<f32> = (0..n * d).map(entry).collect();
        let rows = Rows::new(&values, d).expect("sound");
        let centred = &|row: &[f32]| row.iter().map(|&x| f64::from(x) - 2.0).collect::<Vec<f64>>();
        let (values, axes, total) = all_components(rows, centred, 3);
        let (leading, found, sum) = leading_components(rows, centred, 3).expect("components");
        assert!((total / sum - 1.0).abs() < 1e-12);
        for n in 0..3 {
            assert!((values[n] / leading[n] - 1.0).abs() < 1e-12, "{values:?} {leading:?}");
            let off = axes[n].iter().zip(&found[n]).fold(0.0, |off: f64, (a, b)| off.max((a - b).abs()));
            assert!(off < 1e-6, "axis {n} is {off:.1e} off");
        }
    }

    #[test]
    fn missing_components_are_zero() {
        let p = pca(Rows::new(&[0.0, 1.0, 2.0, 5.0], 1).expect("sound"), 2).expect("components");
        assert_eq!((p.projection[1], p.projection[7], p.explained[1]), (0.0, 0.0, 0.0));
        assert_eq!(p.projection[6], 3.0);
    }
}
