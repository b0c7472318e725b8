//! Vector scaling (VS) and class-dependent temperatures (CDT): during training, logits of rare classes are
//! multiplied by smaller factors, so that the network has to make them larger.

use super::{ClassifierKind, Criterion, LossKind, of_each, up_to};
use crate::methods::choice::{Domain, Entry, MethodOption, Setting};

/// *Vector scaling*: logits times (n_c / n_max)^γ, plus τ·log π_c, with its authors' values for CIFAR-10.
pub static VS: LossKind = LossKind {
    entry: Entry {
        name: "vs",
        title: "VS",
        about: "Logits times a power of the class counts, plus the log of the class frequencies",
        source: "Kini et al., arXiv 2103.01550",
        options: &[VS_GAMMA, VS_TAU],
    },
    classifier: ClassifierKind::Linear,
    on_features: false,
    criterion: |loss, counts, criterion| {
        scale(counts, loss.value("vs_gamma"), criterion);
        let (tau, all) = (loss.value("vs_tau"), counts.iter().sum::<usize>() as f64);
        criterion.offsets = of_each(counts, |n| tau * (n / all).ln());
    },
};

/// *Class-dependent temperatures*: logits times (n_c / n_max)^γ. The default γ is ours.
pub static CDT: LossKind = LossKind {
    entry: Entry {
        name: "cdt",
        title: "CDT",
        about: "Logits times a power of the class counts",
        source: "Ye et al., arXiv 2001.01385",
        options: &[CDT_GAMMA],
    },
    classifier: ClassifierKind::Linear,
    on_features: false,
    criterion: |loss, counts, criterion| scale(counts, loss.value("cdt_gamma"), criterion),
};

fn scale(counts: &[usize], gamma: f64, criterion: &mut Criterion) {
    let most = counts.iter().copied().max().unwrap_or(1) as f64;
    criterion.scales = of_each(counts, |n| (n / most).powf(gamma));
}

const VS_GAMMA: MethodOption = MethodOption::new(
    "vs_gamma",
    "vs: γ of the factor (n_c / n_max)^γ, by which the logits are multiplied",
    Setting::Number(0.15),
    EXPONENT,
);

const VS_TAU: MethodOption = MethodOption::new(
    "vs_tau",
    "vs: τ, the factor of the log of the class frequencies",
    Setting::Number(1.25),
    Domain::Number { symbol: "T", check: |tau| up_to(tau, 100.0), why: "must be between 0 and 100" },
);

const CDT_GAMMA: MethodOption = MethodOption::new(
    "cdt_gamma",
    "cdt: γ of the factor (n_c / n_max)^γ, by which the logits are multiplied",
    Setting::Number(0.2),
    EXPONENT,
);

const EXPONENT: Domain =
    Domain::Number { symbol: "G", check: |gamma| up_to(gamma, 10.0), why: "must be between 0 and 10" };
