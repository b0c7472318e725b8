//! `embed --import`: features that were made elsewhere, as a data set for classifiers.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use super::{Flags, SEMANTICS, floats};
use crate::cli::{checkpoints, run_plan};
use crate::data::features;
use crate::data::imbalance::count;
use crate::data::listing::{SPLITS, names_of};
use crate::manifest::store::{Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{Kind, Object, key};
use crate::net::Arch;

/// A file of `--import`.
#[derive(Clone, Debug)]
pub struct Import {
    split: &'static str,
    file: PathBuf,
}

impl FromStr for Import {
    type Err = String;

    fn from_str(text: &str) -> Result<Import, String> {
        let (split, file) =
            text.split_once('=').ok_or("expected SPLIT=FILE, such as train=clip-train.npz")?;
        let split = SPLITS.into_iter().find(|known| *known == split);
        let split = split.ok_or_else(|| format!("a split is {}", SPLITS.join(", ")))?;
        Ok(Import { split, file: file.into() })
    }
}

/// The features of a split in memory.
struct Rows {
    features: Vec<f32>,
    width: usize,
    labels: Vec<u32>,
    ids: Vec<u32>,
}

/// Brings all files into one embedding.
///
/// # Errors
/// Files that hold no features with labels, or whose sizes differ; those of the work.
pub fn run(flags: &Flags) -> Result<()> {
    let all = &flags.import;
    ensure!(
        flags.input.checkpoints.is_empty(),
        "--import: features are made already; leave {} away",
        flags.input.checkpoints[0].display()
    );
    for split in SPLITS {
        let files = all.iter().filter(|import| import.split == split).count();
        ensure!(files < 2, "--import {split}: is given twice");
        ensure!(
            files > 0 || split != "train",
            "--import train=FILE is needed: a classifier is trained on it"
        );
    }
    let mut rows = vec![];
    for split in SPLITS {
        for Import { file, .. } in all.iter().filter(|import| import.split == split) {
            let read = read(file).with_context(|| format!("--import {split}={}", file.display()))?;
            rows.push((split, file, read));
        }
    }
    let width = rows[0].2.width;
    if let Some((split, file, other)) = rows.iter().find(|(.., other)| other.width != width) {
        bail!(
            "--import {split}={}: has {} features an image, train has {width}",
            file.display(),
            other.width
        );
    }
    let most = rows.iter().flat_map(|(.., rows)| &rows.labels).max().map_or(0, |label| *label as usize + 1);
    let class_names = match &flags.class_names {
        Some(file) => names_of(file).context("--class-names")?,
        None => (0..most).map(|label| label.to_string()).collect(),
    };
    let classes = class_names.len();
    ensure!(most <= classes, "--class-names: {classes} names, but there is a label {}", most - 1);
    let counts = count(&rows[0].2.labels, classes);
    if let Some(label) = counts.iter().position(|&n| n == 0) {
        bail!("--import train: class {} has no images", class_names[label]);
    }
    let name = flags.name.clone().unwrap_or_else(|| "imported".into());
    let mut params = Object::new();
    params.insert("dataset".into(), name.clone().into());
    params.insert("imb_type".into(), "none".into());
    params.insert("splits".into(), rows.iter().map(|(split, ..)| *split).collect());
    params.insert("arch".into(), Arch::Features(width).to_string().into());
    if flags.class_names.is_some() {
        params.insert("class_names".into(), crate::data::names_id(&class_names).into());
    }
    let inputs = rows.iter().map(|(split, file, _)| checkpoints::input_of(split, file));
    let inputs = inputs.collect::<Result<_>>()?;
    let (kind, semantics) = (Kind::Embedding, SEMANTICS);
    let mut plan = Plan { kind, semantics, params, inputs, dir: PathBuf::new(), file: None };
    let key = plan.key();
    plan.dir = match &flags.common.out {
        Some(out) => out.clone(),
        None => Path::new("embeddings").join(format!("{name}-{}", key::short(&key))),
    };
    let mut numbers = Object::new();
    numbers.insert("classes".into(), classes.into());
    numbers.insert("class_names".into(), json!(class_names));
    numbers.insert("cls_num_list".into(), json!(counts));
    // There are no images whose channels had some.
    numbers.insert("mean".into(), json!([0.0, 0.0, 0.0]));
    numbers.insert("std".into(), json!([1.0, 1.0, 1.0]));
    numbers.insert("feature_len".into(), width.into());
    run_plan(&plan, &flags.common, |writer| work(writer, &rows, numbers.clone()))?;
    Ok(())
}

fn work(writer: &Writer, rows: &[(&'static str, &PathBuf, Rows)], mut numbers: Object) -> Result<Done> {
    let files: Vec<String> = rows.iter().map(|(split, ..)| features::file(split)).collect();
    writer.begin(&files.iter().map(String::as_str).collect::<Vec<_>>())?;
    writer.withdraw()?;
    let mut outputs = vec![];
    for ((split, _, rows), name) in rows.iter().zip(files) {
        let n = rows.labels.len();
        let values = floats(&rows.features);
        let labels: Vec<u8> = rows.labels.iter().flat_map(|l| i64::from(*l).to_le_bytes()).collect();
        let ids: Vec<u8> = rows.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let tensors = [
            ("features", TensorView::new(Dtype::F32, vec![n, rows.width], &values)?),
            ("labels", TensorView::new(Dtype::I64, vec![n], &labels)?),
            ("source_index", TensorView::new(Dtype::U32, vec![n], &ids)?),
        ];
        let bytes = safetensors::serialize(tensors, None)?;
        write_atomic(&writer.dir().join(&name), |f| f.write_all(&bytes))?;
        numbers.insert((*split).into(), n.into());
        outputs.push(Produced { role: split, name, rows: Some(n as u64) });
    }
    Ok(Done { outputs, metrics: numbers, run: Object::new() })
}

/// `features` (N, F), `labels` (N) and, if it is there, `ids` (N) of a file of safetensors or of `np.savez`.
fn read(file: &Path) -> Result<Rows> {
    let is_numpy = file.extension().is_some_and(|e| e.eq_ignore_ascii_case("npz"));
    let tensors: HashMap<String, Tensor> = match is_numpy {
        true => Tensor::read_npz(file)
            .context("cannot be read; write it by np.savez, which does not compress")?
            .into_iter()
            .collect(),
        false => candle_core::safetensors::load(file, &Device::Cpu)
            .context("cannot be read as safetensors; write it by safetensors or, as FILE.npz, by np.savez")?,
    };
    let tensor = |name: &str, rank: usize| -> Result<&Tensor> {
        let t = tensors.get(name).with_context(|| format!("has no array `{name}`"))?;
        ensure!(t.rank() == rank, "`{name}` is {:?}, not of rank {rank}", t.shape());
        Ok(t)
    };
    let features = tensor("features", 2)?;
    ensure!(!features.dtype().is_int(), "`features` are integers, not floats");
    let (n, width) = features.dims2()?;
    ensure!(n > 0 && width > 0, "`features` are {n}×{width}");
    let integers = |name: &str, t: &Tensor| -> Result<Vec<u32>> {
        ensure!(t.dtype().is_int(), "`{name}` are {:?}, not integers", t.dtype());
        ensure!(t.dims1()? == n, "there are {n} features and {} `{name}`", t.dims1()?);
        let all = t.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let number = |(row, v): (usize, i64)| {
            u32::try_from(v)
                .ok()
                .with_context(|| format!("`{name}` has {v} in row {row}; numbers are from 0 on"))
        };
        all.into_iter().enumerate().map(number).collect()
    };
    let labels = integers("labels", tensor("labels", 1)?)?;
    let ids = match tensors.get("ids") {
        Some(ids) => integers("ids", ids)?,
        None => (0..).take(n).collect(),
    };
    let features: Vec<f32> = features.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    if let Some(at) = features.iter().position(|x| !x.is_finite()) {
        bail!("`features` has {} in row {}", features[at], at / width);
    }
    Ok(Rows { features, width, labels, ids })
}
