//! The affinities of t-SNE: how near the rows are to each other, as one symmetric distribution over pairs.

use rayon::prelude::*;

use super::neighbours::Neighbours;

/// The affinities p_ij = (p_{j|i} + p_{i|j}) / 2N, as a sparse matrix by rows; its entries add up to 1.
pub struct Affinities {
    /// Start of each row, and the number of entries at the end (N + 1 values).
    pub start: Vec<usize>,
    /// The other point of each entry, ascending within a row.
    pub column: Vec<u32>,
    /// The value p of each entry.
    pub value: Vec<f32>,
}

/// Computes the affinities over nearest neighbours, of which there should be three times the perplexity.
///
/// p_{j|i} ∝ exp(−β_i d_ij²) over the neighbours j of i, with β_i such that 2^entropy is the perplexity (van
/// der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008, equations 1 and 2; van der Maaten, JMLR
/// 2014, for the neighbours).
pub fn affinities(found: &Neighbours, perplexity: f64) -> Affinities {
    let Neighbours { k, ref index, ref squared } = *found;
    let n = index.len() / k;
    let mut conditional = vec![0.0; n * k];
    conditional
        .par_chunks_mut(k)
        .zip(squared.par_chunks(k))
        .for_each(|(p, d)| distribution(d, perplexity, p));

    // Every p_{j|i} goes to row i and to row j. Entries of the same pair are adjacent in a sorted row, and
    // are added.
    let mut counts = vec![k; n];
    index.iter().for_each(|&j| counts[j as usize] += 1);
    let mut rows: Vec<Vec<(u32, f64)>> = counts.iter().map(|&c| Vec::with_capacity(c)).collect();
    for (at, (&j, &p)) in index.iter().zip(&conditional).enumerate() {
        rows[at / k].push((j, p));
        rows[j as usize].push(((at / k) as u32, p));
    }
    rows.par_iter_mut().for_each(|row| {
        row.sort_by_key(|&(j, _)| j);
        row.dedup_by(|second, first| {
            let same = first.0 == second.0;
            if same {
                first.1 += second.1;
            }
            same
        });
    });
    let mut start = vec![0];
    start.extend(rows.iter().scan(0, |end, row| {
        *end += row.len();
        Some(*end)
    }));
    let scale = 0.5 / n as f64;
    let (column, value) = rows.into_iter().flatten().map(|(j, p)| (j, (p * scale) as f32)).unzip();
    Affinities { start, column, value }
}

/// Fills `p` with the distribution over squared distances, ascending, that has the given perplexity.
///
/// The entropy falls as β grows. If so many distances are equal that even β → ∞ leaves too much entropy, the
/// result is the uniform distribution over the nearest.
fn distribution(squared: &[f32], perplexity: f64, p: &mut [f64]) {
    // Relative to the nearest distance, the largest exponential is 1 and the sum cannot underflow; p is
    // unaffected.
    let from_nearest = |d: f32| f64::from(d) - f64::from(squared[0]);
    let spread = squared.iter().map(|&d| from_nearest(d)).sum::<f64>() / squared.len() as f64;
    let (mut beta, mut low, mut high) = (if spread > 0.0 { 1.0 / spread } else { 1.0 }, 0.0, f64::INFINITY);
    for _ in 0..200 {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (p, &d) in p.iter_mut().zip(squared) {
            let d = from_nearest(d);
            *p = (-beta * d).exp();
            sum += *p;
            weighted += *p * d;
        }
        p.iter_mut().for_each(|p| *p /= sum);
        let excess = beta * weighted / sum + sum.ln() - perplexity.ln();
        if excess.abs() < 1e-8 {
            return;
        }
        if excess > 0.0 {
            low = beta;
        } else {
            high = beta;
        }
        let next = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * beta };
        if next == beta || !next.is_finite() {
            return;
        }
        beta = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn perplexity(p: &[f64]) -> f64 {
        p.iter().map(|p| if *p > 0.0 { -p * p.ln() } else { 0.0 }).sum::<f64>().exp()
    }

    #[test]
    fn distributions_have_the_wanted_perplexity() {
        let squared: Vec<f32> = (1..=90).map(|i| 1e-3 * (i * i) as f32).collect();
        for wanted in [1.5, 5.0, 29.9] {
            for scale in [1e-12f32, 1.0, 1e12] {
                let squared: Vec<f32> = squared.iter().map(|d| d * scale).collect();
                let mut p = vec![0.0; 90];
                distribution(&squared, wanted, &mut p);
                assert!((perplexity(&p) - wanted).abs() < 1e-5, "{wanted} at {scale}: {}", perplexity(&p));
            }
        }
    }

    #[test]
    fn equal_distances_share_equally() {
        for squared in [[0.0f32; 6], [2.0; 6], [1.0, 1.0, 1.0, 1.0, 2.0, 3.0]] {
            let mut p = vec![0.0; 6];
            distribution(&squared, 2.0, &mut p);
            let equal = squared.iter().filter(|d| **d == squared[0]).count() as f64;
            assert!((p[0] - 1.0 / equal).abs() < 1e-6, "{p:?}");
            assert!(p.iter().all(|p| p.is_finite()));
        }
    }

    #[test]
    fn the_matrix_is_symmetric_and_adds_up_to_one() {
        // Five points on a line with two neighbours each; 0's neighbours are 1 and 2, but 2's are 1 and 3.
        let index = vec![1, 2, 0, 2, 1, 3, 2, 4, 3, 2];
        let squared = vec![1.0, 4.0, 1.0, 1.5, 1.5, 2.0, 2.0, 3.0, 3.0, 9.0];
        let a = affinities(&Neighbours { k: 2, index, squared }, 1.5);
        let entry = |i: usize, j: usize| {
            let row = a.start[i]..a.start[i + 1];
            a.column[row.clone()].iter().position(|&c| c as usize == j).map(|at| a.value[row][at])
        };
        for i in 0..5 {
            assert!(a.column[a.start[i]..a.start[i + 1]].is_sorted());
            for j in 0..5 {
                assert_eq!(entry(i, j), entry(j, i), "{i} {j}");
            }
        }
        assert!(entry(0, 2).is_some() && entry(0, 3).is_none());
        assert!((a.value.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
