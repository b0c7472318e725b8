//! The losses in plain f64 code, which the tests compare the kernels with.

use super::{Criterion, Targets};

/// Returns the loss of a batch and its gradient with respect to the logits; both are (N, C), row by row.
pub(crate) fn reference(criterion: &Criterion, logits: &[f64], targets: &Targets) -> (f64, Vec<f64>) {
    assert!(criterion.smoothing.is_empty(), "smoothed labels are tested elsewhere");
    let classes = criterion.offsets.len();
    let mut loss = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    for (s, (z, row)) in logits.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes)).enumerate() {
        let a = (targets.label_a[s], targets.coef_a[s]);
        let b = (targets.label_b[s], targets.coef_b[s]);
        for (label, coef) in [a, b] {
            let (k, coef, gamma) = (label as usize, f64::from(coef), f64::from(criterion.gamma));
            let scale = |c: usize| criterion.scales.get(c).map_or(1.0, |s| f64::from(*s));
            let logits = z.iter().enumerate().zip(&criterion.offsets);
            let mut u: Vec<f64> = logits.map(|((c, z), &offset)| scale(c) * z + f64::from(offset)).collect();
            u[k] -= f64::from(criterion.margins[k]);
            let max = u.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_rest = u.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            let log_p = (u[k] - max) - log_rest;
            let rest = -log_p.exp_m1();
            loss -= coef * rest.powf(gamma) * log_p;
            // The limit for p = 1: log p / (1 − p) → −1.
            let slope = if rest > 0.0 { log_p / rest } else { -1.0 };
            let h = rest.powf(gamma) * (1.0 - gamma * log_p.exp() * slope);
            for (c, (g, u)) in row.iter_mut().zip(&u).enumerate() {
                let hit = if c == k { 1.0 } else { 0.0 };
                *g += coef * h * ((u - max - log_rest).exp() - hit) * scale(c);
            }
        }
    }
    (loss, gradient)
}
