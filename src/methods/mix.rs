//! Mixup, CutMix, Manifold Mixup and Remix on each: the mixing coefficient λ of a pair, and the coefficient
//! λ_y of its labels.
//!
//! A pair (i, j) becomes x = λ x_i + (1−λ) x_j with the loss λ_y ℓ(i) + (1−λ_y) ℓ(j); under CutMix x is x_i
//! with a [`Patch`] of x_j, and λ the share that is left of x_i; under Manifold Mixup x are the images or
//! what a stage of the network makes of them. Who is paired with whom, and the pixels, are not decided here.
//!
//! **Where rounding happens.** λ is rounded to f32 once, where it is drawn, and from there on is *the* λ: the
//! pixels are mixed with it, the case analysis of Remix compares it (widened to f64, exactly) with τ, and λ_y
//! is it wherever Remix does not intervene. So the analysis never disagrees with the picture, and τ = 0 is
//! Mixup bit for bit.

use rand::distr::Distribution;
use rand_chacha::ChaCha8Rng;
use rand_distr::Beta;
use serde::{Deserialize, Serialize};

use crate::rng;

/// How images and labels of a batch are mixed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Mix {
    /// Not at all.
    None,
    /// *mixup* (Zhang et al., arXiv 1710.09412): the labels with the λ of the images.
    Mixup {
        /// λ ~ Beta(α, α); 1 is uniform.
        alpha: f64,
        /// How often λ is drawn.
        lambda_per: LambdaPer,
    },
    /// *Remix* (Chou et al., arXiv 2007.03943): the label of the clearly rarer class wins where λ allows it.
    Remix {
        /// λ ~ Beta(α, α); 1 is uniform.
        alpha: f64,
        /// κ: a class is the rarer one if the other has at least κ times its images.
        kappa: f64,
        /// τ: the rarer class takes the whole label if the other one's share of the image is below τ.
        tau: f64,
        /// How often λ is drawn.
        lambda_per: LambdaPer,
    },
    /// *CutMix* (Yun et al., arXiv 1905.04899): a rectangle of the partner's image in one's own, the labels
    /// by the areas.
    #[serde(rename = "cutmix")]
    CutMix {
        /// λ ~ Beta(α, α), from which the rectangle's sides are made; 1 is uniform.
        alpha: f64,
        /// How often λ and the rectangle are drawn.
        lambda_per: LambdaPer,
    },
    /// *Manifold Mixup* (Verma et al., arXiv 1806.05236): images, or what leaves one of the first two stages,
    /// mixed as in Mixup.
    ManifoldMixup {
        /// λ ~ Beta(α, α); 1 is uniform.
        alpha: f64,
        /// How often λ is drawn; the place is drawn once a batch.
        lambda_per: LambdaPer,
    },
    /// Remix on Manifold Mixup: its mixing, with the labels of Remix.
    RemixManifold {
        /// As of Manifold Mixup.
        alpha: f64,
        /// As of Remix.
        kappa: f64,
        /// As of Remix.
        tau: f64,
        /// As of Manifold Mixup.
        lambda_per: LambdaPer,
    },
    /// Remix on CutMix: its pictures, with the labels of Remix.
    #[serde(rename = "remix-cutmix")]
    RemixCutMix {
        /// As of CutMix.
        alpha: f64,
        /// As of Remix.
        kappa: f64,
        /// As of Remix.
        tau: f64,
        /// As of CutMix.
        lambda_per: LambdaPer,
    },
}

/// A rectangle of a sample that shows its partner, in pixels. Empty where images are blended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// First row.
    pub top: u32,
    /// Row behind the last.
    pub bottom: u32,
    /// First column.
    pub left: u32,
    /// Column behind the last.
    pub right: u32,
}

