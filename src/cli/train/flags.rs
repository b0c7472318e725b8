//! The flags of `train`, and how they become validated configurations: the preset first, then what was asked
//! otherwise.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use clap_complete::{ArgValueCandidates, ArgValueCompleter};

use super::values::{DrawName, LossName, Milestones, MixName, PerName, RuleName, RwNormName, Seeds, methods};
use crate::cli::generate::architectures;
use crate::cli::{Common, VERSION};
use crate::methods::loss::Loss;
use crate::methods::mix::Mix;
use crate::methods::presets::{Method, preset};
use crate::methods::rule::{Draw, Reweight, Rule};
use crate::net::Arch;
use crate::train::config::{Augment, Config, Freeze, Precision, Select};
use crate::train::schedule::Recipe;

const EXAMPLES: &str = "\
Examples:
  mk-imbalance --dataset cifar10 --data ~/data --imb-ratio 100 | train --method remix
  train data/cifar10-exp-100-*/manifest.json --method remix-drw --seeds 0-4
  train MANIFEST --mix remix --tau 0.3 --rule rs --rs inverse    any parts, any options
  train MANIFEST --method erm --arch resnet20 --epochs 10        a short run; the recipe's milestones scale

Methods: erm, or up to three parts in this order, joined by -, such as remix-ldam-drw:
  a mix    mixup, remix, cutmix, remix-cutmix, manifold-mixup or remix-manifold
  a loss   focal, balanced-softmax, logit-adjustment or ldam
  a rule   rs, rw, drs or drw
A stopped run goes on from its last finished epoch when the same command is given again.";

/// Train an image classifier on an imbalanced data set
///
/// Reads manifests of data sets (from mk-imbalance), trains once a seed on each, and prints one checkpoint
/// manifest for each run as it finishes. A run that is there already is not repeated.
#[derive(Parser, Debug)]
#[command(name = "train", version = VERSION, after_help = EXAMPLES)]
pub struct Flags {
    /// Manifests of data sets, or their directories; `-` or nothing for stdin
    #[arg(value_name = "DATASET_MANIFEST")]
    pub datasets: Vec<PathBuf>,

    /// A method by name, such as remix-drw; the flags below change parts of it
    #[arg(short, long, value_name = "NAME", default_value = "erm", help_heading = "Method")]
    #[arg(add = ArgValueCompleter::new(methods))]
    pub method: String,

    /// How images and labels are mixed
    #[arg(long, value_name = "MIX", help_heading = "Method")]
    pub mix: Option<MixName>,

    /// The loss of a label
    #[arg(long, value_name = "LOSS", help_heading = "Method")]
    pub loss: Option<LossName>,

    /// Re-sampling (rs), re-weighting (rw), or either from the last milestone on (drs, drw)
    #[arg(long, value_name = "RULE", help_heading = "Method")]
    pub rule: Option<RuleName>,

    /// Mixes: the mixing coefficient is drawn from Beta(A, A) [default: 1, uniform]
    #[arg(long, value_name = "A", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub alpha: Option<f64>,

    /// Remix: a class is rare beside one with K times its images [default: 3]
    #[arg(long, value_name = "K", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub kappa: Option<f64>,

    /// Remix: the rare class takes the whole label if the other has less than T of the image [default: 0.5]
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub tau: Option<f64>,

    /// Mixes: one mixing coefficient (and rectangle) a batch or a sample [default: batch]
    #[arg(long, value_name = "PER", help_heading = "Options of the method")]
    pub lambda_per: Option<PerName>,

    /// focal: the exponent of 1 − p that cross-entropy is multiplied with [default: 2]
    #[arg(long, value_name = "G", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub gamma: Option<f64>,

    /// logit-adjustment: what the log of the classes' shares is multiplied with [default: 1]
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub la_tau: Option<f64>,

    /// ldam: margin of the rarest class, as a cosine [default: 0.5]
    #[arg(long, value_name = "M", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub margin: Option<f64>,

