//! Mixing of the images and labels of pairs: λ is the share of the first image, and λ_y that of its label.
//!
//! A mix defines what is blended (the images, a patch, hidden states), how the labels are mixed, and what the
//! partner is. A pair (i, j) becomes x = λ x_i + (1−λ) x_j with the loss λ_y ℓ(i) + (1−λ_y) ℓ(j). If a
//! [`Patch`] of x_j replaces that part of x_i, λ is the share of x_i that remains. The pixels themselves are
//! mixed by the loaders.
//!
//! **Where rounding happens.** λ is rounded to f32 once, when it is drawn, and this value is used from then
//! on: the pixels are mixed with it, Remix compares it (widened to f64, exactly) with τ, and λ_y equals it
//! wherever Remix does not intervene. So the label always matches the image, and τ = 0 is Mixup bit for bit.

mod cmo;
mod hidden;
mod images;
mod patch;

use rand::distr::Distribution;
use rand_chacha::ChaCha8Rng;
use rand_distr::Beta;

pub use self::cmo::CMO;
pub use self::hidden::{MANIFOLD_MIXUP, REMIX_MANIFOLD};
pub use self::images::{MIXUP, REMIX};
pub use self::patch::{CUTMIX, Patch, REMIX_CUTMIX};
use super::choice::{Choice, Domain, Entry, Kind, MethodOption, Setting};
use crate::rng;

/// A mix with the values of its options.
pub type Mix = Choice<MixKind>;

/// A kind of mix: an entry of the table of methods.
#[derive(Debug)]
pub struct MixKind {
    entry: Entry,
    /// What is blended.
    pub blend: Blend,
    /// How the labels are mixed.
    pub labels: Labels,
    /// How the partner is chosen.
    pub partner: Partner,
}

/// What is blended.
#[derive(Debug)]
pub enum Blend {
    /// Nothing.
    Nothing,
    /// The images.
    Images,
    /// A patch of the partner replaces that part of the image; the function draws it from λ and the height
    /// and width of the image.
    Patch(fn(f32, &mut ChaCha8Rng, [usize; 2]) -> Patch),
    /// The images, or the outputs of one of the first two stages of the network; which of these is drawn for
    /// each batch.
    Hidden,
}

/// How the labels are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// In the same shares as the images: λ_y = λ.
    Shares,
    /// By the rule of Remix, with the options κ and τ.
    Remix,
}

/// The image that an image is mixed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partner {
    /// An image of the same batch. The partners are a permutation of the batch, so an image may be its own
    /// partner.
    OfBatch,
    /// An image of the training split, drawn so that all classes are equally frequent.
    OfAnyClass,
}

impl Kind for MixKind {
    const PART: &'static str = "mix";
    const ALL: &'static [&'static MixKind] =
        &[&NONE, &MIXUP, &REMIX, &CUTMIX, &REMIX_CUTMIX, &MANIFOLD_MIXUP, &REMIX_MANIFOLD, &CMO];

    fn entry(&'static self) -> &'static Entry {
        &self.entry
    }
}

/// No mixing.
pub static NONE: MixKind = MixKind {
    entry: Entry { name: "none", title: "ERM", about: "No mixing", source: "", options: &[] },
    blend: Blend::Nothing,
    labels: Labels::Shares,
    partner: Partner::OfBatch,
};

const ALPHA: MethodOption = MethodOption::new(
    "alpha",
    "Mixes: λ, the share of the first image, is drawn from Beta(A, A); 1 is uniform",
    Setting::Number(1.0),
    Domain::Number {
        symbol: "A",
        check: |alpha| (1e-3..=1e3).contains(&alpha),
        why: "must be between 0.001 and 1000; 1 is uniform",
    },
);

const KAPPA: MethodOption = MethodOption::new(
    "kappa",
    "Remix: a class is rare compared with one that has at least K times as many images",
    Setting::Number(3.0),
    Domain::Number {
        symbol: "K",
        check: |kappa| kappa >= 1.0 && kappa.is_finite(),
        why: "must be at least 1 and finite",
    },
);

