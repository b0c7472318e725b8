//! The flags of `mk-imbalance`, and what they mean together.

use std::num::IntErrorKind;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};

use crate::cli::{Common, VERSION, negative_values, only_cpu, whole_number};
use crate::data::Normalise;
use crate::data::files::decode::MAX_PIXELS;
use crate::data::files::{Preprocess, Reading};
use crate::data::imbalance::Profile;
use crate::data::listing::Cut;

/// Build an imbalanced data set, from official files or from image files of your own
///
/// Reads CIFAR-10 or CIFAR-100 in the binary or the python format, or image files in folders, in lists or in
/// the layout of CINIC-10, Tiny-ImageNet, ImageNet-LT, Places-LT or iNaturalist. Chooses a long-tailed (exp)
/// or step subset of the training images, or all of them, and writes it together with the held-out images as
/// memory-mapped safetensors shards. For CIFAR and the same --rand-number, the subset is exactly that of the
/// reference code (LDAM-DRW's IMBALANCECIFAR10 and IMBALANCECIFAR100). Prints the manifest of the data set on
/// stdout, ready for train.
#[derive(Parser, Debug)]
#[command(name = "mk-imbalance", version = VERSION, after_help = EXAMPLES)]
#[command(mut_args(negative_values), mut_arg("device", only_cpu))]
pub struct Flags {
    /// Data set to start from
    #[arg(long, value_enum, value_name = "SET")]
    pub dataset: Name,

    /// Path of the files of the data set
    ///
    /// For CIFAR: the .tar.gz, the directory it unpacks to, or a directory that contains either
    /// (scripts/fetch-cifar downloads the archives). For image files: the directory that contains them.
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,

    /// List of the training images (--dataset list)
    ///
    /// The lines are `path label`, or `path` with the class as its first directory, or the file is CSV with
    /// the columns path and label. Paths are relative to --data.
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub train_list: Option<PathBuf>,

    /// List of the validation images (--dataset list)
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub val_list: Option<PathBuf>,

    /// List of the test images (--dataset list)
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub test_list: Option<PathBuf>,

    /// Annotations of the training images, such as train2018.json (--dataset inaturalist)
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub train_json: Option<PathBuf>,

    /// Annotations of the held-out images, such as val2018.json (--dataset inaturalist)
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub val_json: Option<PathBuf>,

    /// Side of the square images that the network takes, in pixels [default: 32 for cinic10, 64 for
    /// tiny-imagenet, 224 for inaturalist]
    ///
    /// The shorter side is resized to N, and a square is cut from the centre, as torchvision's Resize(N) and
    /// CenterCrop(N) do.
    #[arg(long, value_name = "N", help_heading = IMAGES, value_parser = whole_number::<u32>(1, 4096))]
    pub size: Option<u32>,

    /// Side of the stored square images in pixels, if larger than --size: training takes random crops of
    /// them, evaluation the centre crop
    #[arg(long, value_name = "N", help_heading = IMAGES, value_parser = whole_number::<u32>(1, 4096))]
    pub resize: Option<u32>,

    /// Resize the whole image to a square without keeping its aspect ratio, instead of cropping the centre
    #[arg(long, help_heading = IMAGES)]
    pub squash: bool,

    /// Channel means and standard deviations that training and evaluation normalise by: measured, imagenet,
    /// cifar, or three of each, such as "0.5,0.5,0.5;0.2,0.2,0.2" [default: measured on the training images;
    /// cifar for CIFAR and synthetic]
    #[arg(long, value_name = "HOW", help_heading = IMAGES, value_parser = normalise)]
    pub normalise: Option<Normalisation>,

    /// Share of the images of each class to hold out as test split, if the source has none [default: 0.2]
    #[arg(long, value_name = "F", help_heading = IMAGES)]
    pub test_fraction: Option<f64>,

    /// Seed for the choice of held-out images [default: 0]
    #[arg(long, value_name = "N", help_heading = IMAGES)]
    #[arg(value_parser = whole_number::<u32>(0, u32::MAX.into()))]
    pub split_seed: Option<u32>,

