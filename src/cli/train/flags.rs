//! The flags of `train`, and how they become validated configurations: the recipe first, then the flags that
//! override it.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use clap::error::ErrorKind;
use clap_complete::{ArgValueCandidates, ArgValueCompleter};

use super::given::GivenFlags;
use super::options::{Given, names};
use super::values::{ClassifierName, Jitter, Milestones, RandAugment, Seeds, TauNorm, methods};
use crate::cli::generate::architectures;
use crate::cli::sweep::Sweep;
use crate::cli::usage::flags_fault;
use crate::cli::{Common, VERSION, negative_values, whole_number};
use crate::methods::choice::{Choice, Kind, Setting};
use crate::methods::classifier::Classifier;
use crate::methods::loss::LossKind;
use crate::methods::mix::MixKind;
use crate::methods::presets::{Method, listed, preset};
use crate::methods::rule::RuleKind;
use crate::net::Arch;
use crate::train::config::{
    Augment, Config, Freeze, MAX_BATCH_SIZE, MAX_CROP_PADDING, MOMENTUM, Precision, Schedule, Select,
};
use crate::train::recipe::{Recipe, RecipeName};
use crate::train::schedule::Origin;

fn examples() -> String {
    format!(
        "{EXAMPLES}\n\nMethods: erm, or {}, such as remix-ldam-drw. A stopped run continues from its \
         last finished epoch when the same command is given again.",
        listed()
    )
}

const EXAMPLES: &str = "\
Examples:
  mk-imbalance --dataset cifar10 --data ~/data --imb-ratio 100 | train --method remix
  train data/cifar10-exp-100-*/manifest.json --method remix-drw --seeds 0-4
  train MANIFEST --mix remix --tau 0.3 --rule rs --rs inverse    any combination of parts and options
  train MANIFEST --method erm --arch resnet20 --epochs 10        a short run, with scaled milestones";

/// Train an image classifier on an imbalanced data set
///
/// Reads manifests of data sets (from mk-imbalance), trains once per seed on each, and prints a checkpoint
/// manifest for each run as it finishes. A run that has already finished is not repeated.
#[derive(Parser, Debug)]
#[command(name = "train", version = VERSION, after_help = examples(), mut_args(negative_values))]
pub struct Flags {
    /// The flags that were given. It is the first field because parsing the others removes them from clap's
    /// matches.
    #[command(flatten)]
    given: GivenFlags,

    /// Manifests (or their directories) of data sets or, with --classifier, of features from embed --splits;
    /// `-` is stdin [default: stdin]
    #[arg(value_name = "DATASET_MANIFEST")]
    pub datasets: Vec<PathBuf>,

    /// Method, such as remix-drw; the flags below override parts of it
    #[arg(short, long, value_name = "NAME", default_value = "erm", help_heading = "Method")]
    #[arg(add = ArgValueCompleter::new(methods))]
    pub method: String,

    /// How images and labels are mixed
    #[arg(long, value_name = "MIX", help_heading = "Method", value_parser = names::<MixKind>())]
    pub mix: Option<String>,

    /// The loss function
    #[arg(long, value_name = "LOSS", help_heading = "Method", value_parser = names::<LossKind>())]
    pub loss: Option<String>,

    /// Re-sampling (rs), re-weighting (rw), or either from --rule-from on (drs, drw)
    #[arg(long, value_name = "RULE", help_heading = "Method", value_parser = names::<RuleKind>())]
    pub rule: Option<String>,

    /// Options of the mix, the loss and the rule.
    #[command(flatten)]
    pub options: Given,

