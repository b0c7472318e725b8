//! The loss in plain f64: what a kernel is tested against, never what trains.
//!
//! Each sample has two labels with a coefficient each; mixing, class weights and the batch's normalisation
//! are all in the coefficients (see `train::plan`), so one formula serves every method:
//!
//! ```text
//! L       = Σ_s  coef_a[s] · CE(z_s, a_s) + coef_b[s] · CE(z_s, b_s),     CE(z, k) = log Σ_c exp z_c − z_k
//! ∂L/∂z_sc = (coef_a[s] + coef_b[s]) · softmax(z_s)_c − coef_a[s] · [c = a_s] − coef_b[s] · [c = b_s]
//! ```

use serde::{Deserialize, Serialize};

/// The loss of one label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Loss {
    /// Cross-entropy of the softmax.
    Ce,
}

/// Two labels and their coefficients for each of N samples; all four slices are of length N.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// First label, below the number of classes.
    pub label_a: &'a [u32],
    /// Second label, below the number of classes.
    pub label_b: &'a [u32],
    /// Coefficient of the first label's loss.
    pub coef_a: &'a [f32],
    /// Coefficient of the second label's loss.
    pub coef_b: &'a [f32],
}

/// The loss of a batch and its gradient by the logits; `logits` and the gradient are (N, C), row by row.
pub fn cross_entropy(logits: &[f64], classes: usize, targets: &Targets) -> (f64, Vec<f64>) {
    let mut loss = 0.0;
    let mut gradient = Vec::with_capacity(logits.len());
    for (s, z) in logits.chunks_exact(classes).enumerate() {
        let (a, b) = (targets.label_a[s] as usize, targets.label_b[s] as usize);
        let (coef_a, coef_b) = (f64::from(targets.coef_a[s]), f64::from(targets.coef_b[s]));
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + z.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        loss += coef_a * (log_sum - z[a]) + coef_b * (log_sum - z[b]);
        gradient.extend(z.iter().map(|x| (coef_a + coef_b) * (x - log_sum).exp()));
        let row = &mut gradient[s * classes..];
        row[a] -= coef_a;
        row[b] -= coef_b;
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets<'static> = Targets {
        label_a: &[0, 2, 1],
        label_b: &[1, 2, 0],
        coef_a: &[0.25, 0.5, 0.0],
        coef_b: &[0.125, 0.25, 0.75],
    };
    const LOGITS: [f64; 9] = [0.5, -1.0, 2.0, 0.0, 0.0, 0.0, 3.0, -2.0, 0.25];

    #[test]
    fn value_by_hand() {
        // Equal logits: every cross-entropy is ln 3.
        let t = Targets { label_a: &[2], label_b: &[0], coef_a: &[0.5], coef_b: &[0.25] };
        let (loss, gradient) = cross_entropy(&[7.0; 3], 3, &t);
        assert!((loss - 0.75 * 3f64.ln()).abs() < 1e-15);
        let expected = [0.25 - 0.25, 0.25, 0.25 - 0.5];
        assert!(gradient.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-15), "{gradient:?}");
    }

    #[test]
    fn gradient_is_the_finite_difference() {
        let (_, gradient) = cross_entropy(&LOGITS, 3, &TARGETS);
        for (i, g) in gradient.iter().enumerate() {
            let at = |d: f64| {
                let mut z = LOGITS;
                z[i] += d;
                cross_entropy(&z, 3, &TARGETS).0
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((g - difference).abs() < 1e-9, "{i}: {g} {difference}");
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let t = Targets { label_a: &[0], label_b: &[1], coef_a: &[1.0], coef_b: &[0.0] };
        let (loss, gradient) = cross_entropy(&[-4000.0, 4000.0, 0.0], 3, &t);
        assert_eq!(loss, 8000.0);
        assert_eq!(gradient, [-1.0, 1.0, 0.0]);
    }
}
