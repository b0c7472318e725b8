//! `embed --import`: features that were computed elsewhere, as a data set for classifiers.

use std::fmt;
use std::fs;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::npy::NpzTensors;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::{Flags, SEMANTICS};
use crate::cli::{only_on_cpu, run_plan, safe_name};
use crate::data::features;
use crate::data::imbalance::count;
use crate::data::listing::{self, SPLITS, names_of};
use crate::manifest::store::{Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{Input, Kind, Object, key, object};
use crate::net::Arch;

/// The files that `--import` names for a split: one with all arrays, or one for each array.
#[derive(Clone, Debug)]
pub struct Import {
    split: &'static str,
    files: Vec<PathBuf>,
}

/// The names of the arrays, in the order in which `.npy` files are given.
const ARRAYS: [&str; 3] = ["features", "labels", "ids"];

impl FromStr for Import {
    type Err = String;

    fn from_str(text: &str) -> Result<Import, String> {
        let (split, file) =
            text.split_once('=').ok_or("expected SPLIT=FILE, such as train=clip-train.npz")?;
        let split = SPLITS.into_iter().find(|known| *known == split);
        let split = split.ok_or_else(|| format!("the split must be one of {}", SPLITS.join(", ")))?;
        if !is_npy(Path::new(file)) {
            return Ok(Import { split, files: vec![file.into()] });
        }
        let files: Vec<PathBuf> = file.split(',').map(PathBuf::from).collect();
        if !(2..=ARRAYS.len()).contains(&files.len()) || !files.iter().all(|file| is_npy(file)) {
            return Err(
                "expected .npy files as FEATURES.npy,LABELS.npy or FEATURES.npy,LABELS.npy,IDS.npy".into()
            );
        }
        Ok(Import { split, files })
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        write!(f, "--import {}={}", self.split, files.join(","))
    }
}

fn has_extension(file: &Path, extension: &str) -> bool {
    file.extension().is_some_and(|own| own.eq_ignore_ascii_case(extension))
}

fn is_npy(file: &Path) -> bool {
    has_extension(file, "npy")
}

/// The content of a split except its features, which are only read when they are written.
struct Rows {
    width: usize,
    labels: Vec<u32>,
    ids: Vec<u32>,
}

/// A split: its files, and what was read of them.
type Split<'a> = (&'a Import, Rows);

/// The classes of the labels.
struct Classes {
    names: Vec<String>,
    /// Number of training images of each class.
    counts: Vec<usize>,
}

/// Combines all files into one embedding.
///
/// # Errors
/// Returns an error if a file does not hold features with labels, if sizes differ, or if the work fails.
pub fn run(flags: &Flags) -> Result<()> {
    check_flags(flags)?;
    let splits = read(&flags.import)?;
    let classes = classes(flags, &splits)?;
    let plan = plan(flags, &splits, &classes)?;
    let numbers = object(json!({
        "classes": classes.names.len(),
        "class_names": classes.names,
        "cls_num_list": classes.counts,
        // There are no image channels to normalise, so these values change nothing.
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "feature_len": splits[0].1.width,
    }));
    run_plan(&plan, &flags.common, |writer| work(writer, &splits, numbers))?;
    Ok(())
}

/// Refuses checkpoints, a name that nobody can read, and missing or repeated splits.
fn check_flags(flags: &Flags) -> Result<()> {
    only_on_cpu(&flags.common.device, "--import")?;
    ensure!(
        flags.input.checkpoints.is_empty(),
        "--import: takes finished features and no checkpoint; omit {}",
        flags.input.checkpoints[0].display()
    );
    if let Some(name) = &flags.name {
        ensure!(
            !name.trim().is_empty(),
            "--name {name:?}: is empty; give a name such as clip, or omit --name"
        );
        ensure!(
            !name.contains(char::is_control),
            "--name {name:?}: has line breaks or other control characters; give a name without them"
        );
    }
    for split in SPLITS {
        let given = flags.import.iter().filter(|import| import.split == split).count();
        ensure!(given < 2, "--import {split}: is given twice");
        let needed = match split {
            "train" => "a classifier is trained on it",
            "test" => "accuracy is measured on it",
            _ => continue,
        };
        ensure!(given > 0, "--import {split}=FILE is required: {needed}");
    }
    Ok(())
}

/// Reads all files, in the order train, val, test.
fn read(all: &[Import]) -> Result<Vec<Split<'_>>> {
    let mut splits = vec![];
    for import in SPLITS.iter().flat_map(|split| all.iter().filter(move |import| import.split == *split)) {
        splits.push((import, import.rows().with_context(|| import.to_string())?));
    }
    let width = splits[0].1.width;
    if let Some((import, other)) = splits.iter().find(|(_, other)| other.width != width) {
        bail!("{import}: has {} features per image, but train has {width}", other.width);
    }
    Ok(splits)
}

