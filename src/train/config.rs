//! The configuration of one training run: every choice that can change its result, resolved and checked.
//!
//! It is the `params` of the checkpoint's manifest, and thereby determines the key: however an experiment was
//! spelled on the command line, its configuration is the same. Choices that cannot change a result (device,
//! threads, paths) are not part of it.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use super::schedule::{self, Origin};
pub use crate::backend::Precision;
use crate::data::files::Preprocess;
use crate::manifest::{Object, object};
use crate::methods::classifier::Classifier;
use crate::methods::loss::{Criterion, Loss};
use crate::methods::mix::{Blend, Mix};
use crate::methods::presets::Method;
use crate::methods::rule::Rule;
use crate::net::{Arch, Network};

/// Default momentum of SGD.
pub const MOMENTUM: f64 = 0.9;

/// Default number of pixels of zero padding before the random crop.
pub const CROP_PADDING: u8 = 4;

/// Largest number of pixels of zero padding.
pub const MAX_CROP_PADDING: u8 = 64;

/// Largest number of images per step.
pub const MAX_BATCH_SIZE: usize = 65_536;

/// What the values of RandAugment must be.
pub const RAND_AUGMENT: &str = "expected 1 to 10 operations and a magnitude of at most 30, such as 2,9";

/// The augmentation of a training image before it is mixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// A random crop of the zero-padded image, or of a larger stored one, and a horizontal flip with
    /// probability 1/2
    #[default]
    CropFlip,
    /// A crop of random size and aspect ratio, resized (torchvision's RandomResizedCrop), and a horizontal
    /// flip with probability 1/2
    ResizedCropFlip,
    /// Neither random crops nor flips
    None,
}

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// The learning rate falls to a tenth at each milestone
    #[default]
    Step,
    /// The learning rate falls from epoch to epoch along half a cosine, which reaches zero after the last one
    Cosine,
}

/// Returns whether a value is the default. Params leave defaults out, so that results of earlier versions are
/// still found.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Which epoch `best.safetensors` is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// The epoch with the best accuracy on the validation split
    Val,
    /// The epoch with the best accuracy on the test split, as papers of the field often report it
    Test,
    /// The last epoch
    Last,
}

impl Select {
    /// Returns the default: the validation split if there is one, otherwise the test split.
    pub fn usual(has_val: bool) -> Select {
        if has_val { Select::Val } else { Select::Test }
    }

    /// Returns the name in manifests and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Select::Val => "val",
            Select::Test => "test",
            Select::Last => "last",
        }
    }
}

/// Everything that can change the result of a training run, except the data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The network.
    pub arch: Arch,
    /// How images and labels are mixed.
    pub mix: Mix,
    /// The loss of a label.
    pub loss: Loss,
    /// How class imbalance is handled.
    pub rule: Rule,
    /// Number of passes over as many images as the training split has.
    pub epochs: u32,
    /// Images per step; the last step of an epoch may have fewer.
    pub batch_size: usize,
    /// Base learning rate of SGD.
    pub lr: f64,
    /// Momentum of SGD, in PyTorch's form: v ← momentum·v + g, w ← w − lr·v.
    pub momentum: f64,
    /// Weight decay on all parameters: g ← g + weight_decay·w.
    pub weight_decay: f64,
    /// Where the milestones come from.
    pub recipe: Origin,
    /// Epochs, counted from 1 and ascending, at which the learning rate falls to a tenth.
    pub milestones: Vec<u32>,
    /// The first epoch of a deferred rule, if it is not the last milestone: where it was chosen, along a cosine,
    /// and in runs so short that the recipe's last milestone does not lower the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_from: Option<u32>,
    /// Epochs of linear warm-up; 0 for none.
    pub warmup: u32,
    /// How the learning rate falls.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// Whether the momentum is Nesterov's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub nesterov: bool,
    /// Seed of all random streams.
    pub seed: u64,
    /// The precision of the arithmetic.
    pub precision: Precision,
    /// Crops and flips.
    pub augment: Augment,
    /// Pixels of zero padding before the random crop, if not [`CROP_PADDING`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop_padding: Option<u8>,
    /// How much brightness, contrast and saturation vary: factors are drawn from [1 − x, 1 + x].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color_jitter: Option<[f64; 3]>,
    /// RandAugment: the number of operations per image, and their magnitude, which is at most 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rand_augment: Option<[u8; 2]>,
    /// Mean of each channel on the 0–1 scale, subtracted from the pixels.
    pub mean: [f64; 3],
    /// Standard deviation of each channel on the 0–1 scale, which the pixels are divided by.
    pub std: [f64; 3],
    /// How image files were preprocessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<Preprocess>,
    /// The hash that identifies the names of the classes; see
    /// [`Info::names_id`](crate::data::Info::names_id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<String>,
    /// Which epoch is kept as the best, if not the default for the data set; see [`Select::usual`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<Select>,
    /// The beginning of the hash of the weights that the training starts from, if they are not random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Which weights of a checkpoint it starts from, if not the last ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_checkpoint: Option<String>,
    /// Whether the checkpoint that it starts from was trained on other classes, so that the classifier is a
    /// new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_classifier: Option<bool>,
    /// The part of the network that is not trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// The classifier that is trained on features, instead of a network on images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<Classifier>,
}

