//! LDAM: margins that are larger for rarer classes.

use super::{ClassifierKind, LossKind, SCALE, of_each, up_to};
use crate::methods::choice::{Domain, Entry, MethodOption, Setting};

/// *LDAM*: a normalised classifier whose margins are ∝ n_k^(−1/4).
pub static LDAM: LossKind = LossKind {
    entry: Entry {
        name: "ldam",
        title: "LDAM",
        about: "A normalised classifier with larger margins for rarer classes",
        source: "Cao et al., arXiv 1906.07413",
        options: &[MARGIN],
    },
    classifier: ClassifierKind::Cosine,
    on_features: false,
    criterion: |loss, counts, criterion| {
        let margin = loss.value("margin");
        let rarest = counts.iter().copied().min().unwrap_or(1) as f64;
        criterion.margins = of_each(counts, |n| f64::from(SCALE) * margin * (rarest / n).powf(0.25));
    },
};

const MARGIN: MethodOption = MethodOption::new(
    "margin",
    "ldam: margin of the rarest class, which is subtracted from the cosine",
    Setting::Number(0.5),
    Domain::Number {
        symbol: "M",
        check: |margin| up_to(margin, 2.0),
        why: "must be between 0 and 2, the largest difference of two cosines",
    },
);