/// Finds the classes of the training images, and refuses labels that are none of them.
fn classes(flags: &Flags, splits: &[Split]) -> Result<Classes> {
    let (train, Rows { labels, .. }) = &splits[0];
    if let Some(row) = labels.iter().position(|label| *label as usize >= labels.len()) {
        let (label, images) = (labels[row], labels.len());
        bail!(
            "{train}: `labels` has {label} in row {row}, but there are only {images} images; number the \
             classes from 0"
        );
    }
    let most = labels.iter().max().map_or(0, |label| *label as usize + 1);
    let names = match &flags.class_names {
        Some(file) => names_of(file).context("--class-names")?,
        None => (0..most).map(|label| label.to_string()).collect(),
    };
    let classes = names.len();
    ensure!(most <= classes, "--class-names: has {classes} names, but there is a label {}", most - 1);
    for (import, own) in &splits[1..] {
        if let Some(row) = own.labels.iter().position(|label| *label as usize >= classes) {
            let label = own.labels[row];
            bail!(
                "{import}: `labels` has {label} in row {row}, but train has {}, numbered from 0",
                listing::classes(classes)
            );
        }
    }
    let counts = count(labels, classes);
    if let Some(label) = counts.iter().position(|&n| n == 0) {
        bail!(
            "{train}: class {} has no images, so it cannot be learnt; number the classes from 0 without gaps",
            names[label]
        );
    }
    Ok(Classes { names, counts })
}

fn plan(flags: &Flags, splits: &[Split], classes: &Classes) -> Result<Plan> {
    const UNNAMED: &str = "imported";
    let name = flags.name.as_deref().unwrap_or(UNNAMED);
    let mut params = object(json!({
        "dataset": name,
        "imb_type": "none",
        "splits": splits.iter().map(|(import, _)| import.split).collect::<Vec<_>>(),
        "arch": Arch::Features(splits[0].1.width).to_string(),
    }));
    if flags.class_names.is_some() {
        params.insert("class_names".into(), crate::data::names_id(&classes.names).into());
    }
    let input = |import: &Import, n: usize| {
        let role = if n == 0 { import.split.to_owned() } else { format!("{}-{}", import.split, ARRAYS[n]) };
        Input::of_file(&role, &import.files[n])
    };
    let files = splits.iter().flat_map(|(import, _)| (0..import.files.len()).map(move |n| input(import, n)));
    let inputs: Vec<Input> = files.collect::<Result<_, _>>()?;
    for (n, one) in inputs.iter().enumerate() {
        if let Some(same) = inputs[..n].iter().find(|other| other.blake3 == one.blake3) {
            log::warn!("--import: {} and {} are the same file, byte for byte", same.role, one.role);
        }
    }
    let usual = |key: &str| {
        let name = safe_name(name).unwrap_or_else(|| UNNAMED.into());
        Path::new("embeddings").join(format!("{name}-{}", key::short(key)))
    };
    let dir = |key: &str| flags.common.out.clone().unwrap_or_else(|| usual(key));
    Ok(Plan::new(Kind::Embedding, SEMANTICS, params, inputs, dir))
}

fn work(writer: &Writer, splits: &[Split], mut numbers: Object) -> Result<Done> {
    let files: Vec<String> = splits.iter().map(|(import, _)| features::file(import.split)).collect();
    writer.begin(&files)?;
    let mut outputs = vec![];
    for ((import, rows), name) in splits.iter().zip(files) {
        let (n, width) = (rows.labels.len(), rows.width);
        let values = import.features(n, width).with_context(|| import.to_string())?;
        let labels: Vec<i64> = rows.labels.iter().map(|&label| label.into()).collect();
        let tensors = [
            ("features", Tensor::from_vec(values, (n, width), &Device::Cpu)?),
            ("labels", Tensor::from_vec(labels, n, &Device::Cpu)?),
            ("source_index", Tensor::from_slice(&rows.ids, n, &Device::Cpu)?),
        ];
        let bytes = safetensors::serialize(tensors, None)?;
        writer.withdraw()?;
        write_atomic(&writer.dir().join(&name), |f| f.write_all(&bytes))?;
        numbers.insert(import.split.into(), n.into());
        outputs.push(Produced { role: import.split, name, rows: Some(n as u64) });
    }
    Ok(Done { outputs, metrics: numbers, run: Object::new() })
}

impl Import {
    /// Reads an array by its name, if it exists.
    fn array(&self, name: &str) -> Result<Option<Tensor>> {
        let file = &self.files[0];
        if is_npy(file) {
            let at = ARRAYS.iter().position(|array| *array == name);
            let read = |file: &PathBuf| {
                let read = check_file(file);
                let read = read.and_then(|()| Tensor::read_npy(file).map_err(|e| numpy(name, &e)));
                read.with_context(|| file.display().to_string())
            };
            return at.and_then(|at| self.files.get(at)).map(read).transpose();
        }
        check_file(file)?;
        if has_extension(file, "npz") {
            check_sum(file, name).map_err(|e| numpy(name, &e))?;
            return NpzTensors::new(file).and_then(|all| all.get(name)).map_err(|e| numpy(name, &e));
        }
        let why = "is not a safetensors file, or is truncated or damaged; write it with safetensors or, as \
                   FILE.npz, with np.savez";
        // The libraries' own reasons say nothing more to users, and may quote the file.
        // SAFETY: the map is read and dropped here.
        let all = unsafe { MmapedSafetensors::new(file) }.ok().context(why)?;
        if all.get(name).is_err() {
            return Ok(None);
        }
        let type_ = || format!("`{name}` has an unsupported type; write it as int64, float32 or float64");
        Ok(Some(all.load(name, &Device::Cpu).ok().with_context(type_)?))
    }

