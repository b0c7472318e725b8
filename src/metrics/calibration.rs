//! What follows from probabilities: the likelihood of the labels and how far confidence is from accuracy.

/// Bins of the expected calibration error, as in Guo et al., arXiv 1706.04599.
pub const ECE_BINS: usize = 15;

/// Mean negative log-likelihood, and the expected calibration error: Σ_b |B_b|/N · |acc(B_b) − conf(B_b)| over bins
/// (b/15, (b+1)/15] of the predicted class's probability. Softmax and sums are in f64.
pub(super) fn nll_and_ece(logits: &[f32], labels: &[u32], predicted: &[usize], classes: usize) -> (f64, f64) {
    let mut nll = 0.0;
    let mut bins = [Bin::default(); ECE_BINS];
    for ((row, &label), &guess) in logits.chunks_exact(classes).zip(labels).zip(predicted) {
        let top = f64::from(row[guess]);
        // Relative to the largest logit nothing overflows, and the sum is at least 1.
        let sum: f64 = row.iter().map(|&v| (f64::from(v) - top).exp()).sum();
        nll += sum.ln() + top - f64::from(row[label as usize]);
        bins[bin_of(1.0 / sum)].add(1.0 / sum, guess == label as usize);
    }
    let gaps: f64 = bins.iter().map(|b| (b.right - b.confidence).abs()).sum();
    (nll / labels.len() as f64, gaps / labels.len() as f64)
}

/// The bin (b/15, (b+1)/15] that holds a confidence in (0, 1].
fn bin_of(confidence: f64) -> usize {
    let below = |b: &usize| *b as f64 / ECE_BINS as f64;
    (1..ECE_BINS).take_while(|b| confidence > below(b)).count()
}

/// Sums over the images in a bin.
#[derive(Clone, Copy, Default)]
struct Bin {
    confidence: f64,
    right: f64,
}

impl Bin {
    fn add(&mut self, confidence: f64, right: bool) {
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
        // Confidence 1 and wrong: the loss is the distance of the logits, the gap is whole.
        assert_eq!(nll_and_ece(&[3e38, -3e38], &[1], &[0], 2).1, 1.0);
        let (nll, ece) = nll_and_ece(&[1000.0, 0.0], &[1], &[0], 2);
        assert_eq!((nll, ece), (1000.0, 1.0));
    }
}
