//! Focal loss: samples that are already classified well count less.

use super::{ClassifierKind, LossKind, up_to};
use crate::methods::choice::{Domain, Entry, Opt};

/// *Focal loss*, in its form for a softmax: cross-entropy times (1 − p)^γ.
pub static FOCAL: LossKind = LossKind {
    entry: Entry {
        name: "focal",
        title: "Focal",
        about: "What is classified well counts less",
        source: "Lin et al., arXiv 1708.02002",
        options: &[GAMMA],
    },
    classifier: ClassifierKind::Linear,
    on_features: false,
    criterion: |loss, _, criterion| criterion.gamma = loss.value("gamma") as f32,
};

const GAMMA: Opt = Opt::new(
    "gamma",
    "focal: γ, where the cross-entropy is multiplied by (1 − p)^γ",
    2.0,
    Domain::Number {
        symbol: "G",
        check: |gamma| up_to(gamma, 100.0),
        why: "must be between 0 (cross-entropy) and 100",
    },
);
