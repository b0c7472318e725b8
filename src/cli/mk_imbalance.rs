//! `mk-imbalance`: builds an imbalanced data set from the official files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use super::Common;
use crate::data::cifar::{self, CIFAR10, CIFAR100};
use crate::data::imbalance::{self, Profile};
use crate::data::{CHANNELS, SIDE, Source, shard, synthetic};
use crate::interrupt::{self, Interrupted};
use crate::manifest::store::{Done, Plan, TEMPORARY, Writer, rename};
use crate::manifest::{Input, Kind, Object, hash, key};
use crate::report::settings::departs;

/// Raised when the same parameters would give other images.
const SEMANTICS: u32 = 1;

/// Build an imbalanced data set from the official CIFAR files
///
/// Reads CIFAR-10 or CIFAR-100 in the binary or the python form, chooses a long-tailed (exp) or step subset,
/// and writes it as memory-mapped safetensors shards, with the balanced official test set beside it. The
/// subset is exactly the one of the reference code (LDAM-DRW's IMBALANCECIFAR10 and IMBALANCECIFAR100) for
/// the same --rand-number. Prints the manifest of the data set on stdout, ready for train.
#[derive(Parser, Debug)]
#[command(name = "mk-imbalance", version = super::VERSION, after_help = EXAMPLES)]
pub struct Flags {
    /// Data set to start from
    #[arg(long, value_enum, value_name = "SET")]
    pub dataset: Name,

    /// Where the official files are: a .tar.gz, the directory it unpacks to, or a directory that holds either
    ///
    /// A torchvision root works. Get the files with scripts/fetch-cifar.
    #[arg(long, value_name = "PATH", required_if_eq_any([("dataset", "cifar10"), ("dataset", "cifar100")]))]
    pub data: Option<PathBuf>,

    /// Profile of the class sizes
    #[arg(long, value_enum, value_name = "TYPE", default_value = "exp")]
    pub imb_type: ImbType,

    /// Size of the largest class over the smallest (exp, step) [default: 100]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub imb_ratio: Option<f64>,

    /// Seed of the draw: numpy.random.seed(N) of the reference code
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        visible_alias = "seed",
        allow_negative_numbers = true
    )]
    pub rand_number: u32,

    /// Share of the classes that are small, rounded up to whole ones (step) [default: 0.5]
    #[arg(long, value_name = "F", allow_negative_numbers = true)]
    pub minority_fraction: Option<f64>,

    /// Share of the training images to hold out for validation, equally from each class
    ///
    /// They are taken before the imbalance: the split is balanced like the test set, and the profile is
    /// applied to the images that are left. With 0 the training subset is exactly the reference's.
    #[arg(long, value_name = "F", default_value_t = 0.0, allow_negative_numbers = true)]
    pub val_fraction: f64,

    /// Largest size of a shard; K, M and G are powers of 1024
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = parse_bytes)]
    pub shard_bytes: u64,

    /// Training images of each class before the imbalance (synthetic) [default: 500]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub train_per_class: Option<u32>,

    /// Test images of each class (synthetic) [default: 100]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub test_per_class: Option<u32>,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

const EXAMPLES: &str = "\
Examples:
  mk-imbalance --dataset cifar10 --data ~/data --imb-type exp --imb-ratio 100 | train --method remix
  mk-imbalance --dataset cifar100 --data cifar-100-python.tar.gz --imb-type step --imb-ratio 10 --out data/c100-step
  mk-imbalance --dataset synthetic --imb-ratio 50 --val-fraction 0.1

The result goes to data/DATASET-TYPE-RATIO-KEY unless --out says otherwise. The same command again answers at once.";

/// Data sets.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Name {
    /// 50,000 training and 10,000 test images of 10 classes
    Cifar10,
    /// 50,000 training and 10,000 test images of 100 classes (fine labels)
    Cifar100,
    /// Procedural textures and shapes, 10 classes; needs no files
    Synthetic,
}

/// Profiles.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ImbType {
    /// Long-tailed: class sizes fall exponentially
    Exp,
    /// The first classes are large, the others small
    Step,
    /// All images, in file order
    None,
}

