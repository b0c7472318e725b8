//! Re-sampling and re-weighting, from the start (RS, RW) or deferred (DRS, DRW): class weights and class
//! probabilities.
//!
//! Weights follow the effective number of samples (Cui et al., arXiv 1901.05555), deferral follows Cao et
//! al., arXiv 1906.07413. The schedule decides when a deferred rule starts; the plan decides which images are
//! drawn.

use super::choice::{Choice, Domain, Entry, Kind, MethodOption, Setting};

/// A rule with the values of its options.
pub type Rule = Choice<RuleKind>;

/// A kind of rule: an entry of the table of methods.
#[derive(Debug)]
pub struct RuleKind {
    entry: Entry,
    by: By,
    /// Whether the rule starts at the last learning-rate milestone.
    pub deferred: bool,
}

/// The means by which a rule counteracts the imbalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Nothing,
    /// Classes are drawn with chosen probabilities.
    Sampling,
    /// The loss of a sample is scaled by its class's weight.
    Weights,
}

impl Kind for RuleKind {
    const PART: &'static str = "rule";
    const ALL: &'static [&'static RuleKind] = &[&NONE, &RS, &RW, &DRS, &DRW];

    fn entry(&'static self) -> &'static Entry {
        &self.entry
    }
}

const fn rule(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    by: By,
    deferred: bool,
) -> RuleKind {
    let source = if deferred { "Cao et al., arXiv 1906.07413" } else { "Cui et al., arXiv 1901.05555" };
    let (source, options): (_, &'static [MethodOption]) = match by {
        By::Nothing => ("", &[]),
        By::Sampling => (source, &[RS_BY, MethodOption { only_with: Some(("rs", "effective")), ..BETA_OF }]),
        By::Weights => (source, &[BETA_OF, RW_NORM]),
    };
    RuleKind { entry: Entry { name, title, about, source, options }, by, deferred }
}

/// The imbalance is left as it is.
pub static NONE: RuleKind = rule("none", "ERM", "Neither re-sampling nor re-weighting", By::Nothing, false);

/// Re-sampling: classes are drawn with chosen probabilities.
pub static RS: RuleKind = rule("rs", "RS", "Re-sampling", By::Sampling, false);

/// Re-weighting: the loss of a sample is scaled by its class's weight.
pub static RW: RuleKind = rule("rw", "RW", "Re-weighting", By::Weights, false);

/// Re-sampling from the last learning-rate milestone on.
pub static DRS: RuleKind = rule("drs", "DRS", "Deferred re-sampling", By::Sampling, true);

/// Re-weighting from the last learning-rate milestone on.
pub static DRW: RuleKind = rule("drw", "DRW", "Deferred re-weighting", By::Weights, true);

const BETA_OF: MethodOption = MethodOption::new(
    "beta",
    "Rules: β of the effective number of samples, (1−β^n)/(1−β)",
    Setting::Number(BETA),
    Domain::Number {
        symbol: "B",
        check: |beta| (0.0..1.0).contains(&beta),
        why: "must be at least 0 and below 1",
    },
);

const RS_BY: MethodOption = MethodOption::new(
    "rs",
    "rs, drs: the weights with which images are drawn",
    Setting::Word("effective"),
    Domain::OneOf(
        "WEIGHTS",
        &[
            ("effective", "One over the effective number of samples of the class"),
            ("inverse", "One over the number of images of the class, so all classes are equally frequent"),
        ],
    ),
);

const RW_NORM: MethodOption = MethodOption {
    more: "weight-sum divides by the sum of the class weights in the batch, as PyTorch's \
           CrossEntropyLoss(weight=…) does for class indices, and as implementations of Mixup do for each of \
           their two terms. batch-size divides by the number of samples, as the same function does for class \
           probabilities: batches with more images of rare classes then have larger losses, and the average \
           step is smaller (25 times on CIFAR-100 step at ratio 100), so the same --lr has a different effect.",
    ..MethodOption::new(
        "rw_norm",
        "rw, drw: the divisor of a batch's weighted loss",
        Setting::Word("weight-sum"),
        Domain::OneOf(
            "BY",
            &[
                (
                    "batch-size",
                    "The number of samples, as in PyTorch's cross-entropy with class probabilities",
                ),
                (
                    "weight-sum",
                    "The sum of the batch's class weights, as in PyTorch's cross-entropy with class indices",
                ),
            ],
        ),
    )
};

/// Class weights w_k for re-sampling; a class is drawn with probability ∝ n_k·w_k.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resample {
    /// w_k = (1−β)/(1−β^n_k).
    Effective {
        /// β of the effective number of samples.
        beta: f64,
    },
    /// w_k = 1/n_k: every class equally often.
    Inverse,
}

