//! The weighted k-nearest-neighbour classifier with which Wu et al. (arXiv 1805.01978) evaluate features: the
//! k training images of largest cosine similarity vote for their classes, each with the weight
//! exp(cosine / 0.07).

use rayon::prelude::*;

use super::head::inverse_norm;
use super::linear::Linear;
use crate::interrupt::{self, Interrupted};
use crate::methods::loss::ClassifierKind;

/// Temperature that cosines are divided by.
const TEMPERATURE: f64 = 0.07;

/// Number of images that are compared with all training images at a time.
const IMAGES_PER_PASS: usize = 64;

/// The training images that vote, as a classifier.
pub struct Neighbours {
    labels: Vec<u32>,
    classes: usize,
    /// Number of nearest images that vote.
    k: usize,
    /// Number of features per image.
    len: usize,
    /// Computes the products with the features of all voters, which are scaled to length 1.
    products: Linear,
}

impl Neighbours {
    /// Creates a classifier by the `k` nearest of the training images with the given features, (N, `len`),
    /// and labels.
    pub fn new(features: &[f32], labels: &[u32], len: usize, classes: usize, k: usize) -> Neighbours {
        // The values after the features are the biases, which stay zero.
        let mut flat = vec![0.0; features.len() + labels.len()];
        flat.par_chunks_exact_mut(len).zip(features.par_chunks_exact(len)).for_each(|(unit, row)| {
            let scale = inverse_norm(row);
            unit.iter_mut().zip(row).for_each(|(unit, x)| *unit = x * scale);
        });
        let products = Linear::new(&flat, len, ClassifierKind::Linear);
        Neighbours { labels: labels.to_vec(), classes, k, len, products }
    }

    /// Returns the logits (N, classes) of features (N, `len`): the logarithm of the votes for each class.
    /// Each class gets one extra vote with a cosine of −1, so that the logarithm of zero is never taken; this
    /// does not change the ranking. If the features are those of the voters (`are_voters`), the logits of
    /// each are computed without its own vote.
    ///
    /// # Errors
    /// Returns [`Interrupted`] after a signal.
    pub fn logits(&self, x: &[f32], are_voters: bool) -> Result<Vec<f32>, Interrupted> {
        let mut out = vec![0.0; x.len() / self.len * self.classes];
        let passes = x.chunks(IMAGES_PER_PASS * self.len).zip(out.chunks_mut(IMAGES_PER_PASS * self.classes));
        for (pass, (x, out)) in passes.enumerate() {
            interrupt::check()?;
            let products = self.products.logits(x);
            let rows = x.par_chunks_exact(self.len).zip(products.par_chunks_exact(self.labels.len()));
            let rows = rows.zip(out.par_chunks_exact_mut(self.classes)).enumerate();
            rows.for_each(|(n, ((x, products), out))| {
                let scale = inverse_norm(x);
                let cosines: Vec<f32> = products.iter().map(|p| p * scale).collect();
                self.votes(&cosines, are_voters.then_some(pass * IMAGES_PER_PASS + n), out);
            });
        }
        Ok(out)
    }

    fn votes(&self, cosines: &[f32], without: Option<usize>, out: &mut [f32]) {
        let mut voters: Vec<usize> = (0..cosines.len()).filter(|n| Some(*n) != without).collect();
        let nearer = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
        let k = self.k.min(voters.len());
        if k < voters.len() {
            voters.select_nth_unstable_by(k, nearer);
        }
        let voters = &mut voters[..k];
        // Always add up the votes in the same order, so that the sums are reproducible.
        voters.sort_unstable_by(nearer);
        let mut votes = vec![(-1.0 / TEMPERATURE).exp(); self.classes];
        for &n in &*voters {
            votes[self.labels[n] as usize] += (f64::from(cosines[n]) / TEMPERATURE).exp();
        }
        out.iter_mut().zip(votes).for_each(|(z, votes)| *z = votes.ln() as f32);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::simd::{Isa, for_each_isa, forced};

    fn floats(v: &Value) -> Vec<f32> {
        v.as_array().expect("numbers").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
    }

    /// Compares with scikit-learn's weighted neighbours, computed by
    /// `scripts/pytorch/fixture_classifiers.py`.
    #[test]
    fn votes_match_scikit_learn() {
        let truth = include_str!("../../../tests/fixtures/classifiers.json");
        let truth = &serde_json::from_str::<Value>(truth).expect("JSON")["knn"];
        let labels: Vec<u32> = floats(&truth["labels"]).into_iter().map(|l| l as u32).collect();
        let (train, x) = (floats(&truth["train"]), floats(&truth["x"]));
        let len = train.len() / labels.len();
        let logits = |x: &[f32]| Neighbours::new(&train, &labels, len, 4, 5).logits(x, false).expect("votes");
        let expected = floats(&truth["logits"]);
        for_each_isa(|isa| {
            let found = logits(&x);
            assert_eq!(found.len(), expected.len());
            let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 1e-4, "{}: {off}", isa.name());
        });
        let [one, four] = [1, 4].map(|threads| forced(Isa::get(), threads, || logits(&x)));
        assert!(one == four);
    }

    /// Uses more rows than are compared at a time.
    #[test]
    fn each_of_many_rows_has_its_own_neighbours() {
        let (n, len, classes, k) = (150, 7, 3, 4);
        let mut state = 1u32;
        let mut value = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let x: Vec<f32> = (0..n * len).map(|_| value()).collect();
        let labels: Vec<u32> = (0..n).map(|i| (i * i % classes) as u32).collect();
        let voters = Neighbours::new(&x, &labels, len, classes, k);
        let unit = |i: usize| -> Vec<f64> {
            let row: Vec<f64> = x[i * len..][..len].iter().map(|x| f64::from(*x)).collect();
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(|x| x / length).collect()
        };
        for itself in [true, false] {
            let found = voters.logits(&x, !itself).expect("votes");
            for (i, z) in found.chunks_exact(classes).enumerate() {
                let own = unit(i);
                let cosine = |j: usize| own.iter().zip(unit(j)).map(|(a, b)| a * b).sum::<f64>();
                let mut all: Vec<(f64, usize)> =
                    (0..n).filter(|j| itself || *j != i).map(|j| (cosine(j), j)).collect();
                all.sort_by(|a, b| b.0.total_cmp(&a.0));
                let mut votes = vec![(-1.0 / TEMPERATURE).exp(); classes];
                all[..k].iter().for_each(|(c, j)| votes[labels[*j] as usize] += (c / TEMPERATURE).exp());
                for (z, votes) in z.iter().zip(votes) {
                    assert!((f64::from(*z) - votes.ln()).abs() < 1e-3, "{i} {itself}: {z} {}", votes.ln());
                }
            }
        }
    }

    #[test]
    fn a_voter_has_no_vote_for_itself() {
        let train = [1.0, 0.0, 1.0, 0.1, 0.0, 1.0];
        let voters = Neighbours::new(&train, &[0, 1, 1], 2, 2, 1);
        let all = voters.logits(&train, true).expect("votes");
        let best: Vec<bool> = all.chunks_exact(2).map(|z| z[1] > z[0]).collect();
        // Other than itself, the nearest voter of the first has class 1, and that of the second class 0.
        assert_eq!(best, [true, false, true]);
        // With its own vote, the second voter is its own nearest neighbour.
        let own = voters.logits(&train, false).expect("votes");
        assert!(own[1] < own[0] && own[3] > own[2]);
    }
}