    fn needed(&self, name: &str, rank: usize) -> Result<Tensor> {
        let t = self.array(name)?.with_context(|| format!("has no array `{name}`"))?;
        ensure!(t.rank() == rank, "`{name}` has shape {:?}, not rank {rank}", t.shape());
        Ok(t)
    }

    /// Reads the sizes of `features` (N, F), with `labels` (N) and, if they exist, `ids` (N).
    fn rows(&self) -> Result<Rows> {
        let features = self.needed("features", 2)?;
        ensure!(!features.dtype().is_int(), "`features` has an integer type, not floats");
        let (n, width) = features.dims2()?;
        ensure!(n > 0 && width > 0, "`features` is empty: its shape is {n}×{width}");
        finite(&features, width)?;
        let integers = |name: &str, t: Tensor| -> Result<Vec<u32>> {
            ensure!(t.dtype().is_int(), "`{name}` has type {:?}, not an integer type", t.dtype());
            ensure!(t.dims1()? == n, "`features` has {n} rows, but `{name}` has {}", t.dims1()?);
            let all = t.to_dtype(DType::I64)?.to_vec1::<i64>()?;
            let number = |(row, v): (usize, i64)| {
                u32::try_from(v).ok().with_context(|| {
                    format!("`{name}` has {v} in row {row}, but must be from 0 to {}", u32::MAX)
                })
            };
            all.into_iter().enumerate().map(number).collect()
        };
        let labels = integers("labels", self.needed("labels", 1)?)?;
        let ids = match self.array("ids")? {
            Some(ids) => integers("ids", ids)?,
            None => (0..).take(n).collect(),
        };
        Ok(Rows { width, labels, ids })
    }

    /// Reads the features, which must have the sizes that were read before.
    fn features(&self, n: usize, width: usize) -> Result<Vec<f32>> {
        let features = self.needed("features", 2)?;
        ensure!(
            features.dims2()? == (n, width),
            "was changed while it was being read; run the command again"
        );
        finite(&features, width)
    }
}

/// Refuses a file that cannot be opened, and a directory.
fn check_file(file: &Path) -> Result<()> {
    let is_dir = fs::File::open(file).and_then(|opened| opened.metadata()).map(|m| m.is_dir());
    let is_dir = is_dir.map_err(|e| anyhow!("{e}; check the path and its permissions"))?;
    ensure!(!is_dir, "is a directory; name the file in it");
    Ok(())
}

/// Checks the checksum of an array in an .npz file. The tensor reader stops before the end, where it is
/// checked.
fn check_sum(file: &Path, name: &str) -> Result<(), zip::result::ZipError> {
    let mut zip = zip::ZipArchive::new(BufReader::new(fs::File::open(file)?))?;
    if let Some(n) = zip.index_for_name(&format!("{name}.npy")) {
        io::copy(&mut zip.by_index(n)?, &mut io::sink())?;
    }
    Ok(())
}

/// Explains what is wrong with an array of numpy's, and what to do about it. The reader's own text is left
/// out, because it may quote the file.
fn numpy(name: &str, e: &dyn fmt::Display) -> anyhow::Error {
    let text = e.to_string();
    let why = match () {
        () if text.contains("fortran") => "is in Fortran order; convert it with np.ascontiguousarray",
        () if text.contains("ompression") => "is compressed, but not by np.savez_compressed; use np.savez",
        () if text.contains("descr O") => {
            "is an array of Python objects, which cannot be read; convert it with astype, such as \
             astype(np.float32)"
        }
        () if text.contains("descr") => {
            "is not an array of little-endian numbers of a supported type; write it as int64, float32 or \
             float64"
        }
        () => "cannot be read: the file is truncated or damaged, or was not written by np.save or np.savez",
    };
    anyhow!("`{name}` {why}")
}

/// Converts features to f32, and refuses values that are not finite.
fn finite(features: &Tensor, width: usize) -> Result<Vec<f32>> {
    let features: Vec<f32> = features.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    if let Some(at) = features.iter().position(|x| !x.is_finite()) {
        bail!("`features` has {} in row {}; all values must be finite", features[at], at / width);
    }
    Ok(features)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn names_are_refused_if_nobody_can_read_them() {
        let check = |name: &str| {
            let line = ["embed", "--import", "train=a.npz", "--import", "test=b.npz", "--name", name];
            check_flags(&Flags::try_parse_from(line).expect("clap takes any name"))
        };
        for name in ["clip", "CLIP ViT-B/32", "..", "größe"] {
            check(name).expect("a name");
        }
        for (name, why) in
            [("", "is empty"), (" ", "is empty"), ("a\nb", "has line breaks"), ("\u{1b}[2J", "has")]
        {
            let text = check(name).expect_err("refused").to_string();
            assert!(text.starts_with(&format!("--name {name:?}: {why}")), "{text}");
        }
    }
}
