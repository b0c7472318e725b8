//! `mk-imbalance`: builds an imbalanced data set from official files, or from image files.

mod build;
mod collection;
mod flags;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::collection::Collection;
pub(super) use self::flags::Flags;
use self::flags::{ImbType, Name, Normalisation, name};
use super::files::check_skipped;
use crate::data::cifar::{self, CIFAR10, CIFAR100};
use crate::data::files::decode;
use crate::data::{CHANNELS, SIDE, imbalance, shard, synthetic};
use crate::manifest::store::{self, Plan};
use crate::manifest::{Input, Kind, Manifest, Object, hash, key};
use crate::report::settings::departs;

/// Version of the images; raised when the same parameters would give others.
const SEMANTICS: u32 = 1;

/// Runs the tool.
pub fn main() -> ExitCode {
    super::main("mk-imbalance", |a: &Flags| &a.common, run)
}

/// Where the images come from.
enum Origin {
    Cifar(cifar::Located),
    Synthetic { train: usize, test: usize },
    Files(Box<Collection>),
}

fn run(flags: Flags) -> Result<()> {
    flags.check()?;
    let locate = |d: cifar::Dataset| -> Result<_> {
        let path =
            flags.data.as_deref().context("--data PATH is required: the path of the official files")?;
        Ok((Origin::Cifar(d.locate(path)?), Some((d.classes, d.train_per_class()))))
    };
    let (origin, balanced) = match flags.dataset {
        Name::Cifar10 => locate(CIFAR10)?,
        Name::Cifar100 => locate(CIFAR100)?,
        Name::Synthetic => {
            let [train, test] = [flags.train_per_class.unwrap_or(500), flags.test_per_class.unwrap_or(100)]
                .map(|n| n as usize);
            (Origin::Synthetic { train, test }, Some((synthetic::CLASSES.len(), train)))
        }
        _ => (Origin::Files(Box::new(Collection::find(&flags)?)), None),
    };
    // An impossible profile is reported before any file is read.
    if let Some((classes, each)) = balanced {
        imbalance::counts(flags.profile(), flags.val_fraction, classes, each)?;
    }
    let side = match &origin {
        Origin::Files(found) => found.reading.preprocess.stored(),
        _ => SIDE,
    };
    let least = shard::min_bytes([side, side, CHANNELS]);
    if flags.shard_bytes < least as u64 {
        bail!("--shard-bytes {}: is too small; one image needs {least} bytes", flags.shard_bytes);
    }
    let plan = plan(&flags, &origin)?;
    if let Origin::Files(found) = &origin {
        let root = found.listing.root.canonicalize().unwrap_or_else(|_| found.listing.root.clone());
        let out = store::absolute(&plan.dir);
        // The part of it that already exists, with links resolved.
        let real = out.ancestors().find_map(|dir| dir.canonicalize().ok());
        if real.is_some_and(|dir| dir.starts_with(&root)) {
            bail!(
                "{}: is inside --data, so it would be read as a directory of images; choose another --out",
                out.display()
            );
        }
    }
    let m = super::run_plan(&plan, &flags.common, |writer| {
        // Trainings may depend on the data set that is there. One whose manifest was edited is restored.
        let is_other = |old: &Manifest| old.own_key() != plan.key() && old.key != plan.key();
        match plan.existing().filter(|old| is_other(old) && !flags.common.force) {
            Some(old) => bail!(
                "holds another data set (differs in {}; --explain shows how); choose another --out, or --force \
                 to replace it",
                super::differences(&old, &plan.manifest())
            ),
            None => build::build(&flags, &origin, writer),
        }
    })?;
    check_skipped(&[m])
}

