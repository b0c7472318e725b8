//! Focal loss: samples that are already classified well count less.

use super::{ClassifierKind, LossKind, up_to};
use crate::methods::choice::{Domain, Entry, MethodOption, Setting};

/// *Focal loss*, in its form for a softmax: cross-entropy times (1 − p)^γ.
pub static FOCAL: LossKind = LossKind {
    entry: Entry {
        name: "focal",
        title: "Focal",
        about: "Cross-entropy with less weight on images that are already classified well",
        source: "Lin et al., arXiv 1708.02002",
        options: &[GAMMA],
    },
    classifier: ClassifierKind::Linear,
    on_features: false,
    criterion: |loss, _, criterion| criterion.gamma = loss.value("gamma") as f32,
};

const GAMMA: MethodOption = MethodOption::new(
    "gamma",
    "focal: γ of the factor (1 − p)^γ, by which the cross-entropy is multiplied",
    Setting::Number(2.0),
    Domain::Number {
        symbol: "G",
        check: |gamma| up_to(gamma, 100.0),
        why: "must be between 0 (cross-entropy) and 100",
    },
);