/// The tool.
pub fn main() -> ExitCode {
    super::main("mk-imbalance", |a: &Flags| &a.common, run)
}

/// Where the images come from.
enum Origin {
    Files(cifar::Located),
    Synthetic { train: usize, test: usize },
}

fn run(flags: Flags) -> Result<()> {
    flags.check()?;
    let locate = |d: cifar::Dataset| -> Result<_> {
        let path = flags.data.as_deref().context("--data PATH: where are the official files?")?;
        Ok((Origin::Files(d.locate(path)?), d.classes, d.train_per_class()))
    };
    let (origin, classes, each) = match flags.dataset {
        Name::Cifar10 => locate(CIFAR10)?,
        Name::Cifar100 => locate(CIFAR100)?,
        Name::Synthetic => {
            let [train, test] = [flags.train_per_class.unwrap_or(500), flags.test_per_class.unwrap_or(100)]
                .map(|n| n as usize);
            (Origin::Synthetic { train, test }, synthetic::CLASSES.len(), train)
        }
    };
    // A profile that cannot be is told before any file is read.
    imbalance::counts(flags.profile(), flags.val_fraction, classes, each)?;
    let plan = plan(&flags, &origin)?;
    super::run_plan(&plan, &flags.common, |writer| build(&flags, &origin, writer))?;
    Ok(())
}

impl Flags {
    /// Refuses what would do nothing.
    fn check(&self) -> Result<()> {
        let synthetic = self.dataset == Name::Synthetic;
        let idle = [
            (
                "imb-ratio",
                self.imb_ratio.is_some() && self.imb_type == ImbType::None,
                "--imb-type exp or step",
            ),
            (
                "minority-fraction",
                self.minority_fraction.is_some() && self.imb_type != ImbType::Step,
                "--imb-type step",
            ),
            ("train-per-class", self.train_per_class.is_some() && !synthetic, "--dataset synthetic"),
            ("test-per-class", self.test_per_class.is_some() && !synthetic, "--dataset synthetic"),
        ];
        match idle.iter().find(|(_, idle, _)| *idle) {
            Some((flag, _, needs)) => bail!("--{flag}: does nothing here; it needs {needs}"),
            None => Ok(()),
        }
    }

    fn ratio(&self) -> f64 {
        self.imb_ratio.unwrap_or(100.0)
    }

    fn minority_fraction(&self) -> f64 {
        self.minority_fraction.unwrap_or(0.5)
    }

    fn profile(&self) -> Profile {
        let ratio = self.ratio();
        match self.imb_type {
            ImbType::Exp => Profile::Exp { ratio },
            ImbType::Step => Profile::Step { ratio, minority_fraction: self.minority_fraction() },
            ImbType::None => Profile::None,
        }
    }
}

/// Parameters that apply, inputs by content, and the directory.
fn plan(flags: &Flags, origin: &Origin) -> Result<Plan> {
    let dataset = name(flags.dataset);
    let imb_type = name(flags.imb_type);
    let mut params = Object::new();
    let mut set = |name: &str, value: Value| params.insert(name.into(), value);
    let mut inputs = vec![];
    set("dataset", json!(dataset));
    match origin {
        Origin::Synthetic { train, test } => {
            set("train_per_class", json!(train));
            set("test_per_class", json!(test));
        }
        Origin::Files(files) => {
            for (role, path) in files.files() {
                let blake3 = hash::file(&path)?;
                let (role, params) = (role.to_owned(), Object::new());
                inputs.push(Input {
                    role,
                    key: None,
                    path,
                    blake3,
                    params,
                    facts: Object::new(),
                    inputs: vec![],
                });
            }
        }
    }
    set("imb_type", json!(imb_type));
    let mut place = format!("{dataset}-{imb_type}");
    if flags.imb_type != ImbType::None {
        set("imb_ratio", number(flags.ratio()));
        place = format!("{place}-{}", flags.ratio());
    }
    if flags.imb_type == ImbType::Step {
        set("minority_fraction", number(flags.minority_fraction()));
    }
    set("val_fraction", number(flags.val_fraction));
    // All images in file order: nothing is drawn.
    if flags.imb_type != ImbType::None || flags.val_fraction > 0.0 {
        set("rand_number", json!(flags.rand_number));
    }
    set("shard_bytes", json!(flags.shard_bytes));
    let mut plan =
        Plan { kind: Kind::Dataset, semantics: SEMANTICS, params, inputs, dir: PathBuf::new(), file: None };
    let key = plan.key();
    plan.dir = match &flags.common.out {
        Some(out) => out.clone(),
        None => {
            // As earlier versions called it, if it is there.
            let earlier = Path::new("data").join(format!("{place}-{}", key::short(&key)));
            let told =
                ["minority_fraction", "val_fraction", "rand_number", "train_per_class", "test_per_class"];
            let told = told.iter().filter_map(|name| plan.params.get_key_value(*name));
            let told = told.filter(|(name, value)| departs(name, value));
            let told: String = told.map(|(n, v)| format!("-{}-{v}", n.replace('_', "-"))).collect();
            let now = Path::new("data").join(format!("{place}{told}-{}", key::short(&key)));
            if earlier.exists() { earlier } else { now }
        }
    };
    Ok(plan)
}

