//! Label-aware smoothing: labels of frequent classes are smoothed more.

use std::f64::consts::FRAC_PI_2;

use super::{ClassifierKind, LossKind, of_each};
use crate::methods::choice::{Domain, Entry, MethodOption, Setting};

/// *Label-aware smoothing*, with the ε of MiSLAS for ImageNet-LT. A share ε_k of the label k is spread over
/// all classes, as in the code of MiSLAS; its paper spreads it over the other classes only.
pub static LAS: LossKind = LossKind {
    entry: Entry {
        name: "las",
        title: "LAS",
        about: "Labels of frequent classes are smoothed more (only with --classifier)",
        source: "Zhong et al., arXiv 2104.00466",
        options: &[SMOOTH_HEAD, SMOOTH_TAIL],
    },
    classifier: ClassifierKind::Linear,
    on_features: true,
    criterion: |loss, counts, criterion| {
        let (head, tail) = (loss.value("smooth_head"), loss.value("smooth_tail"));
        let [least, most] = [counts.iter().min(), counts.iter().max()].map(|n| n.map_or(0.0, |n| *n as f64));
        let share = |n: f64| if most > least { (n - least) / (most - least) } else { 0.0 };
        criterion.smoothing = of_each(counts, |n| tail + (head - tail) * (FRAC_PI_2 * share(n)).sin());
    },
};

const SMOOTH_HEAD: MethodOption = MethodOption::new(
    "smooth_head",
    "las: label smoothing of the largest class, as the share of the label that is spread over all classes",
    Setting::Number(0.3),
    SHARE,
);

const SMOOTH_TAIL: MethodOption = MethodOption::new(
    "smooth_tail",
    "las: label smoothing of the smallest class, as the share of the label that is spread over all classes",
    Setting::Number(0.0),
    SHARE,
);

const SHARE: Domain =
    Domain::Number { symbol: "E", check: |e| (0.0..1.0).contains(&e), why: "must be at least 0 and below 1" };
