//! The learning rate of each epoch: divided by ten at milestones, or falling along a cosine, after an
//! optional linear warm-up.
//!
//! Epochs count from 1, as papers and logs do; a milestone is the first epoch at the lower rate.

use serde::{Deserialize, Serialize};

/// Where the milestones of a training come from; `recipe` in manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The reproduction report's code; [`Milestones::REPORT`]. In manifests it is called `seed`.
    #[serde(rename = "seed")]
    Report,
    /// The Remix paper; [`Milestones::PAPER`].
    Paper,
    /// Any other milestones.
    Custom,
}

/// Milestones in a run of a given number of epochs; they scale with that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Milestones {
    /// The number of epochs.
    pub of: u32,
    /// The epochs at which the rate falls.
    pub at: &'static [u32],
}

/// The first epoch at which the milestone of a recipe lowers the rate. In a run so short that a milestone
/// would come earlier, the rate does not fall there.
const FIRST_MILESTONE: u32 = 3;

impl Milestones {
    /// Those of the reproduction report's code.
    pub const REPORT: Milestones = Milestones { of: 300, at: &[150, 225] };

    /// Those of the Remix paper.
    pub const PAPER: Milestones = Milestones { of: 300, at: &[150, 250] };

    /// No milestones, in a run of any length.
    pub const NONE: Milestones = Milestones { of: 1, at: &[] };

    /// Returns the epochs at which the rate falls in a run of `epochs` epochs. Milestone m of w becomes
    /// ⌊m·epochs/w + ½⌋, and is left out if that is before the third epoch.
    pub fn scaled_to(self, epochs: u32) -> Vec<u32> {
        self.scaled(epochs).into_iter().filter(|m| *m >= FIRST_MILESTONE).collect()
    }

    /// Returns the epoch from which a deferred rule holds, if there are milestones: the last scaled
    /// milestone, whether or not the rate falls there.
    pub fn deferred_from(self, epochs: u32) -> Option<u32> {
        self.scaled(epochs).last().copied()
    }

    /// Returns the scaled milestones, however early.
    fn scaled(self, epochs: u32) -> Vec<u32> {
        // ⌊(2·m·E + w) / 2w⌋ is the formula in integers; m < w keeps the result within the epochs.
        let [whole, epochs] = [self.of, epochs].map(u64::from);
        self.at.iter().map(|m| ((2 * u64::from(*m) * epochs + whole) / (2 * whole)) as u32).collect()
    }
}

impl Origin {
    /// Returns the milestones that come from here in a run of `epochs` epochs, by [`Milestones::scaled_to`];
    /// `Custom` has none of its own.
    pub fn milestones(self, epochs: u32) -> Vec<u32> {
        let own = match self {
            Origin::Report => Milestones::REPORT,
            Origin::Paper => Milestones::PAPER,
            Origin::Custom => Milestones::NONE,
        };
        own.scaled_to(epochs)
    }

    /// Returns the origin of milestones, whether they were given or come from a recipe: `--recipe paper` and
    /// the same `--milestones` are one experiment.
    pub fn of(milestones: &[u32], epochs: u32) -> Origin {
        [Origin::Report, Origin::Paper]
            .into_iter()
            .find(|origin| origin.milestones(epochs) == milestones)
            .unwrap_or(Origin::Custom)
    }
}

/// Returns the learning rate of an epoch, counted from 1: `base` · min(1, epoch/warmup) / 10^(milestones
/// reached). Computed in f64.
pub fn lr(base: f64, milestones: &[u32], warmup: u32, epoch: u32) -> f32 {
    let reached = milestones.iter().filter(|&&m| m <= epoch).count();
    let decay = milestones.iter().take(reached).fold(1.0, |d, _| d * 10.0);
    (base * ramp(warmup, epoch) / decay) as f32
}

/// Returns the learning rate of an epoch, counted from 1, by PyTorch's `CosineAnnealingLR` down to zero:
/// `base` · min(1, epoch/warmup) · (1 + cos(π·(epoch − 1)/epochs))/2. Computed in f64.
pub fn cosine(base: f64, epochs: u32, warmup: u32, epoch: u32) -> f32 {
    let turn = std::f64::consts::PI * f64::from(epoch - 1) / f64::from(epochs);
    (base * ramp(warmup, epoch) * (1.0 + turn.cos()) / 2.0) as f32
}

/// Returns the share of the learning rate that the warm-up has reached in an epoch, counted from 1.
fn ramp(warmup: u32, epoch: u32) -> f64 {
    if epoch < warmup { f64::from(epoch) / f64::from(warmup) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_matches_pytorch() {
        // [g['lr'] for CosineAnnealingLR(SGD(lr=0.1), T_max=5)] in PyTorch.
        let rates: Vec<f32> = (1..=5).map(|e| cosine(0.1, 5, 0, e)).collect();
        let expected = [0.1, 0.090_450_85, 0.065_450_85, 0.034_549_15, 0.009_549_15];
        assert!(rates.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-8), "{rates:?}");
        assert!((cosine(0.1, 5, 2, 1) - 0.05).abs() < 1e-8);
    }

    #[test]
    fn other_lengths_scale_and_round_half_up() {
        let all =
            [(200, [100, 150], [100, 167]), (10, [5, 8], [5, 8]), (3, [2, 2], [2, 3]), (1, [1, 1], [1, 1])];
        for (epochs, report, paper) in all {
            assert_eq!(Milestones::REPORT.scaled(epochs), report, "{epochs}");
            assert_eq!(Milestones::PAPER.scaled(epochs), paper, "{epochs}");
        }
        for epochs in 1..=2000 {
            let plain = |m: f64| (m * f64::from(epochs) / 300.0 + 0.5).floor() as u32;
            assert_eq!(Milestones::PAPER.scaled(epochs), [plain(150.0), plain(250.0)], "{epochs}");
        }
    }

    #[test]
    fn short_runs_keep_their_rate() {
        for (epochs, report, from) in
            [(1, &[][..], 1), (2, &[], 2), (3, &[], 2), (4, &[3], 3), (5, &[3, 4], 4), (6, &[3, 5], 5)]
        {
            assert_eq!(Origin::Report.milestones(epochs), report, "{epochs}");
            assert_eq!(Milestones::REPORT.deferred_from(epochs), Some(from), "{epochs}");
        }
        assert_eq!(Origin::Paper.milestones(3), [3]);
        assert_eq!(Milestones::NONE.deferred_from(300), None);
    }

    #[test]
    fn milestones_tell_their_origin() {
        assert_eq!(Origin::of(&[150, 225], 300), Origin::Report);
        assert_eq!(Origin::of(&[150, 250], 300), Origin::Paper);
        assert_eq!(Origin::of(&[100, 200], 300), Origin::Custom);
        assert_eq!(Origin::of(&[150, 225], 200), Origin::Custom);
    }

    #[test]
    fn warmup_is_linear_and_ends_at_the_base_rate() {
        // LDAM-DRW: lr · epoch / 5 while epoch <= 5.
        let rates: Vec<f32> = (1..=6).map(|e| lr(0.1, &[160, 180], 5, e)).collect();
        assert_eq!(rates, [0.02, 0.04, 0.06, 0.08, 0.1, 0.1]);
    }
}