const TAU: MethodOption = MethodOption::new(
    "tau",
    "Remix: the rare class gets the whole label if the share of the other class in the image is below T",
    Setting::Number(0.5),
    Domain::Number {
        symbol: "T",
        check: |tau| (0.0..=1.0).contains(&tau),
        why: "must be between 0 (no Remix) and 1",
    },
);

const LAMBDA_PER: MethodOption = MethodOption::new(
    "lambda_per",
    "Mixes: draw λ (and the patch) once per batch or once per pair",
    Setting::Word("batch"),
    Domain::OneOf("PER", &[("batch", "One λ for all pairs of a batch"), ("sample", "One λ for each pair")]),
);

impl Choice<MixKind> {
    /// Returns whether nothing is mixed.
    pub fn is_none(&self) -> bool {
        matches!(self.kind.blend, Blend::Nothing)
    }

    /// Returns the number of mix points: the points of the network at which batches may be mixed, one of
    /// which is drawn for each batch. Mix point 0 is the images; mix points 1 and 2 are the outputs of the
    /// first and the second stage.
    pub fn mix_points(&self) -> usize {
        if matches!(self.kind.blend, Blend::Hidden) { 3 } else { 1 }
    }

    /// Draws λ and the patch for each of the `n` pairs of a batch of images of `size` (height, width).
    ///
    /// Each λ is in [0, 1]; for a patch it is exactly the share that the patch leaves. Without mixing,
    /// nothing is drawn from the stream and every λ is 1.
    pub fn draw(&self, rng: &mut ChaCha8Rng, n: usize, size: [usize; 2]) -> (Vec<f32>, Vec<Patch>) {
        let unmixed = || (vec![1.0; n], vec![Patch::default(); n]);
        if self.is_none() {
            return unmixed();
        }
        if let Some(prob) = self.get("mix_prob")
            && rng::uniform(rng) >= prob
        {
            return unmixed();
        }
        let alpha = self.value("alpha");
        // Beta(1, 1) is uniform: one word per draw, on any device, and 1−λ is exact.
        let beta = (alpha != 1.0).then(|| Beta::new(alpha, alpha).expect("a validated config has alpha > 0"));
        let mut draw = || {
            let lambda = match &beta {
                Some(beta) => beta.sample(rng) as f32,
                None => rng::uniform_f32(rng),
            };
            let Blend::Patch(patch) = self.kind.blend else { return (lambda, Patch::default()) };
            let patch = patch(lambda, rng, size);
            let share = 1.0 - patch.area() as f64 / size.iter().product::<usize>() as f64;
            (share as f32, patch)
        };
        if self.has_word("lambda_per", "batch") {
            let (lambda, patch) = draw();
            return (vec![lambda; n], vec![patch; n]);
        }
        (0..n).map(|_| draw()).unzip()
    }

    /// Returns λ_y for a pair whose classes have `n_i` and `n_j` training images (Remix paper, equation 4):
    ///
    /// ```text
    /// λ_y = 0   if n_i ≥ κ n_j  and  λ < τ        (j is rare, and more than 1−τ of the picture)
    ///       1   if κ n_i ≤ n_j  and  1−λ < τ      (i is rare, and more than 1−τ of the picture)
    ///       λ   otherwise
    /// ```
    ///
    /// Both conditions hold at once only if κ = 1, n_i = n_j and τ > ½; then the first one applies.
    pub fn lambda_y(&self, lambda: f32, n_i: usize, n_j: usize) -> f32 {
        if self.kind.labels == Labels::Shares {
            return lambda;
        }
        let (kappa, tau) = (self.value("kappa"), self.value("tau"));
        let (n_i, n_j, l) = (n_i as f64, n_j as f64, f64::from(lambda));
        if n_i >= kappa * n_j && l < tau {
            0.0
        } else if kappa * n_i <= n_j && 1.0 - l < tau {
            1.0
        } else {
            lambda
        }
    }
}

#[cfg(test)]
mod tests;