    /// Defaults for the flags below, from a paper or its code; flags that are given take precedence
    ///
    /// report: ResNet-32, 300 epochs, batches of 128, SGD with a learning rate of 0.1 that falls to a tenth
    /// at epochs 150 and 225 (the code of the reproduction report that this project starts from). paper: the
    /// same, but the rate falls at 150 and 250 (the text of the Remix paper). cinic10: paper with
    /// resnet18-cifar. tiny-imagenet: report with resnet18-cifar, 120 epochs, the rate falling at 90, and
    /// crops padded by 8 pixels (the LDAM paper). imagenet-lt: resnet50, 90 epochs, batches of 512, a cosine
    /// schedule from 0.2, weight decay 5e-4, crops of random size, and colour jitter (the
    /// classifier-balancing code). places-lt: the same with 30 epochs. inaturalist: report with resnet50, 90
    /// epochs, batches of 256, the rate falling at 30 and 60, colour jitter, and --alpha 0.4 (the Remix
    /// paper).
    ///
    /// Milestones scale with --epochs. A scaled milestone before epoch 3 is ignored, so with --epochs 3 all
    /// epochs use --lr; --milestones are taken as given.
    #[arg(long, value_name = "RECIPE", value_enum, default_value = "report", help_heading = "Recipe")]
    pub recipe: RecipeName,

    /// Network: resnet20, resnet32, resnet44, resnet56 or resnet110 (the papers' CIFAR networks);
    /// resnet18-cifar or resnet34-cifar (wider, for small images); resnet10, resnet18, resnet34 or resnet50
    /// (for large images) [default: resnet32, or the recipe's]
    #[arg(long, value_name = "ARCH", help_heading = "Recipe")]
    #[arg(add = ArgValueCandidates::new(architectures))]
    pub arch: Option<Arch>,

    /// Number of epochs, each of as many images as the training split has [default: 300, or the recipe's]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1, u64::MAX), help_heading = "Recipe")]
    pub epochs: Option<u32>,

    /// Batch size, in images [default: 128, or the recipe's]
    #[arg(long, value_name = "N", help_heading = "Recipe")]
    #[arg(value_parser = whole_number::<usize>(1, MAX_BATCH_SIZE as u64))]
    pub batch_size: Option<usize>,

    /// Learning rate of SGD [default: 0.1, or the recipe's]
    #[arg(long, value_name = "RATE", help_heading = "Recipe")]
    pub lr: Option<f64>,

    /// Momentum of SGD
    #[arg(long, value_name = "M", default_value_t = MOMENTUM, help_heading = "Recipe")]
    pub momentum: f64,

    /// Use Nesterov momentum
    #[arg(long, help_heading = "Recipe")]
    pub nesterov: bool,

    /// Weight decay, on all parameters [default: 2e-4, or the recipe's]
    #[arg(long, value_name = "W", help_heading = "Recipe")]
    pub weight_decay: Option<f64>,

    /// How the learning rate falls: to a tenth at milestones, or along half a cosine to zero [default: step,
    /// or the recipe's]
    #[arg(long, value_name = "HOW", value_enum, help_heading = "Recipe")]
    pub schedule: Option<Schedule>,

    /// Epochs, counted from 1, at which the learning rate falls to a tenth, such as 100,150; `none` keeps it
    /// constant [default: the recipe's]
    #[arg(long, value_name = "EPOCHS", help_heading = "Recipe")]
    pub milestones: Option<Milestones>,

    /// First epoch of a deferred rule (drs, drw), counted from 1 [default: the last of --milestones, or where
    /// the recipe's last one is or, along a cosine, would be]
    #[arg(long, value_name = "EPOCH", value_parser = whole_number::<u32>(1, u64::MAX), help_heading = "Recipe")]
    pub rule_from: Option<u32>,

    /// Number of warm-up epochs, over which the learning rate rises linearly
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Recipe")]
    #[arg(value_parser = whole_number::<u32>(0, u64::MAX))]
    pub warmup: u32,

    /// Precision of the network's arithmetic
    #[arg(long, value_name = "P", default_value = "f32", help_heading = "Recipe")]
    pub precision: Precision,

    /// Which epoch is kept as best.safetensors, by its accuracy on a split [default: val if the data set has a
    /// validation split, otherwise test]
    ///
    /// `best_top1` is always the accuracy of that epoch on the test split.
    #[arg(long, value_name = "BY", help_heading = "Recipe")]
    pub select: Option<Select>,