/// The part of the network that stays as it is in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// All layers except the classifier; batch norm uses its running statistics
    Backbone,
}

/// A value that no experiment can use.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} {value}: {why}")]
pub struct Error {
    flag: String,
    value: String,
    why: String,
}

impl Error {
    fn new(flag: &str, value: &dyn fmt::Display, why: &str) -> Error {
        Error { flag: flag.into(), value: value.to_string(), why: why.into() }
    }
}

/// Refuses the value of a flag unless it is `ok`.
fn check(ok: bool, flag: &str, value: &dyn fmt::Display, why: &str) -> Result<(), Error> {
    if ok { Ok(()) } else { Err(Error::new(flag, value, why)) }
}

/// Writes a number as people do: with an exponent if it is very large or very small.
fn shown(x: f64) -> String {
    let is_short = x == 0.0 || (1e-6..1e16).contains(&x.abs());
    if is_short { x.to_string() } else { format!("{x:e}") }
}

/// Returns whether a number is finite and not below zero. Negative zero is refused, because it would give
/// another key.
fn not_negative(x: f64) -> bool {
    x.is_finite() && x.is_sign_positive()
}

impl Config {
    /// Returns the network, with the classifier that is asked for or, without one, that the loss is made for.
    pub fn network(&self) -> Network {
        let of_loss = self.loss.classifier();
        self.arch.network().with_classifier(self.classifier.map_or(of_loss, |c| c.kind(&self.loss)))
    }

    /// Returns the loss with its numbers, for classes with `counts` training images.
    pub fn criterion(&self, counts: &[usize]) -> Criterion {
        Criterion { classifier: self.network().classifier.kind, ..self.loss.criterion(counts) }
    }

    /// Creates the configuration of one method in the recipe of the reproduction report; see
    /// [`Recipe::REPORT`].
    pub fn new(method: Method) -> Config {
        Recipe::REPORT.config(method)
    }

    /// Returns the three choices that make up the method.
    pub fn method(&self) -> Method {
        Method { mix: self.mix, loss: self.loss, rule: self.rule }
    }

    /// Returns the learning rate of an epoch, counted from 1.
    pub fn lr_at(&self, epoch: u32) -> f32 {
        match self.schedule {
            Schedule::Step => schedule::lr(self.lr, &self.milestones, self.warmup, epoch),
            Schedule::Cosine => schedule::cosine(self.lr, self.epochs, self.warmup, epoch),
        }
    }

    /// Returns whether images are changed one by one, by more than a crop of fixed size and a flip.
    pub fn changes_images(&self) -> bool {
        self.augment == Augment::ResizedCropFlip || self.color_jitter.is_some() || self.rand_augment.is_some()
    }

    /// Returns the first epoch (from 1) in which the rule holds.
    pub fn rule_from(&self) -> u32 {
        match self.rule.kind.deferred {
            true => self.rule_from.or(self.milestones.last().copied()).unwrap_or(u32::MAX),
            false => 1,
        }
    }

    /// Returns the manifest's `params`.
    pub fn params(&self) -> Object {
        object(self)
    }

    /// Refuses values that no experiment can use.
    ///
    /// # Errors
    /// Returns an error for the first such value, with the flag that sets it.
    pub fn validate(&self) -> Result<(), Error> {
        self.check_sgd()?;
        self.check_epochs()?;
        self.check_augment()?;
        self.check_method()?;
        self.check_classifier()
    }

