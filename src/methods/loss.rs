//! The losses: what each asks of the classifier's op, and their values in plain f64, what the op is tested
//! against.
//!
//! Each sample has two labels with a coefficient each; mixing, class weights and the batch's normalisation
//! are all in the coefficients (see `train::plan`), and what tells the losses apart is in four things of a
//! [`Criterion`], so one formula serves every method:
//!
//! ```text
//! L    = Σ_s  coef_a[s] · ℓ(z_s, a_s) + coef_b[s] · ℓ(z_s, b_s)
//! ℓ(z, k) = (1 − p_k)^γ · (−log p_k),     p = softmax(u),     u_c = z_c + offset_c − [c = k] · margin_k
//!
//! ∂ℓ/∂z_c = h · (p_c − [c = k]),          h = (1 − p_k)^γ − γ · p_k · (1 − p_k)^(γ−1) · log p_k
//! ```
//!
//! A label that is smoothed by ε, without γ, is (1 − ε)·ℓ(z, k) and ε times the mean of ℓ over all classes.
//!
//! The logits z are `W·f + b`, or, where the classifier is normalised, [`SCALE`] times the cosine of the
//! features and a class's weights.

use serde::{Deserialize, Serialize};

/// What a normalised classifier multiplies its cosines with: the s of LDAM.
pub const SCALE: f32 = 30.0;

/// What a classifier computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassifierKind {
    /// `W·f + b`; the weight is (classes, features) in files.
    Linear,
    /// A multiple of the cosine of the features and a class's weights; the weight is (features, classes) in
    /// files, as in LDAM's code.
    Cosine,
}

/// The loss of one label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Loss {
    /// Cross-entropy of the softmax.
    Ce,
    /// *Focal loss* (Lin et al., arXiv 1708.02002): what is right already counts less.
    Focal {
        /// γ: cross-entropy is multiplied with (1 − p)^γ; 0 is cross-entropy.
        gamma: f64,
    },
    /// *Balanced softmax* (Ren et al., arXiv 2007.10740): log n_c is added to the logit of class c.
    BalancedSoftmax,
    /// *Logit adjustment* (Menon et al., arXiv 2007.07314): τ·log π_c is added, π the classes' shares of the
    /// data.
    LogitAdjustment {
        /// τ; 1 is balanced softmax, 0 is cross-entropy.
        la_tau: f64,
    },
    /// *LDAM* (Cao et al., arXiv 1906.07413): a normalised classifier whose margins are ∝ n_k^(−1/4).
    Ldam {
        /// The largest margin, that of the rarest class, as a cosine.
        margin: f64,
    },
    /// *Label-aware smoothing* (Zhong et al., arXiv 2104.00466): labels of frequent classes are smoothed
    /// more. A share ε_k of the label k is spread over the classes, as in MiSLAS's code over all of them; its
    /// paper spreads it over the others.
    Las {
        /// ε of the largest class.
        smooth_head: f64,
        /// ε of the smallest class.
        smooth_tail: f64,
    },
}

impl Loss {
    /// Focal loss as in its paper: γ = 2.
    pub const FOCAL: Loss = Loss::Focal { gamma: 2.0 };

    /// Logit adjustment as in its paper: τ = 1.
    pub const LOGIT_ADJUSTMENT: Loss = Loss::LogitAdjustment { la_tau: 1.0 };

    /// Label-aware smoothing as MiSLAS has it for ImageNet-LT: ε falls from 0.3 to 0.
    pub const LAS: Loss = Loss::Las { smooth_head: 0.3, smooth_tail: 0.0 };

    /// LDAM as in its paper: the largest margin is 0.5.
    pub const LDAM: Loss = Loss::Ldam { margin: 0.5 };

    /// The kind of classifier that it is made for.
    pub fn classifier(&self) -> ClassifierKind {
        match self {
            Loss::Ldam { .. } => ClassifierKind::Cosine,
            Loss::Ce
            | Loss::Focal { .. }
            | Loss::BalancedSoftmax
            | Loss::LogitAdjustment { .. }
            | Loss::Las { .. } => ClassifierKind::Linear,
        }
    }