/// Class weights for the loss: w_k = (1−β)/(1−β^n_k), normalised to mean 1 over the classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reweight {
    /// β of the effective number of samples.
    pub beta: f64,
    /// Divisor of the weighted sum of a batch's losses.
    pub rw_norm: RwNorm,
}

/// Divisor of the weighted sum of a batch's losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RwNorm {
    /// The number of samples, so that a batch's loss grows with its weights. This is PyTorch's
    /// `CrossEntropyLoss(weight=…)` on class probabilities, or the plain mean of weighted losses.
    BatchSize,
    /// The sum of the weights in the loss, Σ λ_y·w_a + (1−λ_y)·w_b. This is PyTorch's
    /// `CrossEntropyLoss(weight=…)` on class indices, and Mixup's two terms of it. Remix's λ_y differs by
    /// sample, which that loss cannot express.
    WeightSum,
}

/// The β that the long-tailed literature uses on CIFAR.
const BETA: f64 = 0.9999;

impl Resample {
    /// Returns the probability of each class, summing to 1; `counts` are the classes' training images, all
    /// positive.
    pub fn probabilities(&self, counts: &[usize]) -> Vec<f64> {
        let mass: Vec<f64> = match *self {
            Resample::Effective { beta } => counts.iter().map(|&n| n as f64 * effective(beta, n)).collect(),
            Resample::Inverse => vec![1.0; counts.len()],
        };
        let sum: f64 = mass.iter().sum();
        mass.iter().map(|m| m / sum).collect()
    }
}

impl Reweight {
    /// Returns the weight of each class, with mean 1; `counts` are the classes' training images, all
    /// positive.
    pub fn weights(&self, counts: &[usize]) -> Vec<f64> {
        let raw: Vec<f64> = counts.iter().map(|&n| effective(self.beta, n)).collect();
        let mean = raw.iter().sum::<f64>() / raw.len() as f64;
        raw.iter().map(|w| w / mean).collect()
    }
}

impl Choice<RuleKind> {
    /// Returns the re-sampling, if the rule is RS or DRS.
    pub fn resample(&self) -> Option<Resample> {
        (self.kind.by == By::Sampling).then(|| match self.get("beta") {
            Some(beta) => Resample::Effective { beta },
            None => Resample::Inverse,
        })
    }

    /// Returns the re-weighting, if the rule is RW or DRW.
    pub fn reweight(&self) -> Option<Reweight> {
        (self.kind.by == By::Weights).then(|| Reweight {
            beta: self.value("beta"),
            rw_norm: match self.has_word("rw_norm", "batch-size") {
                true => RwNorm::BatchSize,
                false => RwNorm::WeightSum,
            },
        })
    }
}

/// Returns (1−β)/(1−β^n), the inverse of the effective number of n samples.
fn effective(beta: f64, n: usize) -> f64 {
    (1.0 - beta) / (1.0 - beta.powf(n as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_beta() {
        let counts = [4000, 100, 20];
        let flat = Reweight { beta: 0.0, rw_norm: RwNorm::WeightSum }.weights(&counts);
        assert_eq!(flat, [1.0; 3], "β = 0: no re-weighting");
        let p = Resample::Effective { beta: 1.0 - 1e-9 }.probabilities(&counts);
        assert!(p.iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-5), "β → 1: every class equally: {p:?}");
        assert_eq!(Resample::Inverse.probabilities(&counts), [1.0 / 3.0; 3]);
        let natural = Resample::Effective { beta: 0.0 }.probabilities(&counts);
        assert!((natural[0] - 4000.0 / 4120.0).abs() < 1e-15, "β = 0: as in the data");
    }

    #[test]
    fn json_is_flat_and_omits_unused_options() {
        let text = |r: Rule| serde_json::to_string(&r).expect("JSON");
        let all = [
            (Rule::new(&NONE), r#"{"name":"none"}"#),
            (Rule::new(&RS), r#"{"name":"rs","rs":"effective","beta":0.9999}"#),
            (Rule::new(&DRS).with_word("rs", "inverse"), r#"{"name":"drs","rs":"inverse"}"#),
            (Rule::new(&RW), r#"{"name":"rw","beta":0.9999,"rw_norm":"weight-sum"}"#),
        ];
        for (rule, json) in all {
            assert_eq!(text(rule), json);
            assert_eq!(serde_json::from_str::<Rule>(json).expect("a rule"), rule);
        }
    }
}
