//! Re-sampling: draws training images with replacement so that classes occur with given probabilities.

use rand_chacha::ChaCha8Rng;

use super::rule::Resample;
use crate::rng::{below, uniform};

/// Draws a class by its cumulative probability, then an image of that class uniformly.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Upper end of each class's share of [0, 1).
    cumulative: Vec<f64>,
    /// Positions of the images, class by class.
    images: Vec<u32>,
    /// Where each class starts in `images`; one more entry than classes.
    starts: Vec<usize>,
}

impl Sampler {
    /// Creates a sampler over images with these labels; `counts` are the numbers of images of the classes,
    /// all positive.
    pub fn new(rule: &Resample, labels: &[u32], counts: &[usize]) -> Sampler {
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = rule.probabilities(counts).iter().map(|p| (sum += p, sum).1).collect();
        // Rounding of the sum must not leave a gap below 1.
        if let Some(last) = cumulative.last_mut() {
            *last = 1.0;
        }
        let mut starts = vec![0];
        starts.extend(counts.iter().scan(0, |end, n| {
            *end += n;
            Some(*end)
        }));
        let mut images: Vec<u32> = (0..).take(labels.len()).collect();
        images.sort_by_key(|&i| labels[i as usize]);
        Sampler { cumulative, images, starts }
    }

    /// Draws the position of an image; takes four words of the stream.
    pub fn sample(&self, rng: &mut ChaCha8Rng) -> u32 {
        let u = uniform(rng);
        let class = self.cumulative.partition_point(|&end| end <= u);
        let (from, to) = (self.starts[class], self.starts[class + 1]);
        self.images[from + below(rng, to - from)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..Default::default() })]

        /// Checks Pearson's χ² of the drawn classes (mean C−1, σ = √(2(C−1))) against a bound that is far
        /// beyond chance.
        #[test]
        fn classes_are_drawn_with_their_probabilities(
            counts in proptest::collection::vec(1usize..400, 2..12),
            inverse: bool,
            seed: u64,
        ) {
            let rule = if inverse { Resample::Inverse } else { Resample::Effective { beta: 0.99 } };
            let mut labels: Vec<u32> =
                (0u32..).zip(&counts).flat_map(|(k, &n)| std::iter::repeat_n(k, n)).collect();
            // The images of a class need not be contiguous.
            labels.reverse();
            let sampler = Sampler::new(&rule, &labels, &counts);
            let mut rng = stream(seed, Purpose::Order, 1, 0);
            let mut seen = vec![0usize; counts.len()];
            let n = 20_000;
            for _ in 0..n {
                seen[labels[sampler.sample(&mut rng) as usize] as usize] += 1;
            }
            let chi2: f64 = rule.probabilities(&counts).iter().zip(&seen)
                .map(|(p, &o)| (o as f64 - p * n as f64).powi(2) / (p * n as f64))
                .sum();
            let freedom = (counts.len() - 1) as f64;
            prop_assert!(chi2 < freedom + 8.0 * (2.0 * freedom).sqrt() + 20.0, "χ² {chi2}, {seen:?}");
        }
    }

    #[test]
    fn images_within_a_class_are_equally_likely() {
        let labels = [0, 1, 0, 1, 1, 0, 0, 1];
        let sampler = Sampler::new(&Resample::Inverse, &labels, &[4, 4]);
        let mut rng = stream(11, Purpose::Order, 1, 0);
        let mut seen = [0u32; 8];
        (0..8000).for_each(|_| seen[sampler.sample(&mut rng) as usize] += 1);
        // σ ≈ 29.6 per image.
        assert!(seen.iter().all(|n| n.abs_diff(1000) < 150), "{seen:?}");
    }
}