impl Patch {
    /// CutMix's for a drawn λ: sides of √(1−λ) of the image's around a centre that may be anywhere, clipped
    /// at the image's edges. The roundings are those of the paper's code: sides and their halves down.
    pub(crate) fn around(lambda: f32, [row, col]: [usize; 2], [height, width]: [usize; 2]) -> Patch {
        let side = (1.0 - f64::from(lambda)).sqrt();
        let span = |len: usize, centre: usize| {
            let half = (len as f64 * side) as usize / 2;
            (centre.saturating_sub(half) as u32, (centre + half).min(len) as u32)
        };
        let ((top, bottom), (left, right)) = (span(height, row), span(width, col));
        Patch { top, bottom, left, right }
    }

    /// Pixels in it.
    pub fn area(&self) -> usize {
        (self.bottom - self.top) as usize * (self.right - self.left) as usize
    }

    /// Whether a pixel is in it.
    pub fn contains(&self, row: usize, col: usize) -> bool {
        let within = |at: usize, from: u32, to: u32| (from as usize..to as usize).contains(&at);
        within(row, self.top, self.bottom) && within(col, self.left, self.right)
    }
}

/// How often λ is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LambdaPer {
    /// Once a batch, as in the papers' code.
    #[default]
    Batch,
    /// Once a pair.
    Sample,
}

impl Mix {
    /// Mixup as in the Remix paper: α = 1.
    pub const MIXUP: Mix = Mix::Mixup { alpha: 1.0, lambda_per: LambdaPer::Batch };

    /// Remix as in its paper: α = 1, κ = 3, τ = 0.5.
    pub const REMIX: Mix = Mix::Remix { alpha: 1.0, kappa: 3.0, tau: 0.5, lambda_per: LambdaPer::Batch };

    /// CutMix as in the Remix paper: α = 1.
    pub const CUTMIX: Mix = Mix::CutMix { alpha: 1.0, lambda_per: LambdaPer::Batch };

    /// Remix on CutMix, with the options of both.
    pub const REMIX_CUTMIX: Mix =
        Mix::RemixCutMix { alpha: 1.0, kappa: 3.0, tau: 0.5, lambda_per: LambdaPer::Batch };

    /// Manifold Mixup with the options of Mixup in the Remix paper: α = 1.
    pub const MANIFOLD_MIXUP: Mix = Mix::ManifoldMixup { alpha: 1.0, lambda_per: LambdaPer::Batch };

    /// Remix on Manifold Mixup, with the options of both.
    pub const REMIX_MANIFOLD: Mix =
        Mix::RemixManifold { alpha: 1.0, kappa: 3.0, tau: 0.5, lambda_per: LambdaPer::Batch };

    /// Where batches may be mixed, one of these numbers at random: 0 are the images, 1 and 2 what leaves
    /// these stages of the network.
    pub fn places(&self) -> usize {
        match self {
            Mix::ManifoldMixup { .. } | Mix::RemixManifold { .. } => 3,
            _ => 1,
        }
    }

    /// α, where images are mixed.
    pub fn alpha(&self) -> Option<f64> {
        match *self {
            Mix::None => None,
            Mix::Mixup { alpha, .. }
            | Mix::Remix { alpha, .. }
            | Mix::CutMix { alpha, .. }
            | Mix::ManifoldMixup { alpha, .. }
            | Mix::RemixManifold { alpha, .. }
            | Mix::RemixCutMix { alpha, .. } => Some(alpha),
        }
    }

    /// κ and τ of Remix.
    pub fn kappa_tau(&self) -> Option<(f64, f64)> {
        match *self {
            Mix::Remix { kappa, tau, .. }
            | Mix::RemixCutMix { kappa, tau, .. }
            | Mix::RemixManifold { kappa, tau, .. } => Some((kappa, tau)),
            _ => None,
        }
    }