    /// The loss for classes of these many training images, all positive.
    pub fn criterion(&self, counts: &[usize]) -> Criterion {
        let plain = Criterion::cross_entropy(counts.len());
        let mut criterion = Criterion { classifier: self.classifier(), ..plain };
        let of_each = |f: &dyn Fn(f64) -> f64| counts.iter().map(|&n| f(n as f64) as f32).collect();
        let all = counts.iter().sum::<usize>() as f64;
        match *self {
            Loss::Ce => {}
            Loss::Focal { gamma } => criterion.gamma = gamma as f32,
            // The common divisor changes no softmax, and keeps the numbers small.
            Loss::BalancedSoftmax => criterion.offsets = of_each(&|n| (n / all).ln()),
            Loss::LogitAdjustment { la_tau } => criterion.offsets = of_each(&|n| la_tau * (n / all).ln()),
            Loss::Ldam { margin } => {
                let rarest = counts.iter().copied().min().unwrap_or(1) as f64;
                criterion.margins = of_each(&|n| f64::from(SCALE) * margin * (rarest / n).powf(0.25));
            }
            Loss::Las { smooth_head, smooth_tail } => {
                let [least, most] =
                    [counts.iter().min(), counts.iter().max()].map(|n| n.map_or(0.0, |n| *n as f64));
                let share = |n: f64| if most > least { (n - least) / (most - least) } else { 0.0 };
                let rise = |n: f64| (std::f64::consts::FRAC_PI_2 * share(n)).sin();
                criterion.smoothing = of_each(&|n| smooth_tail + (smooth_head - smooth_tail) * rise(n));
            }
        }
        criterion
    }
}

/// A loss in numbers: what the head's op takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Criterion {
    /// What is added to each class's logit.
    pub offsets: Vec<f32>,
    /// What is taken from the logit of a label, by class.
    pub margins: Vec<f32>,
    /// γ of the focal loss; 0 for none.
    pub gamma: f32,
    /// What of each label is spread over all classes; empty for nothing.
    pub smoothing: Vec<f32>,
    /// The kind of classifier that it is made for.
    pub classifier: ClassifierKind,
}

impl Criterion {
    /// Plain cross-entropy.
    pub fn cross_entropy(classes: usize) -> Criterion {
        let classifier = ClassifierKind::Linear;
        let nothing = || vec![0.0; classes];
        Criterion { offsets: nothing(), margins: nothing(), gamma: 0.0, smoothing: vec![], classifier }
    }