    /// How classes are numbered: lexical (as torchvision's ImageFolder), natural (10 after 2), frequency
    /// (most training images first), or a file with one name per line [default: lexical; lists keep their
    /// numbers]
    #[arg(long, value_name = "ORDER|FILE", help_heading = IMAGES)]
    pub class_order: Option<String>,

    /// File with the names of the classes in the order of their labels, one per line
    #[arg(long, value_name = "FILE", help_heading = IMAGES)]
    pub class_names: Option<PathBuf>,

    /// Leave out classes without training images
    #[arg(long, help_heading = IMAGES)]
    pub drop_empty: bool,

    /// What to do about images that cannot be read: fail, or skip and list them in the manifest [default: fail]
    #[arg(long, value_name = "WHAT", value_enum, help_heading = IMAGES)]
    pub on_error: Option<OnError>,

    /// Refuse images with more pixels than this [default: 178956970]
    #[arg(long, value_name = "N", help_heading = IMAGES, value_parser = whole_number::<u64>(1, u64::MAX))]
    pub max_pixels: Option<u64>,

    /// Profile of the class sizes [default: exp for CIFAR and synthetic, none for image files]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub imb_type: Option<ImbType>,

    /// Size of the largest class divided by that of the smallest (--imb-type exp or step) [default: 100]
    #[arg(long, value_name = "R")]
    pub imb_ratio: Option<f64>,

    /// Size of the largest class of the profile (image files) [default: that of the largest class found]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1, u64::MAX))]
    pub max_per_class: Option<u32>,

    /// Seed for the choice of images, as numpy.random.seed(N) in the reference code [default: 0]
    #[arg(long, value_name = "N", visible_alias = "seed")]
    #[arg(value_parser = whole_number::<u32>(0, u32::MAX.into()))]
    pub rand_number: Option<u32>,

    /// Share of the classes that are small, rounded up to a whole number of classes (--imb-type step)
    /// [default: 0.5]
    #[arg(long, value_name = "F")]
    pub minority_fraction: Option<f64>,

    /// Share of the training images to hold out for validation
    ///
    /// They are held out before the imbalance is introduced. For CIFAR and synthetic, the same number is
    /// taken from each class, so that the split is balanced like the test set, and the profile is applied to
    /// the remaining images; with 0, the training subset is exactly that of the reference code. For image
    /// files, this share of each class is taken, chosen by --split-seed.
    #[arg(long, value_name = "F", default_value_t = 0.0)]
    pub val_fraction: f64,

    /// Maximum size of a shard in bytes; the suffixes K, M and G stand for powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub shard_bytes: u64,

    /// Training images per class before the imbalance (--dataset synthetic) [default: 500]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1, 1_000_000))]
    pub train_per_class: Option<u32>,

    /// Test images per class (--dataset synthetic) [default: 100]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1, 1_000_000))]
    pub test_per_class: Option<u32>,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

const IMAGES: &str = "Image files";

const EXAMPLES: &str = "\
Examples:
  mk-imbalance --dataset cifar10 --data ~/data --imb-type exp --imb-ratio 100 | train --method remix
  mk-imbalance --dataset cifar100 --data cifar-100-python.tar.gz --imb-type step --imb-ratio 10 --out data/c100-step
  mk-imbalance --dataset synthetic --imb-ratio 50 --val-fraction 0.1
  mk-imbalance --dataset folder --data photographs --size 64
  mk-imbalance --dataset list --data imagenet --train-list ImageNet_LT_train.txt --test-list ImageNet_LT_test.txt --resize 256 --size 224 --normalise imagenet

The result goes to a directory in data/ that is named after the data set, its parameters and its key, unless \
--out names another directory. Repeating a command returns the existing result at once.";

/// Data sets to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// 50,000 training and 10,000 test images of 10 classes
    Cifar10,
    /// 50,000 training and 10,000 test images of 100 classes (fine labels)
    Cifar100,
    /// Procedural textures and shapes, 10 classes; needs no files
    Synthetic,
    /// Image files in one folder per class; these folders may be inside train, val (or valid) and test
    Folder,
    /// Image files that are named in lists
    List,
    /// Image files with annotations in the format of iNaturalist 2018
    Inaturalist,
    /// CINIC-10: 90,000 images each for training, validation and testing, of 10 classes
    Cinic10,
    /// Tiny-ImageNet-200 in its original layout
    TinyImagenet,
}

