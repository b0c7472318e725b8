//! CMO, *context-rich minority oversampling*: CutMix whose patches come from all classes equally often, so
//! that rare classes are seen in the context of frequent ones.

use super::patch::anywhere;
use super::{ALPHA, Blend, LAMBDA_PER, Labels, MixKind, Partner};
use crate::methods::choice::{Domain, Entry, MethodOption, Setting};

/// CMO with the probability from its code. Unlike the code, it also mixes in the first four and the last three
/// epochs.
pub static CMO: MixKind = MixKind {
    entry: Entry {
        name: "cmo",
        title: "CMO",
        about: "CutMix whose patches come from all classes equally often",
        source: "Park et al., arXiv 2112.00412",
        options: &[ALPHA, MIX_PROB, LAMBDA_PER],
    },
    blend: Blend::Patch(anywhere),
    labels: Labels::Shares,
    partner: Partner::OfAnyClass,
};

const MIX_PROB: MethodOption = MethodOption::new(
    "mix_prob",
    "cmo: the probability that a batch is mixed",
    Setting::Number(0.5),
    Domain::Number { symbol: "P", check: |p| (0.0..=1.0).contains(&p), why: "must be between 0 and 1" },
);