    fn check_sgd(&self) -> Result<(), Error> {
        let batch = (1..=MAX_BATCH_SIZE).contains(&self.batch_size);
        let why = format!("must be between 1 and {MAX_BATCH_SIZE}");
        check(batch, "batch-size", &self.batch_size, &why)?;
        let lr = self.lr > 0.0 && (self.lr as f32).is_normal();
        let why = "must be a positive number from 1.2e-38 to 3.4e38, such as 0.1";
        check(lr, "lr", &shown(self.lr), why)?;
        // The step computes in f32, where 0.99999999 is 1, and 1e39 is infinite.
        let momentum = not_negative(self.momentum) && (self.momentum as f32) < 1.0;
        let why = "must be at least 0 and, rounded to f32, below 1";
        check(momentum, "momentum", &shown(self.momentum), why)?;
        let nesterov = !self.nesterov || (self.momentum as f32) > 0.0;
        let why = "Nesterov momentum must be above 0";
        check(nesterov, "nesterov --momentum", &shown(self.momentum), why)?;
        let decay = not_negative(self.weight_decay) && (self.weight_decay as f32).is_finite();
        let why = "must be 0 or a positive number below 3.4e38, such as 0.0002";
        check(decay, "weight-decay", &shown(self.weight_decay), why)
    }

    /// Checks the number of epochs, and what begins at one of them.
    fn check_epochs(&self) -> Result<(), Error> {
        check(self.epochs > 0, "epochs", &self.epochs, "must be at least 1")?;
        check(self.warmup < self.epochs, "warmup", &self.warmup, "must be less than the number of epochs")?;
        let list: Vec<String> = self.milestones.iter().map(u32::to_string).collect();
        let list = if list.is_empty() { "none".into() } else { list.join(",") };
        let ascending = self.milestones.is_sorted() && self.milestones.first() != Some(&0);
        check(ascending, "milestones", &list, "must be epochs in ascending order, counted from 1")?;
        if self.schedule == Schedule::Cosine {
            let why = "a cosine schedule has no milestones; omit them, or use --schedule step";
            check(self.milestones.is_empty() || self.rule.kind.deferred, "milestones", &list, why)?;
        }
        if let Some(from) = self.rule_from {
            check(from <= self.epochs, "rule-from", &from, "must be one of the epochs")?;
        }
        let why = "a deferred rule starts at the last milestone, which must be one of the epochs; \
                   choose such a milestone, or --rule-from EPOCH, or use --rule rs or rw";
        check(self.rule_from() <= self.epochs, "milestones", &list, why)
    }

    fn check_augment(&self) -> Result<(), Error> {
        let padding = self.crop_padding.unwrap_or(CROP_PADDING);
        let why = format!("must be at most {MAX_CROP_PADDING}");
        check(padding <= MAX_CROP_PADDING, "crop-padding", &padding, &why)?;
        let is_cropped = self.crop_padding.is_none() || self.augment == Augment::CropFlip;
        check(is_cropped, "crop-padding", &padding, "does nothing here; it needs --augment crop-flip")?;
        let jitter = self.color_jitter.unwrap_or_default();
        let list = jitter.map(shown).join(",");
        let sound = jitter.iter().all(|x| not_negative(*x) && *x <= 1.0);
        check(sound, "color-jitter", &list, "each number must be between 0 and 1")?;
        let [operations, magnitude] = self.rand_augment.unwrap_or([1, 0]);
        let sound = (1..=10).contains(&operations) && magnitude <= 30;
        check(sound, "rand-augment", &format!("{operations},{magnitude}"), RAND_AUGMENT)
    }

    fn check_method(&self) -> Result<(), Error> {
        let faults = [self.mix.fault(), self.loss.fault(), self.rule.fault()];
        match faults.into_iter().flatten().next() {
            Some((option, value, why)) => Err(Error::new(&option.flag(), &shown(value), why)),
            None => Ok(()),
        }
    }

    /// Checks the classifier on features, and that the method suits it.
    fn check_classifier(&self) -> Result<(), Error> {
        let Some(classifier) = self.classifier else {
            let why = "is only for classifiers on features; add --classifier linear";
            return check(!self.loss.kind.on_features, "loss", &self.loss.name(), why);
        };
        let mixes = matches!(self.mix.kind.blend, Blend::Nothing | Blend::Images);
        check(mixes, "mix", &self.mix.name(), "only mixup and remix can mix features")?;
        let fits = classifier.kind(&self.loss) == self.loss.classifier() || classifier == Classifier::Cosine;
        let why = "LDAM needs a normalised classifier; use --classifier linear or cosine";
        check(fits || !classifier.is_trained(), "loss", &"ldam", why)?;
        match classifier {
            Classifier::Knn { neighbours } => {
                check(neighbours > 0, "neighbours", &neighbours, "must be at least 1")
            }
            Classifier::TauNorm { tau_norm: Some(tau) } => {
                check(not_negative(tau) && tau <= 10.0, "tau-norm", &shown(tau), "must be between 0 and 10")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