    /// Draws λ and the patch of the `n` pairs of a batch of images of `size` (height, width): each λ in [0,
    /// 1], under CutMix the very share that the patch leaves. `None` takes nothing from the stream and gives
    /// 1.
    pub fn draw(&self, rng: &mut ChaCha8Rng, n: usize, size: [usize; 2]) -> (Vec<f32>, Vec<Patch>) {
        let (cuts, alpha, per) = match *self {
            Mix::None => return (vec![1.0; n], vec![Patch::default(); n]),
            Mix::Mixup { alpha, lambda_per }
            | Mix::Remix { alpha, lambda_per, .. }
            | Mix::ManifoldMixup { alpha, lambda_per }
            | Mix::RemixManifold { alpha, lambda_per, .. } => (false, alpha, lambda_per),
            Mix::CutMix { alpha, lambda_per } | Mix::RemixCutMix { alpha, lambda_per, .. } => {
                (true, alpha, lambda_per)
            }
        };
        // Beta(1, 1) is uniform: one word a draw, on any device, and 1−λ is exact.
        let beta = (alpha != 1.0).then(|| Beta::new(alpha, alpha).expect("a validated config has alpha > 0"));
        let mut draw = || {
            let lambda = match &beta {
                Some(beta) => beta.sample(rng) as f32,
                None => rng::uniform_f32(rng),
            };
            if !cuts {
                return (lambda, Patch::default());
            }
            let patch = Patch::around(lambda, size.map(|len| rng::below(rng, len)), size);
            let share = 1.0 - patch.area() as f64 / size.iter().product::<usize>() as f64;
            (share as f32, patch)
        };
        match per {
            LambdaPer::Batch => {
                let (lambda, patch) = draw();
                (vec![lambda; n], vec![patch; n])
            }
            LambdaPer::Sample => (0..n).map(|_| draw()).unzip(),
        }
    }

