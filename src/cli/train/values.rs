//! Values that flags of `train` take: names and lists.

use std::ffi::OsStr;
use std::str::FromStr;

use clap::ValueEnum;
use clap_complete::CompletionCandidate;

use crate::methods::presets;
use crate::train::config::RAND_AUGMENT;

/// Completes a method's name, part by part.
pub fn methods(begun: &OsStr) -> Vec<CompletionCandidate> {
    presets::completions(&begun.to_string_lossy()).into_iter().map(CompletionCandidate::new).collect()
}

/// Names of classifiers on features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassifierName {
    /// A linear classifier, trained from random weights; with --rule rs --rs inverse, this is cRT
    Linear,
    /// Scaled cosine similarity of features and weights, trained from random weights
    Cosine,
    /// The checkpoint's own classifier, with a trained scale for each class's logit
    Lws,
    /// The checkpoint's own classifier, with each class's weights divided by a power of their norm and no
    /// bias
    TauNorm,
    /// The class whose mean feature is nearest (nearest class mean)
    Ncm,
    /// The class whose mean feature has the largest cosine similarity
    NcmCosine,
    /// A vote of the nearest training images by cosine similarity; it can only classify features
    Knn,
}

/// The exponent of τ-norm; None for `auto`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TauNorm(pub Option<f64>);

impl FromStr for TauNorm {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(TauNorm(None)),
            s => s.parse().map(|tau| TauNorm(Some(tau))).map_err(|_| "expected a number or auto".into()),
        }
    }
}

/// How much brightness, contrast and saturation vary; None for `none`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jitter(pub Option<[f64; 3]>);

impl FromStr for Jitter {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(Jitter(None));
        }
        // The sum turns -0 into 0, so that the key does not depend on it.
        let number = |x: &str| x.trim().parse::<f64>().map(|x| x + 0.0);
        let all: Result<Vec<f64>, _> = s.split(',').map(number).collect();
        match all.as_deref() {
            Ok(&[one]) => Ok(Jitter(Some([one; 3]))),
            Ok(&[brightness, contrast, saturation]) => Ok(Jitter(Some([brightness, contrast, saturation]))),
            _ => Err("expected one number, three numbers or none, such as 0.4 or 0.4,0.4,0.2".into()),
        }
    }
}

/// The number of operations per image, and their magnitude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandAugment(pub [u8; 2]);

impl FromStr for RandAugment {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let pair = s.split_once(',');
        let pair = pair.and_then(|(n, m)| Some([n.trim().parse().ok()?, m.trim().parse().ok()?]));
        pair.map(RandAugment).ok_or_else(|| RAND_AUGMENT.into())
    }
}

/// A list of epochs, or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestones(pub Vec<u32>);

impl FromStr for Milestones {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s == "none" {
            return Ok(Milestones(vec![]));
        }
        let epoch = |e: &str| {
            e.trim()
                .parse()
                .map_err(|_| format!("{e:?} is not an epoch; write a list such as 100,150, or none"))
        };
        s.split(',').map(epoch).collect::<Result<_, _>>().map(Milestones)
    }
}

/// A list of seeds and ranges of seeds, each seed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

impl FromStr for Seeds {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut seeds = Vec::new();
        for part in s.split(',') {
            let number = |n: &str| {
                n.trim()
                    .parse::<u64>()
                    .map_err(|_| format!("{part:?} is not a seed; write a list such as 0-4,7"))
            };
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(format!("{part:?} runs backwards; write {last}-{first}"));
            }
            if last - first >= 1000 {
                return Err(format!("{part:?} is more than 1000 seeds"));
            }
            for seed in first..=last {
                if !seeds.contains(&seed) {
                    seeds.push(seed);
                }
            }
        }
        Ok(Seeds(seeds))
    }
}