    /// Rules: β of the effective number of samples, (1−β^n)/(1−β) [default: 0.9999]
    #[arg(long, value_name = "B", allow_negative_numbers = true, help_heading = "Options of the method")]
    pub beta: Option<f64>,

    /// rs, drs: class weights by the effective number, or 1/n for balanced classes [default: effective]
    #[arg(long, value_name = "WEIGHTS", help_heading = "Options of the method")]
    pub rs: Option<DrawName>,

    /// rw, drw: what a batch's weighted loss is divided by [default: weight-sum]
    ///
    /// weight-sum divides by the sum of the class weights in the loss, as PyTorch's
    /// CrossEntropyLoss(weight=…) does for class indices, and code of Mixup for each of its two terms.
    /// batch-size divides by the number of samples, as the same function does for class probabilities: a
    /// batch counts by the rare classes in it, and the average step is smaller (25 times on CIFAR-100 step at
    /// ratio 100), so the same --lr means something else.
    #[arg(long, value_name = "BY", help_heading = "Options of the method")]
    pub rw_norm: Option<RwNormName>,

    /// The network: resnet20, resnet32, resnet44, resnet56 or resnet110, in the CIFAR form of the papers;
    /// resnet18-cifar or resnet34-cifar, wider, for small images; resnet10, resnet18, resnet34 or resnet50,
    /// for large ones
    #[arg(long, value_name = "ARCH", default_value_t = Arch::RESNET32, help_heading = "Recipe")]
    #[arg(add = ArgValueCandidates::new(architectures))]
    pub arch: Arch,

    /// Passes over as many images as the training split has
    #[arg(
        long,
        value_name = "N",
        default_value_t = 300,
        allow_negative_numbers = true,
        help_heading = "Recipe"
    )]
    pub epochs: u32,

    /// Images a step
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        allow_negative_numbers = true,
        help_heading = "Recipe"
    )]
    pub batch_size: usize,

    /// Learning rate of SGD
    #[arg(
        long,
        value_name = "RATE",
        default_value_t = 0.1,
        allow_negative_numbers = true,
        help_heading = "Recipe"
    )]
    pub lr: f64,

    /// Momentum of SGD
    #[arg(
        long,
        value_name = "M",
        default_value_t = 0.9,
        allow_negative_numbers = true,
        help_heading = "Recipe"
    )]
    pub momentum: f64,

    /// Weight decay, on all parameters
    #[arg(
        long,
        value_name = "W",
        default_value_t = 2e-4,
        allow_negative_numbers = true,
        help_heading = "Recipe"
    )]
    pub weight_decay: f64,

    /// Milestones: epochs 150 and 225 of 300 (report: the code of the reproduction report), or 150 and 250
    /// (paper: the text of the Remix paper)
    ///
    /// They scale with --epochs. A milestone before epoch 3 does not lower the rate: with --epochs 3 all
    /// epochs have --lr.
    #[arg(long, value_name = "RECIPE", default_value = "report", help_heading = "Recipe")]
    pub recipe: Recipe,

    /// Epochs, from 1, at which the learning rate falls to a tenth, such as 100,150; `none` keeps it
    #[arg(long, value_name = "EPOCHS", conflicts_with = "recipe", help_heading = "Recipe")]
    pub milestones: Option<Milestones>,

    /// Epochs over which the learning rate first rises, linearly
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "Recipe"
    )]
    pub warmup: u32,

    /// Arithmetic of the network
    #[arg(long, value_name = "P", default_value = "f32", help_heading = "Recipe")]
    pub precision: Precision,

    /// Which epoch is kept as best.safetensors [default: val where the data set has a validation split, else
    /// test]
    ///
    /// `best_top1` is the accuracy of that epoch on the test split, whatever it was selected by.
    #[arg(long, value_name = "BY", help_heading = "Recipe")]
    pub select: Option<Select>,

    /// Train on the images as they are: no random crop, no flip
    #[arg(long, help_heading = "Recipe")]
    pub no_augment: bool,

    /// Start from weights: a checkpoint (its manifest or directory), or a file in PyTorch's names, as
    /// safetensors or as torch.save writes it
    ///
    /// A checkpoint's classifier is taken if its classes have the names of the data set's, that of other
    /// files if it has as many classes; otherwise a new one is made.
    #[arg(long, value_name = "MANIFEST|WEIGHTS", help_heading = "Recipe")]
    pub init: Option<PathBuf>,

    /// Which weights of the checkpoint of --init to take, those of its last epoch or of its best one
    /// [default: last]
    #[arg(long, value_name = "WHICH", value_parser = ["last", "best"], help_heading = "Recipe", requires = "init")]
    pub init_checkpoint: Option<String>,

    /// What is not trained
    #[arg(long, value_name = "WHAT", help_heading = "Recipe", requires = "init")]
    pub freeze: Option<Freeze>,

    /// Seed of weights, batches, crops and mixing
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true,
        help_heading = "Seeds and files"
    )]
    pub seed: u64,

    /// Several runs, one a seed, such as 0-4 or 0-4,7; with --out DIR they are DIR/seed-N
    #[arg(long, value_name = "LIST", conflicts_with = "seed", help_heading = "Seeds and files")]
    pub seeds: Option<Seeds>,

    /// Runs that train side by side on a GPU [default: as many as fit, at most 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), help_heading = "Seeds and files")]
    pub parallel: Option<u16>,

    /// Also write an event file for TensorBoard into each run's directory, from log.jsonl
    #[arg(long, help_heading = "Seeds and files")]
    pub tensorboard: bool,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