    /// Crops and flips of training images [default: crop-flip, or the recipe's]
    #[arg(long, value_name = "HOW", value_enum, help_heading = "Augmentation")]
    pub augment: Option<Augment>,

    /// The same as --augment none: train on the images as they are
    #[arg(long, conflicts_with = "augment", help_heading = "Augmentation")]
    pub no_augment: bool,

    /// Pixels of zero padding for --augment crop-flip, if the stored images are no larger than the network's
    /// input [default: 4, or the recipe's]
    #[arg(long, value_name = "N", help_heading = "Augmentation")]
    #[arg(value_parser = whole_number::<u8>(0, MAX_CROP_PADDING.into()))]
    pub crop_padding: Option<u8>,

    /// Random changes of brightness, contrast and saturation, such as 0.4 or 0.4,0.4,0.2; `none` turns them
    /// off [default: none, or the recipe's]
    #[arg(long, value_name = "X", help_heading = "Augmentation")]
    pub color_jitter: Option<Jitter>,

    /// RandAugment: number of operations per image and their magnitude (0 to 30), such as 2,9
    #[arg(long, value_name = "N,M", help_heading = "Augmentation")]
    pub rand_augment: Option<RandAugment>,

    /// Weights to start from: a checkpoint (its manifest or directory), or a file with PyTorch's parameter
    /// names, as safetensors or as written by torch.save
    ///
    /// The classifier of a checkpoint is kept if its class names are those of the data set; that of a file,
    /// if it has as many classes as the data set. Otherwise the classifier starts from random weights.
    #[arg(long, value_name = "MANIFEST|WEIGHTS", help_heading = "Recipe")]
    pub init: Option<PathBuf>,

    /// Which weights of the --init checkpoint to use: those of its last or of its best epoch [default: last]
    #[arg(long, value_name = "WHICH", value_parser = ["last", "best"], help_heading = "Recipe", requires = "init")]
    pub init_checkpoint: Option<String>,

    /// Part of the network that is not trained
    #[arg(long, value_name = "WHAT", help_heading = "Recipe", requires = "init")]
    pub freeze: Option<Freeze>,

    /// Train or compute a classifier on features, instead of training a network on images
    ///
    /// The result is one file with the new classifier and the network that computed the features, if they
    /// were not imported; for knn, it has the training features and their labels instead. The defaults become
    /// 10 epochs and a cosine schedule; tau-norm, ncm, ncm-cosine and knn are computed without training.
    #[arg(long, value_name = "NAME", value_enum, help_heading = "Second stage")]
    #[arg(conflicts_with_all = ["arch", "init", "freeze", "recipe", "precision", "augment", "no_augment", "crop_padding", "color_jitter", "rand_augment"])]
    pub classifier: Option<ClassifierName>,

    /// tau-norm: the exponent of the norm of the weights, or auto for the best one on the validation split
    /// [default: 0.7]
    #[arg(long, value_name = "TAU|auto", help_heading = "Second stage", requires = "classifier")]
    pub tau_norm: Option<TauNorm>,

    /// knn: number of nearest training images that vote [default: 20]
    #[arg(long, value_name = "K", help_heading = "Second stage", requires = "classifier")]
    #[arg(value_parser = whole_number::<u32>(1, u64::MAX))]
    pub neighbours: Option<u32>,

    /// Train once for each value of a flag that takes a number, such as tau-norm=0:1:0.1; with --out DIR the
    /// runs are in DIR/FLAG-VALUE
    #[arg(long, value_name = "FLAG=FIRST:LAST:STEP", help_heading = "Seeds and files")]
    #[arg(value_parser = Sweep::parser("lr=0.05:0.2:0.05"))]
    pub sweep: Option<Sweep>,

    /// Seed for the initial weights, batches, crops and mixing
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Seeds and files")]
    #[arg(value_parser = whole_number::<u64>(0, u64::MAX))]
    pub seed: u64,

