//! Post-hoc logit adjustment (Menon et al., arXiv 2007.07314): a classifier that learnt from few images of a
//! class takes it for too unlikely, and its logits are corrected by the classes' shares of the training
//! images.
//!
//! `z_k − τ·ln(π_k)`, π the shares of the training images, is for test images of which every class is equally
//! likely. Where the classes' shares q of the test images are known and others, it is
//! `z_k − τ·ln(π_k / q_k)`.

/// What is subtracted from each class's logit, for classes of these many training images, all positive, and
/// the shares `prior` of the test images; none where all classes are equally likely.
pub fn offsets(tau: f64, counts: &[usize], prior: Option<&[f64]>) -> Vec<f64> {
    let all = counts.iter().sum::<usize>() as f64;
    let offset = |(k, &n): (usize, &usize)| {
        let share = n as f64 / all;
        tau * (share / prior.map_or(1.0, |prior| prior[k])).ln()
    };
    counts.iter().enumerate().map(offset).collect()
}

/// Logits (N, C) with the offsets of the classes subtracted.
pub fn adjusted(logits: &[f32], offsets: &[f64]) -> Vec<f32> {
    let rows = logits.chunks_exact(offsets.len());
    rows.flat_map(|row| row.iter().zip(offsets).map(|(z, offset)| (f64::from(*z) - offset) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_classes_gain() {
        // ln(90/100) and ln(10/100).
        let plain = offsets(1.0, &[90, 10], None);
        assert!((plain[0] + 0.105_360_515_657_826_28).abs() < 1e-12);
        assert!((plain[1] + 2.302_585_092_994_045_5).abs() < 1e-12);
        assert_eq!(offsets(0.0, &[90, 10], None), [0.0, 0.0]);
        let same = offsets(1.0, &[90, 10], Some(&[0.9, 0.1]));
        assert!(same.iter().all(|x| x.abs() < 1e-12), "the shares of the training images: {same:?}");
        // A shift of all classes alike changes no prediction.
        let uniform = offsets(1.0, &[90, 10], Some(&[0.5, 0.5]));
        assert!((uniform[0] - plain[0] - (uniform[1] - plain[1])).abs() < 1e-12);
        assert_eq!(adjusted(&[1.0, 0.0, 3.0, 2.0], &[0.5, -1.0]), [0.5, 1.0, 2.5, 3.0]);
    }
}
