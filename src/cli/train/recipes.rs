//! Recipes: the settings that the trainings of a paper or of its code share, as defaults of flags.

use clap::ValueEnum;

use crate::train::config::{Augment, Schedule};
use crate::train::schedule::Milestones;

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

/// The settings of a recipe, which apply unless flags say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name of the network.
    pub arch: &'static str,
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
    /// The epochs at which it falls to a tenth.
    pub milestones: Milestones,
    /// Crops and flips.
    pub augment: Augment,
    /// Padding of crops.
    pub crop_padding: Option<u8>,
    /// How much colours vary.
    pub color_jitter: Option<[f64; 3]>,
    /// Parameter of the Beta distribution that mixing coefficients are drawn from.
    pub alpha: Option<f64>,
}

impl Preset {
    /// Returns the settings of a classifier on features: ten epochs along a cosine, or one if it is computed
    /// at once.
    pub fn second_stage(is_trained: bool) -> Preset {
        Preset {
            epochs: if is_trained { 10 } else { 1 },
            schedule: Schedule::Cosine,
            milestones: Milestones { of: 10, at: &[] },
            augment: Augment::None,
            ..RecipeName::Report.preset()
        }
    }
}

impl RecipeName {
    /// Returns the settings of the recipe.
    pub fn preset(self) -> Preset {
        let report = Preset {
            arch: "resnet32",
            epochs: 300,
            batch_size: 128,
            lr: 0.1,
            weight_decay: 2e-4,
            schedule: Schedule::Step,
            milestones: Milestones { of: 300, at: &[150, 225] },
            augment: Augment::CropFlip,
            crop_padding: None,
            color_jitter: None,
            alpha: None,
        };
        let paper = Preset { milestones: Milestones { of: 300, at: &[150, 250] }, ..report };
        let large = Preset {
            arch: "resnet50",
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
            RecipeName::Cinic10 => Preset { arch: "resnet18-cifar", ..paper },
            RecipeName::TinyImagenet => Preset {
                arch: "resnet18-cifar",
                epochs: 120,
                milestones: Milestones { of: 120, at: &[90] },
                crop_padding: Some(8),
                ..report
            },
            RecipeName::ImagenetLt => large,
            RecipeName::PlacesLt => Preset { epochs: 30, ..large },
            RecipeName::Inaturalist => Preset {
                batch_size: 256,
                lr: 0.1,
                weight_decay: 2e-4,
                schedule: Schedule::Step,
                augment: Augment::CropFlip,
                alpha: Some(0.4),
                ..large
            },
        }
    }
}