    /// Several runs, one per seed, such as 0-4 or 0-4,7; with --out DIR they are in DIR/seed-N
    #[arg(long, value_name = "LIST", conflicts_with = "seed", help_heading = "Seeds and files")]
    pub seeds: Option<Seeds>,

    /// Number of runs to train side by side on a GPU [default: as many as fit, at most 3]
    #[arg(long, value_name = "N", value_parser = whole_number::<u16>(1, 65_535), help_heading = "Seeds and files")]
    pub parallel: Option<u16>,

    /// Also write an event file for TensorBoard into each run's directory, from log.jsonl
    #[arg(long, help_heading = "Seeds and files")]
    pub tensorboard: bool,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

impl Flags {
    /// Returns the configuration of each run, in the order of the seeds.
    ///
    /// # Errors
    /// Returns an error for unknown methods, options that the method does not have, and values out of range.
    pub fn configs(&self) -> Result<Vec<Config>> {
        let classifier = self.classifier()?;
        let recipe = match classifier {
            None => self.recipe.recipe(),
            Some(classifier) => Recipe::second_stage(classifier.is_trained()),
        };
        let method = self.method(recipe.alpha)?;
        let mut config = Config {
            momentum: self.momentum,
            warmup: self.warmup,
            nesterov: self.nesterov,
            precision: self.precision,
            select: self.select,
            rand_augment: self.rand_augment.map(|RandAugment(asked)| asked),
            freeze: self.freeze,
            classifier,
            ..self.changed(recipe)?.config(method)
        };
        if let Some(Milestones(list)) = &self.milestones {
            config.recipe = Origin::of(list, config.epochs);
            config.milestones.clone_from(list);
            // A deferred rule begins at the last of them.
            config.rule_from = None;
        }
        if let Some(epoch) = self.rule_from {
            if !config.rule.kind.deferred {
                bail!(
                    "--rule-from {epoch}: does nothing here; it needs --rule drs or drw, or a method with one"
                );
            }
            if epoch != config.rule_from() {
                config.recipe = Origin::Custom;
                config.rule_from = Some(epoch).filter(|epoch| config.milestones.last() != Some(epoch));
            }
        }
        config.validate()?;
        let seeds = self.seeds.as_ref().map_or(&[self.seed][..], |Seeds(list)| list).to_vec();
        Ok(seeds.into_iter().map(|seed| Config { seed, ..config.clone() }).collect())
    }

    /// Returns a recipe with the settings that are given by flags, except milestones, which do not scale.
    fn changed(&self, recipe: Recipe) -> Result<Recipe> {
        let augment = match self.no_augment {
            true => Augment::None,
            false => self.augment.unwrap_or(recipe.augment),
        };
        if self.crop_padding.is_some() && augment != Augment::CropFlip {
            bail!("--crop-padding: does nothing here; it needs --augment crop-flip");
        }
        let color_jitter = match (self.color_jitter, augment) {
            (Some(Jitter(asked)), _) => asked,
            (None, Augment::None) => None,
            (None, _) => recipe.color_jitter,
        };
        Ok(Recipe {
            arch: self.arch.unwrap_or(recipe.arch),
            epochs: self.epochs.unwrap_or(recipe.epochs),
            batch_size: self.batch_size.unwrap_or(recipe.batch_size),
            lr: self.lr.unwrap_or(recipe.lr),
            weight_decay: self.weight_decay.unwrap_or(recipe.weight_decay),
            schedule: self.schedule.unwrap_or(recipe.schedule),
            augment,
            crop_padding: self.crop_padding.unwrap_or(recipe.crop_padding),
            color_jitter,
            ..recipe
        })
    }

