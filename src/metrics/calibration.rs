//! Metrics of probabilities: the likelihood of the labels, and the difference between confidence and
//! accuracy.

use serde::{Deserialize, Serialize};

/// Bins of the expected calibration error, as in Guo et al., arXiv 1706.04599.
pub const ECE_BINS: usize = 15;

/// A bin: the images whose confidence is in (b/15, (b+1)/15].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Number of images.
    pub images: u64,
    /// Mean probability of the predicted class, 0–1; `None` without images.
    pub confidence: Option<f64>,
    /// Share of correctly classified images, 0–1; `None` without images.
    pub accuracy: Option<f64>,
}

/// Metrics that are computed from the probabilities.
pub(super) struct Calibration {
    /// Mean negative log-likelihood, nats.
    pub nll: f64,
    /// Expected calibration error: Σ_b |B_b|/N · |acc(B_b) − conf(B_b)|.
    pub ece: f64,
    /// The bins B_b of the reliability diagram.
    pub bins: Vec<Bin>,
}

/// Compares probabilities with the labels; softmax and sums are in f64.
pub(super) fn calibration(
    logits: &[f32],
    labels: &[u32],
    predicted: &[usize],
    classes: usize,
) -> Calibration {
    let mut nll = 0.0;
    let mut bins = [Sums::default(); ECE_BINS];
    for ((row, &label), &guess) in logits.chunks_exact(classes).zip(labels).zip(predicted) {
        let top = f64::from(row[guess]);
        // Subtracting the largest logit avoids overflow, and makes the sum at least 1.
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - top).exp()).sum();
        // Compute the difference first: `sum.ln()` would be lost when added to a large `top`.
        nll += sum.ln() + (top - f64::from(row[label as usize]));
        bins[bin_of(1.0 / sum)].add(1.0 / sum, guess == label as usize);
    }
    let gaps: f64 = bins.iter().map(|b| (b.right - b.confidence).abs()).sum();
    let n = labels.len() as f64;
    Calibration { nll: nll / n, ece: gaps / n, bins: bins.iter().map(Sums::bin).collect() }
}

/// Returns the bin (b/15, (b+1)/15] that contains a confidence in (0, 1].
fn bin_of(confidence: f64) -> usize {
    let below = |b: &usize| *b as f64 / ECE_BINS as f64;
    (1..ECE_BINS).take_while(|b| confidence > below(b)).count()
}

/// Sums over the images in a bin.
#[derive(Clone, Copy, Default)]
struct Sums {
    images: u64,
    confidence: f64,
    right: f64,
}

impl Sums {
    fn bin(&self) -> Bin {
        let mean = |sum: f64| (self.images > 0).then(|| sum / self.images as f64);
        Bin { images: self.images, confidence: mean(self.confidence), accuracy: mean(self.right) }
    }

    fn add(&mut self, confidence: f64, right: bool) {
        self.images += 1;
        self.confidence += confidence;
        self.right += f64::from(u8::from(right));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_open_below_and_closed_above() {
        let edge = |b: usize| b as f64 / 15.0;
        assert_eq!(bin_of(f64::MIN_POSITIVE), 0);
        assert_eq!(bin_of(edge(1)), 0);
        assert_eq!(bin_of(edge(1).next_up()), 1);
        assert_eq!(bin_of(edge(14)), 13);
        assert_eq!(bin_of(1.0), 14);
    }

    #[test]
    fn huge_logits_stay_finite() {
        // Confidence 1 and wrong: the loss is the difference of the logits, and the gap is 1.
        assert_eq!(calibration(&[3e38, -3e38], &[1], &[0], 2).ece, 1.0);
        let c = calibration(&[1000.0, 0.0], &[1], &[0], 2);
        assert_eq!((c.nll, c.ece), (1000.0, 1.0));
        assert_eq!(c.bins[14], Bin { images: 1, confidence: Some(1.0), accuracy: Some(0.0) });
        assert_eq!(c.bins[0], Bin { images: 0, confidence: None, accuracy: None });
    }

    #[test]
    fn equal_logits_have_an_nll_of_the_log_of_the_classes() {
        for value in [0.0, 1e12, 1e15, 1e17, -1e17, f32::MAX] {
            let c = calibration(&[value; 10], &[3], &[0], 10);
            assert_eq!(c.nll, 10f64.ln(), "all logits {value}");
        }
        // A difference that f32 can still represent at this magnitude counts in full.
        let top = 1e9f32;
        let below = top - 64.0;
        let c = calibration(&[top, below], &[1], &[0], 2);
        assert_eq!(c.nll, 64.0 + (-64f64).exp().ln_1p());
    }
}
