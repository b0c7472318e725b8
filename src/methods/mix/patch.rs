//! CutMix, also with the labels of Remix: a rectangle of one image is pasted into another.

use rand_chacha::ChaCha8Rng;

use super::{ALPHA, Blend, KAPPA, LAMBDA_PER, Labels, MixKind, Partner, TAU};
use crate::methods::choice::Entry;
use crate::rng;

/// *CutMix*: labels are mixed according to the areas.
pub static CUTMIX: MixKind = MixKind {
    entry: Entry {
        name: "cutmix",
        title: "CutMix",
        about: "A rectangle of one image is pasted into another, and labels are mixed by area",
        source: "Yun et al., arXiv 1905.04899",
        options: &[ALPHA, LAMBDA_PER],
    },
    blend: Blend::Patch(anywhere),
    labels: Labels::Shares,
    partner: Partner::OfBatch,
};

/// Remix on CutMix.
pub static REMIX_CUTMIX: MixKind = MixKind {
    entry: Entry {
        name: "remix-cutmix",
        title: "Remix-CutMix",
        about: "CutMix with the labels of Remix",
        source: "Chou et al., arXiv 2007.03943",
        options: &[ALPHA, KAPPA, TAU, LAMBDA_PER],
    },
    blend: Blend::Patch(anywhere),
    labels: Labels::Remix,
    partner: Partner::OfBatch,
};

/// Draws a patch as CutMix does: its centre may be anywhere.
pub(super) fn anywhere(lambda: f32, rng: &mut ChaCha8Rng, size: [usize; 2]) -> Patch {
    Patch::around(lambda, size.map(|len| rng::below(rng, len)), size)
}

/// A rectangle of a sample that shows its partner, in pixels; empty if images are blended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// First row.
    pub top: u32,
    /// Row after the last.
    pub bottom: u32,
    /// First column.
    pub left: u32,
    /// Column after the last.
    pub right: u32,
}

impl Patch {
    /// Returns CutMix's patch for a drawn λ and a given centre.
    ///
    /// Its sides are √(1−λ) of the image's, around the centre, clipped at the image's edges. Rounding is that
    /// of the paper's code: sides and half sides are rounded down.
    pub(crate) fn around(lambda: f32, [row, col]: [usize; 2], [height, width]: [usize; 2]) -> Patch {
        let side = (1.0 - f64::from(lambda)).sqrt();
        let span = |len: usize, centre: usize| {
            let half = (len as f64 * side) as usize / 2;
            (centre.saturating_sub(half) as u32, (centre + half).min(len) as u32)
        };
        let ((top, bottom), (left, right)) = (span(height, row), span(width, col));
        Patch { top, bottom, left, right }
    }

    /// Returns the number of pixels in the patch.
    pub fn area(&self) -> usize {
        (self.bottom - self.top) as usize * (self.right - self.left) as usize
    }

    /// Returns whether a pixel is in the patch.
    pub fn contains(&self, row: usize, col: usize) -> bool {
        let within = |at: usize, from: u32, to: u32| (from as usize..to as usize).contains(&at);
        within(row, self.top, self.bottom) && within(col, self.left, self.right)
    }
}