/// Creates the plan: the parameters that apply, the inputs by content, and the directory.
fn plan(flags: &Flags, origin: &Origin) -> Result<Plan> {
    let dataset = name(flags.dataset);
    let mut params = Object::new();
    params.insert("dataset".into(), json!(dataset));
    let mut inputs = vec![];
    match origin {
        Origin::Synthetic { train, test } => {
            params.insert("train_per_class".into(), json!(train));
            params.insert("test_per_class".into(), json!(test));
        }
        Origin::Cifar(files) => {
            for (role, path) in files.files() {
                let blake3 = hash::file(&path)?;
                inputs.push(Input::new(role, path, blake3));
            }
        }
        Origin::Files(found) => {
            inputs = found.inputs()?;
            found.params(flags, &mut params);
        }
    }
    let mut set = |name: &str, value: Value| params.insert(name.into(), value);
    let imb_type = flags.imb_type();
    set("imb_type", json!(name(imb_type)));
    if imb_type != ImbType::None {
        set("imb_ratio", number(flags.ratio()));
    }
    if imb_type == ImbType::Step {
        set("minority_fraction", number(flags.minority_fraction()));
    }
    set("val_fraction", number(flags.val_fraction));
    if flags.is_drawn() {
        set("rand_number", json!(flags.rand_number()));
    }
    match flags.normalise {
        Some(Normalisation::By(values)) => {
            set("normalise", json!(values));
        }
        Some(Normalisation::Measured) if !flags.dataset.is_files() => {
            set("normalise", json!("measured"));
        }
        _ => {}
    }
    set("shard_bytes", json!(flags.shard_bytes));
    let semantics = if flags.dataset.is_files() { decode::SEMANTICS } else { SEMANTICS };
    let told = told(&params);
    let dir = |key: &str| {
        flags.common.out.clone().unwrap_or_else(|| directory(flags, origin, &told, key::short(key)))
    };
    Ok(Plan::new(Kind::Dataset, semantics, params, inputs, dir))
}

/// Returns the default directory of a data set, such as `data/cifar10-exp-100-KEY` or
/// `data/photographs-64-KEY`; `told` describes further parameters.
fn directory(flags: &Flags, origin: &Origin, told: &str, key: &str) -> PathBuf {
    let (dataset, imb_type) = (name(flags.dataset), name(flags.imb_type()));
    let ratio = match flags.imb_type() {
        ImbType::None => String::new(),
        _ => format!("-{}", flags.ratio()),
    };
    let stem = match origin {
        Origin::Files(found) => {
            let named = !matches!(flags.dataset, Name::Cinic10 | Name::TinyImagenet);
            let own = found.name().filter(|_| named).unwrap_or(dataset);
            let ascii = |c: char| if c.is_ascii() { c } else { '-' };
            let own: String = own.chars().map(ascii).collect();
            let size = found.reading.preprocess.size;
            if flags.imb_type() == ImbType::None {
                format!("{own}-{size}")
            } else {
                format!("{own}-{size}-{imb_type}{ratio}")
            }
        }
        _ => {
            let stem = format!("{dataset}-{imb_type}{ratio}");
            // Earlier versions used this name; the directory is used if it exists.
            let earlier = Path::new("data").join(format!("{stem}-{key}"));
            if earlier.exists() {
                return earlier;
            }
            stem
        }
    };
    Path::new("data").join(format!("{stem}{told}-{key}"))
}

/// Describes the parameters in a directory's name that differ from their defaults, such as
/// `-val-fraction-0.1`.
fn told(params: &Object) -> String {
    let told = [
        "minority_fraction",
        "val_fraction",
        "rand_number",
        "train_per_class",
        "test_per_class",
        "resize",
        "max_per_class",
        "class_order",
        "split_seed",
    ];
    let told = told.iter().filter_map(|name| params.get_key_value(*name));
    let told = told.filter(|(name, value)| departs(name, value));
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    told.map(|(n, v)| format!("-{}-{}", n.replace('_', "-"), text(v))).collect()
}

/// Converts a number so that equal numbers give equal JSON: 100.0 becomes 100, and −0 becomes 0.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 2f64.powi(53) { json!(value as i64) } else { json!(value) }
}
