//! Principal component analysis, exact: the covariance in f64 and its eigenvectors by Jacobi's rotations.
//!
//! For feature vectors, tens to hundreds wide; the work is O(N·D² + D³).

use super::Rows;

/// A projection on the first principal components.
pub struct Pca {
    /// Coordinates (N, dims), centred, row by row.
    pub projection: Vec<f64>,
    /// Share of the total variance that each component has, descending.
    pub explained: Vec<f64>,
}

/// Projects on the first `dims` components; missing ones, of features narrower than that, are 0.
///
/// The sign of an eigenvector is anybody's choice; here its largest entry by absolute value (the first of equals) is
/// positive, as in scikit-learn.
pub fn pca(rows: Rows, dims: usize) -> Pca {
    let d = rows.width;
    let mut mean = vec![0.0; d];
    for row in rows.iter() {
        mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
    }
    mean.iter_mut().for_each(|m| *m /= rows.len() as f64);
    let centred =
        |row: &[f32]| -> Vec<f64> { row.iter().zip(&mean).map(|(&x, m)| f64::from(x) - m).collect() };

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
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order.truncate(dims);
    let total: f64 = values.iter().sum();
    let axes: Vec<Vec<f64>> = order.iter().map(|&k| upright(vectors.iter().skip(k).step_by(d))).collect();
    let mut projection = vec![0.0; rows.len() * dims];
    for (out, row) in projection.chunks_exact_mut(dims).zip(rows.iter().map(centred)) {
        for (out, axis) in out.iter_mut().zip(&axes) {
            *out = axis.iter().zip(&row).map(|(a, x)| a * x).sum();
        }
    }
    let mut explained: Vec<f64> = order.iter().map(|&k| values[k].max(0.0) / total).collect();
    explained.resize(dims, 0.0);
    Pca { projection, explained }
}

/// An eigenvector with its sign fixed.
fn upright<'a>(vector: impl Iterator<Item = &'a f64>) -> Vec<f64> {
    let vector: Vec<f64> = vector.copied().collect();
    let largest = vector.iter().fold(0.0, |best: f64, &x| if x.abs() > best.abs() { x } else { best });
    vector.into_iter().map(|x| if largest < 0.0 { -x } else { x }).collect()
}

/// Eigenvalues of a symmetric matrix (D, D) and the eigenvectors as columns, by cyclic Jacobi rotations (Golub and Van
/// Loan, Matrix Computations, 8.5): each makes one off-diagonal entry 0, and sweeps over all of them converge
/// quadratically.
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
    fn a_tilted_ellipse_comes_out_straight() {
        // x along (3, 4)/5 with variance 4, across it with variance 1, far from the origin.
        let mut values = Vec::new();
        for (along, across) in [(2.0, 1.0), (2.0, -1.0), (-2.0, 1.0), (-2.0, -1.0)] {
            values.extend([100.0 + 0.6 * along - 0.8 * across, 7.0 + 0.8 * along + 0.6 * across]);
        }
        let p = pca(Rows::new(&values, 2).expect("sound"), 2);
        assert!(
            (p.explained[0] - 0.8).abs() < 1e-5 && (p.explained[1] - 0.2).abs() < 1e-5,
            "{:?}",
            p.explained
        );
        // The second axis is (0.8, −0.6), for its largest entry is positive.
        for (found, expected) in p.projection.iter().zip([2.0, -1.0, 2.0, 1.0, -2.0, -1.0, -2.0, 1.0]) {
            assert!((found - expected).abs() < 1e-5, "{:?}", p.projection);
        }
    }

    #[test]
    fn eigenvectors_give_the_matrix_back() {
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
    fn narrow_features_get_zeros() {
        let p = pca(Rows::new(&[0.0, 1.0, 2.0, 5.0], 1).expect("sound"), 2);
        assert_eq!((p.projection[1], p.projection[7], p.explained[1]), (0.0, 0.0, 0.0));
        assert_eq!(p.projection[6], 3.0);
    }
}