/// The name of a flag's value.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
}

/// 100 and 100.0 are one number, −0 is 0.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 2f64.powi(53) { json!(value as i64) } else { json!(value) }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1u64),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    let bytes = bytes.ok_or("expected bytes, such as 67108864 or 64M")?;
    let least = shard::MIN_SHARD_BYTES as u64;
    if bytes < least {
        return Err(format!("one image needs {least} bytes"));
    }
    Ok(bytes)
}

/// Reads, draws and writes. What stands in the directory stays until the new shards are safely on disk.
fn build(flags: &Flags, origin: &Origin, writer: &Writer) -> Result<Done> {
    let (source, official) = match origin {
        Origin::Files(files) => {
            let source = files.read()?;
            let official = files.is_official(&source);
            if !official {
                log::warn!(
                    "these are not the published images or labels: their hash is another; the manifest says so"
                );
            }
            (source, Some(official))
        }
        Origin::Synthetic { train, test } => (synthetic::generate(*train, *test), None),
    };
    let Source { class_names, train, test } = source;
    let classes = class_names.len();
    let draw =
        imbalance::draw(train.labels(), classes, flags.profile(), flags.val_fraction, flags.rand_number)?;
    let all: Vec<u32> = (0..test.len() as u32).collect();
    let shard_bytes = usize::try_from(flags.shard_bytes).unwrap_or(usize::MAX);
    let splits: [shard::Chosen; 3] =
        [("train", &train, &draw.train), ("val", &train, &draw.val), ("test", &test, &all)];
    writer.begin(&shard::names(&splits, shard_bytes))?;
    let staging = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(writer.dir())?;
    let outputs = shard::write(staging.path(), &splits, shard_bytes)?;
    if interrupt::requested() {
        return Err(Interrupted.into());
    }
    writer.withdraw()?;
    for o in &outputs {
        rename(&staging.path().join(&o.name), &writer.dir().join(&o.name))?;
    }
    let (mean, std) = train.mean_std(&draw.train);
    let mut metrics = json!({
        "classes": classes,
        "class_names": class_names,
        "cls_num_list": draw.cls_num_list,
        "mean": mean,
        "std": std,
        "height": SIDE,
        "width": SIDE,
        "channels": CHANNELS,
        "train": draw.train.len(),
        "val": draw.val.len(),
        "test": test.len(),
    });
    metrics["images"] = splits
        .iter()
        .filter(|(.., chosen)| !chosen.is_empty())
        .map(|(split, images, chosen)| ((*split).to_owned(), Value::from(images.digest(chosen, classes))))
        .collect();
    if let Some(official) = official {
        metrics["official"] = official.into();
    }
    let Value::Object(metrics) = metrics else { unreachable!("an object literal") };
    Ok(Done { outputs, metrics, run: Object::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_suffixes() {
        assert_eq!(parse_bytes("64M"), Ok(64 << 20));
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("8k"), Ok(8192));
        for bad in
            ["", "M", "1.5M", "-1", "64MB", "99999999999999999999", "18446744073709551615G", "1K", "6µ"]
        {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Flags::command().debug_assert();
    }
}