    /// Returns the flags for each value of `--sweep` in order, or the flags themselves if there is no sweep.
    /// `args` are the arguments of the command line.
    ///
    /// # Errors
    /// Returns an error if the swept flag does not exist, is given as well, does not take such values, or
    /// changes nothing in what is trained.
    pub fn swept(self, args: impl Iterator<Item = OsString>) -> Result<Vec<Flags>> {
        let Some(Sweep { flag, range }) = &self.sweep else { return Ok(vec![self]) };
        if self.given.has(flag) {
            bail!("--sweep {flag}: --{flag} is given as well; omit one of them");
        }
        let args: Vec<OsString> = args.collect();
        let (tool, rest) = args.split_at(args.len().min(1));
        let of = |value: f64| -> Result<Flags> {
            // Not at the end, where a `--` would make it a file.
            let swept = OsString::from(format!("--{flag}={value}"));
            let mut flags = Flags::try_parse_from(tool.iter().chain([&swept]).chain(rest)).map_err(|e| {
                if e.kind() == ErrorKind::UnknownArgument {
                    return anyhow::anyhow!("--sweep {flag}: train has no flag --{flag}");
                }
                anyhow::anyhow!("--sweep {flag}={value}: {}", flags_fault(e))
            })?;
            flags.common.out = flags.common.out.map(|out| out.join(format!("{flag}-{value}")));
            Ok(flags)
        };
        let all = range.values().into_iter().map(of).collect::<Result<Vec<Flags>>>()?;
        if let [first, second, ..] = &all[..]
            && first.configs()? == second.configs()?
        {
            bail!("--sweep {flag}: --{flag} is not a numeric setting of the training, such as lr");
        }
        Ok(all)
    }

    /// Returns the classifier on features, if one is asked for.
    fn classifier(&self) -> Result<Option<Classifier>> {
        let is_tau_norm = self.classifier == Some(ClassifierName::TauNorm);
        if self.tau_norm.is_some() && !is_tau_norm {
            bail!("--tau-norm: does nothing with this classifier; it needs --classifier tau-norm");
        }
        if self.neighbours.is_some() && self.classifier != Some(ClassifierName::Knn) {
            bail!("--neighbours: does nothing with this classifier; it needs --classifier knn");
        }
        let classifier = self.classifier.map(|name| match name {
            ClassifierName::Linear => Classifier::Linear,
            ClassifierName::Cosine => Classifier::Cosine,
            ClassifierName::Lws => Classifier::Lws,
            ClassifierName::TauNorm => {
                let TauNorm(tau_norm) = self.tau_norm.unwrap_or(TauNorm(Some(Classifier::TAU_NORM)));
                Classifier::TauNorm { tau_norm }
            }
            ClassifierName::Ncm => Classifier::Ncm,
            ClassifierName::NcmCosine => Classifier::NcmCosine,
            ClassifierName::Knn => {
                Classifier::Knn { neighbours: self.neighbours.map_or(Classifier::NEIGHBOURS, |n| n as usize) }
            }
        });
        if classifier.is_some_and(|c| !c.is_trained())
            && let Some(flag) = OF_TRAINING.iter().find(|flag| self.given.has(flag))
        {
            bail!("--{flag}: does nothing with this classifier, which is computed without training");
        }
        Ok(classifier)
    }

    /// Returns the method that is asked for; `alpha` is that of the recipe.
    fn method(&self, alpha: Option<f64>) -> Result<Method> {
        fn asked<K: Kind>(name: &Option<String>, usual: Choice<K>) -> Choice<K> {
            name.as_deref().and_then(Choice::named).unwrap_or(usual)
        }
        let Method { mix, loss, rule } = preset(&self.method)?;
        let (mut mix, loss, rule) = (asked(&self.mix, mix), asked(&self.loss, loss), asked(&self.rule, rule));
        if let Some(alpha) = alpha {
            mix = mix.try_with("alpha", Setting::Number(alpha)).unwrap_or(mix);
        }
        self.options.set(Method { mix, loss, rule })
    }
}

/// Flags that do nothing with a classifier that is computed without training.
const OF_TRAINING: [&str; 17] = [
    "epochs",
    "lr",
    "batch-size",
    "schedule",
    "milestones",
    "rule-from",
    "method",
    "mix",
    "loss",
    "rule",
    "seeds",
    "seed",
    "momentum",
    "nesterov",
    "weight-decay",
    "warmup",
    "select",
];

#[cfg(test)]
mod tests;
