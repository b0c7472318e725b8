//! Recipes: the settings that the trainings of a paper or of its code share. They are the defaults of all
//! trainings, which flags override.

use clap::ValueEnum;

use super::config::{Augment, CROP_PADDING, Config, MOMENTUM, Precision, Schedule};
use super::schedule::{Milestones, Origin};
use crate::data::Normalise;
use crate::methods::presets::Method;
use crate::net::Arch;

/// Names of recipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RecipeName {
    /// The recipe of the reproduction report's code: ResNet-32, 300 epochs, milestones 150 and 225
    #[value(alias = "seed")]
    Report,
    /// The recipe in the text of the Remix paper: the same, but milestones 150 and 250
    Paper,
    /// The Remix paper's recipe for CINIC-10
    Cinic10,
    /// The LDAM paper's recipe for Tiny-ImageNet
    TinyImagenet,
    /// The classifier-balancing code's recipe for ImageNet-LT, but with ResNet-50
    ImagenetLt,
    /// The recipe of imagenet-lt with 30 epochs, for Places-LT
    PlacesLt,
    /// The Remix paper's recipe for iNaturalist 2018
    Inaturalist,
}

/// The settings of a recipe.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// The network.
    pub arch: Arch,
    /// Passes over the images.
    pub epochs: u32,
    /// Images per step.
    pub batch_size: usize,
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// How the learning rate falls.
    pub schedule: Schedule,
    /// The epochs at which it falls to a tenth. Along a cosine, only the last one matters, from which a
    /// deferred rule holds.
    pub milestones: Milestones,
    /// Crops and flips.
    pub augment: Augment,
    /// Pixels of zero padding before a random crop of fixed size.
    pub crop_padding: u8,
    /// How much brightness, contrast and saturation vary.
    pub color_jitter: Option<[f64; 3]>,
    /// Parameter of the Beta distribution that mixing coefficients are drawn from, if not the default.
    pub alpha: Option<f64>,
}

impl Recipe {
    /// The recipe of the reproduction report's code, which the others are variants of.
    pub const REPORT: Recipe = Recipe {
        arch: Arch::RESNET32,
        epochs: 300,
        batch_size: 128,
        lr: 0.1,
        weight_decay: 2e-4,
        schedule: Schedule::Step,
        milestones: Milestones::REPORT,
        augment: Augment::CropFlip,
        crop_padding: CROP_PADDING,
        color_jitter: None,
        alpha: None,
    };

    /// Returns the settings of a classifier on features: ten epochs along a cosine, or one if it is computed
    /// at once.
    pub fn second_stage(is_trained: bool) -> Recipe {
        Recipe {
            epochs: if is_trained { 10 } else { 1 },
            schedule: Schedule::Cosine,
            milestones: Milestones::NONE,
            augment: Augment::None,
            ..Recipe::REPORT
        }
    }

    /// Returns the configuration of a training by this recipe, with the default of everything that a recipe
    /// does not set. The method is used as it is, whatever the recipe's `alpha`.
    pub fn config(self, method: Method) -> Config {
        let milestones = match self.schedule {
            Schedule::Step => self.milestones.scaled_to(self.epochs),
            Schedule::Cosine => vec![],
        };
        let rule_from = self.milestones.deferred_from(self.epochs);
        let rule_from = rule_from.filter(|from| method.rule.kind.deferred && milestones.last() != Some(from));
        let is_padded = self.augment == Augment::CropFlip && self.crop_padding != CROP_PADDING;
        Config {
            arch: self.arch,
            mix: method.mix,
            loss: method.loss,
            rule: method.rule,
            epochs: self.epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            momentum: MOMENTUM,
            weight_decay: self.weight_decay,
            recipe: Origin::of(&milestones, self.epochs),
            milestones,
            rule_from,
            warmup: 0,
            schedule: self.schedule,
            nesterov: false,
            seed: 0,
            precision: Precision::F32,
            augment: self.augment,
            crop_padding: is_padded.then_some(self.crop_padding),
            color_jitter: self.color_jitter.filter(|all| *all != [0.0; 3]),
            rand_augment: None,
            mean: Normalise::CIFAR.mean,
            std: Normalise::CIFAR.std,
            preprocess: None,
            class_names: None,
            select: None,
            init: None,
            init_checkpoint: None,
            new_classifier: None,
            freeze: None,
            classifier: None,
        }
    }
}

impl RecipeName {
    /// Returns the settings of the recipe.
    pub fn recipe(self) -> Recipe {
        let arch = |name: &str| name.parse::<Arch>().expect("recipes name networks of the zoo");
        let report = Recipe::REPORT;
        let paper = Recipe { milestones: Milestones::PAPER, ..report };
        let large = Recipe {
            arch: arch("resnet50"),
            epochs: 90,
            batch_size: 512,
            lr: 0.2,
            weight_decay: 5e-4,
            schedule: Schedule::Cosine,
            milestones: Milestones { of: 90, at: &[30, 60] },
            augment: Augment::ResizedCropFlip,
            color_jitter: Some([0.4; 3]),
            ..report
        };
        match self {
            RecipeName::Report => report,
            RecipeName::Paper => paper,
            RecipeName::Cinic10 => Recipe { arch: arch("resnet18-cifar"), ..paper },
            RecipeName::TinyImagenet => Recipe {
                arch: arch("resnet18-cifar"),
                epochs: 120,
                milestones: Milestones { of: 120, at: &[90] },
                crop_padding: 8,
                ..report
            },
            RecipeName::ImagenetLt => large,
            RecipeName::PlacesLt => Recipe { epochs: 30, ..large },
            RecipeName::Inaturalist => Recipe {
                arch: large.arch,
                epochs: large.epochs,
                batch_size: 256,
                milestones: large.milestones,
                color_jitter: large.color_jitter,
                alpha: Some(0.4),
                ..report
            },
        }
    }
}
