//! Manifold Mixup, also with the labels of Remix: images, or the outputs of one of the first two stages, are
//! blended.

use super::{ALPHA, Blend, KAPPA, LAMBDA_PER, Labels, MixKind, Partner, TAU};
use crate::methods::choice::Entry;

/// *Manifold Mixup*, with the λ of Mixup in the Remix paper: α = 1.
pub static MANIFOLD_MIXUP: MixKind = MixKind {
    entry: Entry {
        name: "manifold-mixup",
        title: "Manifold Mixup",
        about: "Images, or the outputs of one of the first two stages, are blended as in Mixup",
        source: "Verma et al., arXiv 1806.05236",
        options: &[ALPHA, LAMBDA_PER],
    },
    blend: Blend::Hidden,
    labels: Labels::Shares,
    partner: Partner::OfBatch,
};

/// Remix on Manifold Mixup.
pub static REMIX_MANIFOLD: MixKind = MixKind {
    entry: Entry {
        name: "remix-manifold",
        title: "Remix-Manifold",
        about: "Manifold Mixup with the labels of Remix",
        source: "Chou et al., arXiv 2007.03943",
        options: &[ALPHA, KAPPA, TAU, LAMBDA_PER],
    },
    blend: Blend::Hidden,
    labels: Labels::Remix,
    partner: Partner::OfBatch,
};
