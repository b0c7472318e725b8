//! Balanced softmax and logit adjustment: the classes' shares of the training images are added to the logits.

use super::{ClassifierKind, LossKind, of_each, up_to};
use crate::methods::choice::{Domain, Entry, MethodOption, Setting};

/// *Balanced softmax*: log n_c is added to the logit of class c.
pub static BALANCED_SOFTMAX: LossKind = LossKind {
    entry: Entry {
        name: "balanced-softmax",
        title: "Balanced Softmax",
        about: "The log of the class counts is added to the logits",
        source: "Ren et al., arXiv 2007.10740",
        options: &[],
    },
    classifier: ClassifierKind::Linear,
    on_features: false,
    // The common divisor does not change the softmax, and keeps the numbers small.
    criterion: |_, counts, criterion| {
        let all = counts.iter().sum::<usize>() as f64;
        criterion.offsets = of_each(counts, |n| (n / all).ln());
    },
};

/// *Logit adjustment*: τ·log π_c is added, where π are the classes' shares of the data. τ = 1 is balanced
/// softmax.
pub static LOGIT_ADJUSTMENT: LossKind = LossKind {
    entry: Entry {
        name: "logit-adjustment",
        title: "Logit Adjustment",
        about: "--la-tau times the log of the class frequencies is added to the logits",
        source: "Menon et al., arXiv 2007.07314",
        options: &[LA_TAU],
    },
    classifier: ClassifierKind::Linear,
    on_features: false,
    criterion: |loss, counts, criterion| {
        let (tau, all) = (loss.value("la_tau"), counts.iter().sum::<usize>() as f64);
        criterion.offsets = of_each(counts, |n| tau * (n / all).ln());
    },
};

const LA_TAU: MethodOption = MethodOption::new(
    "la_tau",
    "logit-adjustment: τ, the factor of the log of the class frequencies",
    Setting::Number(1.0),
    Domain::Number {
        symbol: "T",
        check: |tau| up_to(tau, 100.0),
        why: "must be between 0 (cross-entropy) and 100",
    },
);