impl Name {
    /// Returns whether the data set consists of image files.
    pub fn is_files(self) -> bool {
        match self {
            Name::Cifar10 | Name::Cifar100 | Name::Synthetic => false,
            Name::Folder | Name::List | Name::Inaturalist | Name::Cinic10 | Name::TinyImagenet => true,
        }
    }
}

/// Profiles of the class sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImbType {
    /// Long-tailed: class sizes fall exponentially
    Exp,
    /// The first classes are large, the others small
    Step,
    /// All images, in file order
    None,
}

/// What to do about images that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Exit with an error that names them
    Fail,
    /// Leave them out and exit with 1
    Skip,
}

/// Where the values that normalise the channels come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalisation {
    /// Mean and standard deviation of the training images.
    Measured,
    /// Given values.
    By(Normalise),
}

impl Flags {
    /// Refuses flags that would have no effect.
    ///
    /// # Errors
    /// Returns an error if a flag belongs to another data set or profile, if a required flag is missing, or
    /// if a share is out of its range.
    pub fn check(&self) -> Result<()> {
        let synthetic = self.dataset == Name::Synthetic;
        let (files, list) = (self.dataset.is_files(), self.dataset == Name::List);
        let inaturalist = self.dataset == Name::Inaturalist;
        let image_files = "image files (--dataset folder, list, inaturalist, cinic10 or tiny-imagenet)";
        let idle = [
            ("data", self.data.is_some() && synthetic, "another --dataset; synthetic images are generated"),
            (
                "imb-ratio",
                self.imb_ratio.is_some() && self.imb_type() == ImbType::None,
                "--imb-type exp or step",
            ),
            (
                "minority-fraction",
                self.minority_fraction.is_some() && self.imb_type() != ImbType::Step,
                "--imb-type step",
            ),
            (
                "rand-number",
                self.rand_number.is_some() && !self.is_drawn(),
                if files {
                    "--imb-type exp or step, or --max-per-class"
                } else {
                    "--imb-type exp or step, or --val-fraction"
                },
            ),
            ("train-per-class", self.train_per_class.is_some() && !synthetic, "--dataset synthetic"),
            ("test-per-class", self.test_per_class.is_some() && !synthetic, "--dataset synthetic"),
            ("train-list", self.train_list.is_some() && !list, "--dataset list"),
            ("val-list", self.val_list.is_some() && !list, "--dataset list"),
            ("test-list", self.test_list.is_some() && !list, "--dataset list"),
            ("train-json", self.train_json.is_some() && !inaturalist, "--dataset inaturalist"),
            ("val-json", self.val_json.is_some() && !inaturalist, "--dataset inaturalist"),
            ("size", self.size.is_some() && !files, image_files),
            ("resize", self.resize.is_some() && !files, image_files),
            ("squash", self.squash && !files, image_files),
            ("test-fraction", self.test_fraction.is_some() && !files, image_files),
            ("split-seed", self.split_seed.is_some() && !files, image_files),
            ("class-order", self.class_order.is_some() && !files, image_files),
            ("class-names", self.class_names.is_some() && !files, image_files),
            ("drop-empty", self.drop_empty && !files, image_files),
            ("max-per-class", self.max_per_class.is_some() && !files, image_files),
            ("on-error", self.on_error.is_some() && !files, image_files),
            ("max-pixels", self.max_pixels.is_some() && !files, image_files),
        ];
        if let Some((flag, _, needs)) = idle.iter().find(|(_, idle, _)| *idle) {
            bail!("--{flag}: does nothing here; it needs {needs}");
        }
        if self.data.is_none() && !synthetic {
            bail!("--data PATH is required: the directory of the files, or the official archive");
        }
        if list && self.train_list.is_none() {
            bail!("--train-list FILE is required: the list of the training images, in lines `path label`");
        }
        if inaturalist && self.train_json.is_none() {
            bail!(
                "--train-json FILE is required: the annotations of the training images, such as \
                 train2018.json"
            );
        }
        let Cut { test, val, .. } = self.cut();
        if files && !(test > 0.0 && test < 1.0) {
            bail!("--test-fraction {test}: must be above 0 and below 1");
        }
        if files && !(0.0..1.0).contains(&val) {
            bail!("--val-fraction {val}: must be at least 0 and below 1");
        }
        Ok(())
    }

