//! Mixup and Remix: two images are blended.

use super::{ALPHA, Blend, KAPPA, LAMBDA_PER, Labels, MixKind, Partner, TAU};
use crate::methods::choice::Entry;

/// *mixup*: labels are mixed with the λ of the images.
pub static MIXUP: MixKind = MixKind {
    entry: Entry {
        name: "mixup",
        title: "Mixup",
        about: "Images and labels are blended in the same proportion",
        source: "Zhang et al., arXiv 1710.09412",
        options: &[ALPHA, LAMBDA_PER],
    },
    blend: Blend::Images,
    labels: Labels::Shares,
    partner: Partner::OfBatch,
};

/// *Remix*: the label of the clearly rarer class wins where λ allows it.
pub static REMIX: MixKind = MixKind {
    entry: Entry {
        name: "remix",
        title: "Remix",
        about: "Mixup whose labels favour the rarer class of a pair",
        source: "Chou et al., arXiv 2007.03943",
        options: &[ALPHA, KAPPA, TAU, LAMBDA_PER],
    },
    blend: Blend::Images,
    labels: Labels::Remix,
    partner: Partner::OfBatch,
};