impl Flags {
    /// The configuration of each run, in the order of the seeds.
    ///
    /// # Errors
    /// Unknown methods, options that the method does not have, absurd values.
    pub fn configs(&self) -> Result<Vec<Config>> {
        let method = self.method()?;
        let (milestones, deferred_from) = match &self.milestones {
            Some(Milestones(list)) => (list.clone(), list.last().copied()),
            None => (self.recipe.milestones(self.epochs), self.recipe.deferred_from(self.epochs)),
        };
        let config = Config {
            arch: self.arch,
            epochs: self.epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            momentum: self.momentum,
            weight_decay: self.weight_decay,
            recipe: Recipe::of(&milestones, self.epochs),
            rule_from: deferred_from.filter(|from| method.rule.deferred() && milestones.last() != Some(from)),
            milestones,
            warmup: self.warmup,
            precision: self.precision,
            select: self.select,
            augment: if self.no_augment { Augment::None } else { Augment::CropFlip },
            freeze: self.freeze,
            ..Config::new(method)
        };
        config.validate()?;
        let seeds = self.seeds.as_ref().map_or(&[self.seed][..], |Seeds(list)| list).to_vec();
        Ok(seeds.into_iter().map(|seed| Config { seed, ..config.clone() }).collect())
    }

    fn method(&self) -> Result<Method> {
        let Method { mut mix, mut loss, mut rule } = preset(&self.method)?;
        if let Some(name) = self.mix {
            mix = match name {
                MixName::None => Mix::None,
                MixName::Mixup => Mix::MIXUP,
                MixName::Remix => Mix::REMIX,
                MixName::CutMix => Mix::CUTMIX,
                MixName::RemixCutMix => Mix::REMIX_CUTMIX,
                MixName::ManifoldMixup => Mix::MANIFOLD_MIXUP,
                MixName::RemixManifold => Mix::REMIX_MANIFOLD,
            };
        }
        if let Some(name) = self.loss {
            loss = match name {
                LossName::Ce => Loss::Ce,
                LossName::Focal => Loss::FOCAL,
                LossName::BalancedSoftmax => Loss::BalancedSoftmax,
                LossName::LogitAdjustment => Loss::LOGIT_ADJUSTMENT,
                LossName::Ldam => Loss::LDAM,
            };
        }
        if let Some(name) = self.rule {
            rule = match name {
                RuleName::None => Rule::None,
                RuleName::Rs => Rule::Rs(Draw::EFFECTIVE),
                RuleName::Rw => Rule::Rw(Reweight::EFFECTIVE),
                RuleName::Drs => Rule::Drs(Draw::EFFECTIVE),
                RuleName::Drw => Rule::Drw(Reweight::EFFECTIVE),
            };
        }

        let (mut alpha, mut kappa, mut tau, mut lambda_per) = (None, None, None, None);
        match &mut mix {
            Mix::None => {}
            Mix::Mixup { alpha: a, lambda_per: per }
            | Mix::CutMix { alpha: a, lambda_per: per }
            | Mix::ManifoldMixup { alpha: a, lambda_per: per } => {
                (alpha, lambda_per) = (Some(a), Some(per));
            }
            Mix::Remix { alpha: a, kappa: k, tau: t, lambda_per: per }
            | Mix::RemixCutMix { alpha: a, kappa: k, tau: t, lambda_per: per }
            | Mix::RemixManifold { alpha: a, kappa: k, tau: t, lambda_per: per } => {
                (alpha, kappa, tau, lambda_per) = (Some(a), Some(k), Some(t), Some(per));
            }
        }
        set("alpha", self.alpha, alpha, "--mix mixup or another mix")?;
        set("kappa", self.kappa, kappa, "--mix remix or another of remix")?;
        set("tau", self.tau, tau, "--mix remix or another of remix")?;
        set("lambda-per", self.lambda_per.map(Into::into), lambda_per, "--mix mixup or another mix")?;

        let (mut gamma, mut la_tau, mut margin) = (None, None, None);
        match &mut loss {
            Loss::Ce | Loss::BalancedSoftmax => {}
            Loss::Focal { gamma: g } => gamma = Some(g),
            Loss::LogitAdjustment { la_tau: t } => la_tau = Some(t),
            Loss::Ldam { margin: m } => margin = Some(m),
        }
        set("gamma", self.gamma, gamma, "--loss focal")?;
        set("la-tau", self.la_tau, la_tau, "--loss logit-adjustment")?;
        set("margin", self.margin, margin, "--loss ldam")?;

        let draw = match &mut rule {
            Rule::Rs(draw) | Rule::Drs(draw) => Some(draw),
            _ => None,
        };
        let asked = self.rs.map(|name| match name {
            DrawName::Effective => Draw::EFFECTIVE,
            DrawName::Inverse => Draw::Inverse,
        });
        set("rs", asked, draw, "--rule rs or --rule drs")?;
        let (mut beta, mut rw_norm) = (None, None);
        match &mut rule {
            Rule::Rs(Draw::Effective { beta: b }) | Rule::Drs(Draw::Effective { beta: b }) => beta = Some(b),
            Rule::Rw(w) | Rule::Drw(w) => (beta, rw_norm) = (Some(&mut w.beta), Some(&mut w.rw_norm)),
            _ => {}
        }
        set("beta", self.beta, beta, "--rule rw or drw, or --rule rs or drs with --rs effective")?;
        set("rw-norm", self.rw_norm.map(Into::into), rw_norm, "--rule rw or --rule drw")?;
        Ok(Method { mix, loss, rule })
    }
}

/// Sets an option of the method, which has no `place` for it if the option would do nothing.
fn set<T>(flag: &str, asked: Option<T>, place: Option<&mut T>, needs: &str) -> Result<()> {
    match (asked, place) {
        (None, _) => Ok(()),
        (Some(value), Some(place)) => {
            *place = value;
            Ok(())
        }
        (Some(_), None) => bail!("--{flag}: does nothing with this method; it needs {needs}"),
    }
}

#[cfg(test)]
#[path = "flags_tests.rs"]
mod tests;