    /// Returns the type of the profile.
    pub fn imb_type(&self) -> ImbType {
        let usual = if self.dataset.is_files() { ImbType::None } else { ImbType::Exp };
        self.imb_type.unwrap_or(usual)
    }

    /// Returns the ratio of the profile.
    pub fn ratio(&self) -> f64 {
        self.imb_ratio.unwrap_or(100.0)
    }

    /// Returns the share of small classes of a step profile.
    pub fn minority_fraction(&self) -> f64 {
        self.minority_fraction.unwrap_or(0.5)
    }

    /// Returns the seed for the choice of images.
    pub fn rand_number(&self) -> u32 {
        self.rand_number.unwrap_or(0)
    }

    /// Returns whether images are drawn with that seed, and not all taken in file order. The hold-out of image
    /// files has a seed of its own.
    pub fn is_drawn(&self) -> bool {
        let is_held_out = self.val_fraction > 0.0 && !self.dataset.is_files();
        self.imb_type() != ImbType::None || self.max_per_class.is_some() || is_held_out
    }

    /// Returns what to do about images that cannot be read.
    pub fn on_error(&self) -> OnError {
        self.on_error.unwrap_or(OnError::Fail)
    }

    /// Returns the profile.
    pub fn profile(&self) -> Profile {
        let ratio = self.ratio();
        match self.imb_type() {
            ImbType::Exp => Profile::Exp { ratio },
            ImbType::Step => Profile::Step { ratio, minority_fraction: self.minority_fraction() },
            ImbType::None => Profile::None,
        }
    }

    /// Returns the shares of image files that are held out.
    pub fn cut(&self) -> Cut {
        Cut {
            test: self.test_fraction.unwrap_or(0.2),
            val: self.val_fraction,
            seed: self.split_seed.unwrap_or(0),
        }
    }

    /// Returns how image files are read and preprocessed.
    ///
    /// # Errors
    /// Returns an error if there is no size, or if it is not smaller than the stored size.
    pub fn reading(&self) -> Result<Reading> {
        let usual = match self.dataset {
            Name::Cinic10 => Some(32),
            Name::TinyImagenet => Some(64),
            Name::Inaturalist => Some(224),
            _ => None,
        };
        let Some(size) = self.size.or(usual) else {
            bail!("--size N is required: the side of the images in pixels, such as 32, 64 or 224");
        };
        if let Some(resize) = self.resize.filter(|resize| *resize <= size) {
            bail!("--resize {resize}: must be larger than --size {size}, or be omitted");
        }
        let (size, resize) = (size as usize, self.resize.map(|n| n as usize));
        let preprocess = Preprocess { size, resize, squash: self.squash };
        Ok(Reading { preprocess, max_pixels: self.max_pixels.unwrap_or(MAX_PIXELS) })
    }
}

/// Returns the name of a flag's value.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

fn normalise(text: &str) -> Result<Normalisation, String> {
    let given = || -> Option<Normalise> {
        let (mean, std) = text.split_once(';')?;
        let three = |text: &str| -> Option<[f64; 3]> {
            let all: Vec<f64> = text.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>().ok()?;
            all.try_into().ok()
        };
        Some(Normalise { mean: three(mean)?, std: three(std)? }).filter(Normalise::is_sound)
    };
    match text {
        "measured" => Ok(Normalisation::Measured),
        "imagenet" => Ok(Normalisation::By(Normalise::IMAGENET)),
        "cifar" => Ok(Normalisation::By(Normalise::CIFAR)),
        _ => given().map(Normalisation::By).ok_or_else(|| {
            "expected measured, imagenet, cifar, or three means and three positive standard deviations, as \
             \"0.5,0.5,0.5;0.2,0.2,0.2\""
                .into()
        }),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1u64),
    };
    match digits.parse::<u64>().map(|n| n.checked_mul(unit)) {
        Ok(Some(bytes)) => Ok(bytes),
        Err(e) if *e.kind() != IntErrorKind::PosOverflow => {
            Err("expected a number of bytes, such as 67108864 or 64M".into())
        }
        _ => Err("the number is too large".into()),
    }
}

#[cfg(test)]
mod tests;
