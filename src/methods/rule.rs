//! Re-sampling and re-weighting, at once (RS, RW) or deferred (DRS, DRW): class weights and class
//! probabilities.
//!
//! Weights follow the effective number of samples (Cui et al., arXiv 1901.05555), deferral Cao et al., arXiv
//! 1906.07413. When a deferred rule starts is the schedule's business; which images are drawn, the plan's.

use serde::{Deserialize, Serialize};

/// How the class imbalance is answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Rule {
    /// Not at all.
    None,
    /// Re-sampling: classes are drawn with chosen probabilities.
    Rs(Draw),
    /// Re-weighting: the loss of a sample is scaled by its class's weight.
    Rw(Reweight),
    /// Re-sampling from the last learning-rate milestone on.
    Drs(Draw),
    /// Re-weighting from the last learning-rate milestone on.
    Drw(Reweight),
}

/// Class weights w_k for re-sampling; a class is drawn with probability ∝ n_k·w_k.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rs", rename_all = "lowercase")]
pub enum Draw {
    /// w_k = (1−β)/(1−β^n_k).
    Effective {
        /// β of the effective number of samples.
        beta: f64,
    },
    /// w_k = 1/n_k: every class equally often.
    Inverse,
}

/// Class weights for the loss: w_k = (1−β)/(1−β^n_k), normalised to mean 1 over the classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reweight {
    /// β of the effective number of samples.
    pub beta: f64,
    /// What the batch's weighted sum is divided by.
    pub rw_norm: RwNorm,
}

/// What the weighted sum of a batch's losses is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RwNorm {
    /// The number of samples, so a batch's loss grows with the weights in it: `CrossEntropyLoss(weight=…)` of
    /// PyTorch on class probabilities, or the plain mean of weighted losses.
    BatchSize,
    /// The sum of the weights in the loss, Σ λ_y·w_a + (1−λ_y)·w_b: `CrossEntropyLoss(weight=…)` of PyTorch
    /// on class indices, and Mixup's two terms of it. Remix's λ_y differs by sample, which that loss cannot
    /// express.
    #[default]
    WeightSum,
}

/// The β that the long-tailed literature uses on CIFAR.
pub const BETA: f64 = 0.9999;

impl Draw {
    /// The literature's: effective number of samples with [`BETA`].
    pub const EFFECTIVE: Draw = Draw::Effective { beta: BETA };

    /// The probability of each class, summing to 1; `counts` are the classes' training images, all positive.
    pub fn probabilities(&self, counts: &[usize]) -> Vec<f64> {
        let mass: Vec<f64> = match *self {
            Draw::Effective { beta } => counts.iter().map(|&n| n as f64 * effective(beta, n)).collect(),
            Draw::Inverse => vec![1.0; counts.len()],
        };
        let sum: f64 = mass.iter().sum();
        mass.iter().map(|m| m / sum).collect()
    }
}

impl Reweight {
    /// The literature's: [`BETA`], and the normalisation of PyTorch.
    pub const EFFECTIVE: Reweight = Reweight { beta: BETA, rw_norm: RwNorm::WeightSum };

    /// The weight of each class, mean 1; `counts` are the classes' training images, all positive.
    pub fn weights(&self, counts: &[usize]) -> Vec<f64> {
        let raw: Vec<f64> = counts.iter().map(|&n| effective(self.beta, n)).collect();
        let mean = raw.iter().sum::<f64>() / raw.len() as f64;
        raw.iter().map(|w| w / mean).collect()
    }
}

impl Rule {
    /// The re-sampling of RS and DRS.
    pub fn draw(&self) -> Option<&Draw> {
        match self {
            Rule::Rs(d) | Rule::Drs(d) => Some(d),
            _ => None,
        }
    }

    /// The re-weighting of RW and DRW.
    pub fn reweight(&self) -> Option<&Reweight> {
        match self {
            Rule::Rw(w) | Rule::Drw(w) => Some(w),
            _ => None,
        }
    }

    /// Whether the rule waits for the last learning-rate milestone.
    pub fn deferred(&self) -> bool {
        matches!(self, Rule::Drs(_) | Rule::Drw(_))
    }

    /// β, where the rule has one.
    pub fn beta(&self) -> Option<f64> {
        match *self {
            Rule::Rs(Draw::Effective { beta }) | Rule::Drs(Draw::Effective { beta }) => Some(beta),
            Rule::Rw(w) | Rule::Drw(w) => Some(w.beta),
            _ => None,
        }
    }
}

/// (1−β)/(1−β^n), one over the effective number of n samples.
fn effective(beta: f64, n: usize) -> f64 {
    (1.0 - beta) / (1.0 - beta.powf(n as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_ldam_code() {
        // numpy: e = 1 - 0.9999**n; w = (1 - 0.9999)/e; w/w.sum()*10, n of CIFAR-10 exp 100.
        let counts = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50];
        let w = Reweight::EFFECTIVE.weights(&counts);
        assert!((w.iter().sum::<f64>() - 10.0).abs() < 1e-12);
        assert!(w.windows(2).all(|w| w[0] < w[1]), "rarer classes weigh more");
        let plain: Vec<f64> = counts.iter().map(|&n| 1e-4 / (1.0 - 0.9999f64.powi(n as i32))).collect();
        for (a, b) in w.iter().zip(&plain) {
            assert!((a / w[0] - b / plain[0]).abs() < 1e-9 * a / w[0]);
        }
    }

    #[test]
    fn limits_of_beta() {
        let counts = [4000, 100, 20];
        let flat = Reweight { beta: 0.0, rw_norm: RwNorm::WeightSum }.weights(&counts);
        assert_eq!(flat, [1.0; 3], "β = 0: no re-weighting");
        let p = Draw::Effective { beta: 1.0 - 1e-9 }.probabilities(&counts);
        assert!(p.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-5), "β → 1: every class equally: {p:?}");
        assert_eq!(Draw::Inverse.probabilities(&counts), [1.0 / 3.0; 3]);
        let natural = Draw::Effective { beta: 0.0 }.probabilities(&counts);
        assert!((natural[0] - 4000.0 / 4120.0).abs() < 1e-15, "β = 0: as in the data");
    }

    #[test]
    fn json_is_flat_and_holds_only_what_counts() {
        let text = |r: Rule| serde_json::to_string(&r).expect("JSON");
        let all = [
            (Rule::None, r#"{"name":"none"}"#),
            (Rule::Rs(Draw::EFFECTIVE), r#"{"name":"rs","rs":"effective","beta":0.9999}"#),
            (Rule::Drs(Draw::Inverse), r#"{"name":"drs","rs":"inverse"}"#),
            (Rule::Rw(Reweight::EFFECTIVE), r#"{"name":"rw","beta":0.9999,"rw_norm":"weight-sum"}"#),
        ];
        for (rule, json) in all {
            assert_eq!(text(rule), json);
            assert_eq!(serde_json::from_str::<Rule>(json).expect("a rule"), rule);
        }
    }
}