    /// λ_y of a pair whose classes have `n_i` and `n_j` training images (Remix paper, equation 4):
    ///
    /// ```text
    /// λ_y = 0   if n_i ≥ κ n_j  and  λ < τ        (j is rare, and more than 1−τ of the picture)
    ///       1   if κ n_i ≤ n_j  and  1−λ < τ      (i is rare, and more than 1−τ of the picture)
    ///       λ   otherwise
    /// ```
    ///
    /// Both conditions at once need κ = 1, n_i = n_j and τ > ½; then the first one holds.
    pub fn lambda_y(&self, lambda: f32, n_i: usize, n_j: usize) -> f32 {
        let Some((kappa, tau)) = self.kappa_tau() else {
            return lambda;
        };
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
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    fn remix(kappa: f64, tau: f64) -> Mix {
        Mix::Remix { alpha: 1.0, kappa, tau, lambda_per: LambdaPer::Batch }
    }

    /// The paper's cases written out one after the other, in the order of the text.
    fn transcription(lambda: f64, n_i: f64, n_j: f64, kappa: f64, tau: f64) -> f64 {
        let mut lambda_y = lambda;
        let mut decided = false;
        if n_i / n_j >= kappa && lambda < tau {
            lambda_y = 0.0;
            decided = true;
        }
        if !decided && n_i / n_j <= 1.0 / kappa && 1.0 - lambda < tau {
            lambda_y = 1.0;
        }
        lambda_y
    }

    #[test]
    fn lambda_y_is_the_papers_rule_on_every_boundary() {
        // Powers of two, so that the transcription's quotients are exact and equality is met exactly.
        let counts = [1, 2, 4, 8, 64, 512, 4096, 4097, 4095];
        let lambdas =
            [0.0f32, 1e-30, 0.125, 0.25, 0.25f32.next_down(), 0.25f32.next_up(), 0.5, 0.5f32.next_down()]
                .into_iter()
                .chain([
                    0.5f32.next_up(),
                    0.75,
                    0.75f32.next_up(),
                    0.75f32.next_down(),
                    1.0f32.next_down(),
                    1.0,
                ]);
        let mut seen = [0u32; 3];
        for lambda in lambdas {
            for (n_i, n_j) in counts.iter().flat_map(|&i| counts.iter().map(move |&j| (i, j))) {
                for kappa in [1.0, 2.0, 4.0, 8.0] {
                    for tau in [0.0, 0.25, 0.5, 0.75, 1.0] {
                        let got = remix(kappa, tau).lambda_y(lambda, n_i, n_j);
                        let want = transcription(f64::from(lambda), n_i as f64, n_j as f64, kappa, tau);
                        assert_eq!(f64::from(got), want, "λ {lambda} n {n_i} {n_j} κ {kappa} τ {tau}");
                        seen[if got == lambda { 2 } else { got as usize }] += 1;
                    }
                }
            }
        }
        assert!(seen.iter().all(|&n| n > 500), "every case is met: {seen:?}");
    }

    #[test]
    fn swapping_the_pair_swaps_the_labels() {
        let m = remix(3.0, 0.5);
        for step in 0..2000u16 {
            let lambda = f32::from(step) / 2048.0;
            for (n_i, n_j) in [(5000, 50), (300, 100), (100, 300), (299, 100), (100, 100)] {
                let there = m.lambda_y(lambda, n_i, n_j);
                let back = m.lambda_y(1.0 - lambda, n_j, n_i);
                assert_eq!(there, 1.0 - back, "λ {lambda} n {n_i} {n_j}");
            }
        }
    }

    #[test]
    fn uniform_lambda_has_the_moments_of_its_beta() {
        for (alpha, variance) in
            [(1.0, 1.0 / 12.0), (0.2, 1.0 / (4.0 * 1.4)), (4.0, 1.0 / 36.0), (0.001, 0.2495)]
        {
            let m = Mix::Mixup { alpha, lambda_per: LambdaPer::Sample };
            let draws = m.draw(&mut stream(1, Purpose::Lambda, 1, 0), 20_000, [32, 32]).0;
            assert!(draws.iter().all(|l| (0.0..=1.0).contains(l)), "α {alpha}");
            let mean = draws.iter().map(|&l| f64::from(l)).sum::<f64>() / 20_000.0;
            let var = draws.iter().map(|&l| (f64::from(l) - 0.5).powi(2)).sum::<f64>() / 20_000.0;
            // Five standard errors of the mean; the variance's relative error is below 1.5 %.
            assert!((mean - 0.5).abs() < 5.0 * (variance / 20_000.0f64).sqrt(), "α {alpha}: mean {mean}");
            assert!((var / variance - 1.0).abs() < 0.05, "α {alpha}: variance {var}, {variance} expected");
        }
    }

    #[test]
    fn lambda_per_batch_is_one_draw_and_the_first_of_per_sample() {
        let rng = || stream(9, Purpose::Lambda, 2, 3);
        let one = Mix::MIXUP.draw(&mut rng(), 8, [32, 32]).0;
        let each = Mix::Mixup { alpha: 1.0, lambda_per: LambdaPer::Sample };
        let (each, _) = each.draw(&mut rng(), 8, [32, 32]);
        assert!(one.iter().all(|l| *l == one[0]));
        assert_eq!(one[0], each[0]);
        assert!(each.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn draws_are_pinned() {
        // A change here changes every mixed result: raise the semantics number of `train`.
        let draw = |alpha| {
            let m = Mix::Mixup { alpha, lambda_per: LambdaPer::Sample };
            m.draw(&mut stream(0, Purpose::Lambda, 1, 0), 3, [32, 32]).0
        };
        assert_eq!(draw(1.0), [0.38086307, 0.70061684, 0.9315945]);
        assert_eq!(draw(0.2), [5.2100194e-7, 0.7582576, 0.4805201]);
    }

    #[test]
    fn patches_are_those_of_the_papers_code() {
        // rand_bbox of clovaai/CutMix-PyTorch by hand: 32·√(1−λ) down, its half down, clipped.
        let patch = |lambda, row, col| Patch::around(lambda, [row, col], [32, 32]);
        let expected = |top, bottom, left, right| Patch { top, bottom, left, right };
        assert_eq!(patch(0.75, 16, 16), expected(8, 24, 8, 24));
        assert_eq!(patch(0.75, 3, 30), expected(0, 11, 22, 32));
        assert_eq!(patch(0.5, 0, 31), expected(0, 11, 20, 32), "32·0.707 = 22.6: 22, 11");
        assert_eq!(patch(1.0, 5, 5).area(), 0);
        assert_eq!(patch(0.0, 16, 16), expected(0, 32, 0, 32));
        assert_eq!(Patch::around(0.75, [2, 5], [4, 12]), expected(1, 3, 2, 8), "images need not be square");
    }

    #[test]
    fn lambda_is_the_share_that_a_patch_leaves() {
        let m = Mix::CutMix { alpha: 1.0, lambda_per: LambdaPer::Sample };
        let (lambdas, patches) = m.draw(&mut stream(1, Purpose::Lambda, 1, 0), 20_000, [16, 32]);
        let mut clipped = 0;
        for (&lambda, patch) in lambdas.iter().zip(&patches) {
            let inside = (0..16).flat_map(|r| (0..32).map(move |c| (r, c)));
            let inside = inside.filter(|&(r, c)| patch.contains(r, c)).count();
            assert_eq!((lambda, patch.area()), (1.0 - inside as f32 / 512.0, inside));
            clipped += usize::from(patch.top == 0 || patch.right == 32);
        }
        assert!(clipped > 5_000, "centres are anywhere: {clipped}");
        // Of the centre's rows and columns each is as likely: the patch is as often above as below.
        let above = patches.iter().filter(|p| p.top + p.bottom < 16).count();
        assert!(above.abs_diff(10_000) < 1_500, "{above}");
        let (one, all) = Mix::CUTMIX.draw(&mut stream(1, Purpose::Lambda, 1, 0), 8, [16, 32]);
        assert!(one.iter().all(|&l| l == lambdas[0]) && all.iter().all(|&p| p == patches[0]));
    }

    #[test]
    fn remix_on_cutmix_has_the_patches_of_cutmix_and_the_labels_of_remix() {
        let rng = || stream(4, Purpose::Lambda, 1, 0);
        assert_eq!(
            Mix::CUTMIX.draw(&mut rng(), 5, [32, 32]),
            Mix::REMIX_CUTMIX.draw(&mut rng(), 5, [32, 32])
        );
        for step in 0..=64u8 {
            let lambda = f32::from(step) / 64.0;
            for (n_i, n_j) in [(5000, 50), (50, 5000), (100, 90)] {
                assert_eq!(
                    Mix::REMIX_CUTMIX.lambda_y(lambda, n_i, n_j),
                    Mix::REMIX.lambda_y(lambda, n_i, n_j)
                );
                assert_eq!(Mix::CUTMIX.lambda_y(lambda, n_i, n_j), lambda);
            }
        }
    }

    #[test]
    fn json_is_tagged_by_name() {
        let text = r#"{"name":"remix","alpha":1.0,"kappa":3.0,"tau":0.5,"lambda_per":"batch"}"#;
        assert_eq!(serde_json::to_string(&Mix::REMIX).expect("JSON"), text);
        assert_eq!(serde_json::from_str::<Mix>(text).expect("a mix"), Mix::REMIX);
        assert_eq!(serde_json::to_string(&Mix::None).expect("JSON"), r#"{"name":"none"}"#);
        let text = r#"{"name":"cutmix","alpha":1.0,"lambda_per":"batch"}"#;
        assert_eq!(serde_json::to_string(&Mix::CUTMIX).expect("JSON"), text);
        assert!(serde_json::to_string(&Mix::REMIX_CUTMIX).expect("JSON").contains("\"remix-cutmix\""));
    }
}
