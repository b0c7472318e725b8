//! Post-hoc logit adjustment (Menon et al., arXiv 2007.07314): a classifier that has learnt from few images
//! of a class underestimates its probability; its logits are corrected by the classes' shares of the training
//! images.
//!
//! The logits `z_k − τ·ln(π_k)`, where π are the shares of the training images, are for test images in which
//! all classes are equally likely. If the classes' shares q of the test images are known and differ from
//! that, the logits are `z_k − τ·ln(π_k / q_k)`.

/// Returns what is subtracted from each class's logit.
///
/// `counts` are the numbers of training images of the classes, all positive. `prior` are the shares of the
/// test images, or `None` if all classes are equally likely.
pub fn offsets(tau: f64, counts: &[usize], prior: Option<&[f64]>) -> Vec<f64> {
    let all = counts.iter().sum::<usize>() as f64;
    let offset = |(k, &n): (usize, &usize)| {
        let share = n as f64 / all;
        tau * (share / prior.map_or(1.0, |prior| prior[k])).ln()
    };
    counts.iter().enumerate().map(offset).collect()
}

/// Subtracts the offsets of the classes from logits (N, C).
pub fn adjusted(logits: &[f32], offsets: &[f64]) -> Vec<f32> {
    let rows = logits.chunks_exact(offsets.len());
    rows.flat_map(|row| row.iter().zip(offsets).map(|(z, offset)| (f64::from(*z) - offset) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_logits_favour_rare_classes() {
        // ln(90/100) and ln(10/100).
        let plain = offsets(1.0, &[90, 10], None);
        assert!((plain[0] + 0.105_360_515_657_826_28).abs() < 1e-12);
        assert!((plain[1] + 2.302_585_092_994_045_5).abs() < 1e-12);
        assert_eq!(offsets(0.0, &[90, 10], None), [0.0, 0.0]);
        let same = offsets(1.0, &[90, 10], Some(&[0.9, 0.1]));
        assert!(same.iter().all(|x| x.abs() < 1e-12), "the shares of the training images: {same:?}");
        // Shifting all classes equally changes no prediction.
        let uniform = offsets(1.0, &[90, 10], Some(&[0.5, 0.5]));
        assert!((uniform[0] - plain[0] - (uniform[1] - plain[1])).abs() < 1e-12);
        assert_eq!(adjusted(&[1.0, 0.0, 3.0, 2.0], &[0.5, -1.0]), [0.5, 1.0, 2.5, 3.0]);
    }
}