    /// Whether labels have margins: then a sample's two labels do not share a softmax.
    pub fn has_margins(&self) -> bool {
        self.margins.iter().any(|&m| m != 0.0)
    }
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
/// Plain f64: what a kernel is tested against, never what trains.
pub fn reference(criterion: &Criterion, logits: &[f64], targets: &Targets) -> (f64, Vec<f64>) {
    let classes = criterion.offsets.len();
    let mut loss = 0.0;
    let mut gradient = vec![0.0; logits.len()];
    for (s, (z, row)) in logits.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes)).enumerate() {
        let a = (targets.label_a[s], targets.coef_a[s]);
        let b = (targets.label_b[s], targets.coef_b[s]);
        for (label, coef) in [a, b] {
            let (k, coef, gamma) = (label as usize, f64::from(coef), f64::from(criterion.gamma));
            let mut u: Vec<f64> = z.iter().zip(&criterion.offsets).map(|(z, &o)| z + f64::from(o)).collect();
            u[k] -= f64::from(criterion.margins[k]);
            let max = u.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_rest = u.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            let log_p = (u[k] - max) - log_rest;
            let rest = -log_p.exp_m1();
            loss -= coef * rest.powf(gamma) * log_p;
            // At p = 1 the limit: log p / (1 − p) → −1.
            let slope = if rest > 0.0 { log_p / rest } else { -1.0 };
            let h = rest.powf(gamma) * (1.0 - gamma * log_p.exp() * slope);
            for (c, (g, u)) in row.iter_mut().zip(&u).enumerate() {
                let hit = if c == k { 1.0 } else { 0.0 };
                *g += coef * h * ((u - max - log_rest).exp() - hit);
            }
        }
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
    const COUNTS: [usize; 3] = [100, 20, 5];

    fn all() -> [Loss; 6] {
        let (focal, adjusted) = (Loss::Focal { gamma: 0.5 }, Loss::LogitAdjustment { la_tau: 1.5 });
        [Loss::Ce, Loss::FOCAL, focal, Loss::BalancedSoftmax, adjusted, Loss::LDAM]
    }

    #[test]
    fn value_by_hand() {
        // Equal logits: every cross-entropy is ln 3.
        let t = Targets { label_a: &[2], label_b: &[0], coef_a: &[0.5], coef_b: &[0.25] };
        let (loss, gradient) = reference(&Criterion::cross_entropy(3), &[7.0; 3], &t);
        assert!((loss - 0.75 * 3f64.ln()).abs() < 1e-15);
        let expected = [0.25 - 0.25, 0.25, 0.25 - 0.5];
        assert!(gradient.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-15), "{gradient:?}");
        // p = 1/3 for each: focal loss has (2/3)² of it.
        let (focal, _) = reference(&Loss::FOCAL.criterion(&COUNTS), &[7.0; 3], &t);
        assert!((focal - loss * 4.0 / 9.0).abs() < 1e-7);
        // Balanced softmax then finds the classes as likely as they are frequent.
        let (balanced, _) = reference(&Loss::BalancedSoftmax.criterion(&COUNTS), &[7.0; 3], &t);
        assert!((balanced + 0.5 * (5f64 / 125.0).ln() + 0.25 * (100f64 / 125.0).ln()).abs() < 1e-7);
    }

    #[test]
    fn gradient_is_the_finite_difference() {
        for loss in all() {
            let criterion = loss.criterion(&COUNTS);
            let (_, gradient) = reference(&criterion, &LOGITS, &TARGETS);
            for (i, g) in gradient.iter().enumerate() {
                let at = |d: f64| {
                    let mut z = LOGITS;
                    z[i] += d;
                    reference(&criterion, &z, &TARGETS).0
                };
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((g - difference).abs() < 1e-8, "{loss:?} {i}: {g} {difference}");
            }
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let t = Targets { label_a: &[0], label_b: &[1], coef_a: &[1.0], coef_b: &[0.0] };
        let (loss, gradient) = reference(&Criterion::cross_entropy(3), &[-4000.0, 4000.0, 0.0], &t);
        assert_eq!(loss, 8000.0);
        assert_eq!(gradient, [-1.0, 1.0, 0.0]);
        let (right, flat) = reference(&Loss::FOCAL.criterion(&COUNTS), &[4000.0, 0.0, 0.0], &t);
        assert_eq!((right, flat), (0.0, vec![0.0; 3]), "what is certain has no focal loss");
    }

    #[test]
    fn special_cases_are_each_other() {
        let of = |loss: Loss| loss.criterion(&COUNTS);
        assert_eq!(of(Loss::BalancedSoftmax), of(Loss::LOGIT_ADJUSTMENT));
        for nothing in [Loss::Focal { gamma: 0.0 }, Loss::LogitAdjustment { la_tau: 0.0 }] {
            assert_eq!(of(nothing), Criterion::cross_entropy(3));
        }
        let ldam = of(Loss::LDAM);
        assert!(
            ldam.classifier == ClassifierKind::Cosine
                && ldam.has_margins()
                && !of(Loss::BalancedSoftmax).has_margins()
        );
        assert_eq!(ldam.margins[2], 15.0, "30 · 0.5 for the rarest");
        assert!((ldam.margins[0] - 15.0 * 0.05f32.powf(0.25)).abs() < 1e-5);
    }

    #[test]
    fn json_is_tagged_by_name() {
        let text = r#"{"name":"logit-adjustment","la_tau":1.0}"#;
        assert_eq!(serde_json::to_string(&Loss::LOGIT_ADJUSTMENT).expect("JSON"), text);
        for loss in all() {
            let text = serde_json::to_string(&loss).expect("JSON");
            assert_eq!(serde_json::from_str::<Loss>(&text).expect("a loss"), loss);
        }
        assert_eq!(serde_json::to_string(&Loss::Ce).expect("JSON"), r#"{"name":"ce"}"#);
    }
}
