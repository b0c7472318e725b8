//! `embed`: writes the network's pooled features, logits and predictions of a split into one safetensors file
//! and, with `--project`, a map of the features in the plane.

mod images;
mod import;
mod projection;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

use self::import::Import;
use self::projection::{Chosen, Projection};
use super::checkpoints::{self, Choice, Rows, Subject};
use super::{Common, VERSION, negative_values, whole_number};
use crate::backend::Inference;
use crate::data::features;
use crate::data::files::decode::MAX_PIXELS;
use crate::data::listing::SPLITS;
use crate::interrupt::{self, Interrupted};
use crate::manifest::store::{Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{Kind, Manifest, Object};
use crate::metrics;

/// Version of the output; raised when the same weights and images would give another file. 2: weights that
/// are not exactly the network's are refused.
const SEMANTICS: u32 = 2;

/// Default of `--top`.
const TOP: u32 = 5;

/// File name of the result.
const FEATURES: &str = "features.safetensors";

/// Extract features, logits and predictions of images, for t-SNE, probes and error analysis
///
/// Writes features.safetensors with `features` F32 (N, F), the network's pooled output before the classifier;
/// `logits` F32 (N, C); `labels` and `predictions` I64 (N); `source_index` U32 (N), the image's position in
/// the official file; and, with --project, `projection` F32 (N, 2). Prints one embedding manifest per
/// checkpoint on stdout.
#[derive(Parser, Debug)]
#[command(name = "embed", version = VERSION, after_help = EXAMPLES, mut_args(negative_values))]
pub struct Flags {
    /// What to run.
    #[command(flatten)]
    pub input: checkpoints::Choice,

    /// Images without labels, instead of those of a data set: a directory, an image, a file with one path per
    /// line, or - for paths on stdin
    ///
    /// They are resized, cropped and normalised like the checkpoint's training images. Also writes
    /// predictions.csv with the path, the most probable classes and their probabilities. An image that cannot
    /// be read is left out and listed in the manifest, and the exit code is 1.
    #[arg(long, value_name = "DIR|FILE|-", conflicts_with_all = ["split", "project"])]
    pub images: Option<PathBuf>,

    /// Number of classes per image in predictions.csv, most probable first
    #[arg(long, value_name = "N", default_value_t = TOP)]
    #[arg(value_parser = whole_number::<u32>(1, u64::MAX))]
    pub top: u32,

    /// With --images: refuse images with more pixels than this
    #[arg(long, value_name = "N", default_value_t = MAX_PIXELS)]
    #[arg(value_parser = whole_number::<u64>(1, u64::MAX))]
    pub max_pixels: u64,

    /// Write the features of several splits, such as train,val,test, each into a file of its own, as a data
    /// set for train --classifier
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[arg(value_parser = SPLITS, conflicts_with_all = ["split", "project", "images"])]
    pub splits: Vec<String>,

    /// With --splits: pass the training images through the network N more times, augmented as in the
    /// checkpoint's own training; train --classifier then draws one of the N + 1 passes for each image of a
    /// batch
    #[arg(long, value_name = "N", requires = "splits", conflicts_with_all = ["split", "project", "images", "import"])]
    #[arg(value_parser = whole_number::<u32>(1, 1000))]
    pub passes: Option<u32>,

    /// Import features that were computed elsewhere, one file per split, such as train=clip-train.npz, as a
    /// data set for train --classifier
    ///
    /// A file in safetensors format or written by numpy.savez has the arrays `features` (N, F), `labels` (N)
    /// and, optionally, `ids` (N). A file written by numpy.save has only one of them, so list all:
    /// train=features.npy,labels.npy or train=features.npy,labels.npy,ids.npy.
    #[arg(long, value_name = "SPLIT=FILE[,LABELS[,IDS]]")]
    #[arg(conflicts_with_all = ["split", "splits", "project", "images", "data", "arch", "checkpoint", "batch_size"])]
    pub import: Vec<Import>,

    /// With --import: file with the names of the classes in the order of their labels, one per line
    #[arg(long, value_name = "FILE")]
    pub class_names: Option<PathBuf>,

    /// With --import: name of the data set in tables [default: imported]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Whether and how to map the features.
    #[command(flatten)]
    pub projection: Projection,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

const EXAMPLES: &str = "Examples:
  embed runs/remix-*/manifest.json --split test
  embed runs/mixup runs/remix --project tsne                     for a figure of both
  embed runs/remix --images photographs                          for predictions of new images
  embed runs/erm --splits train,test | train --classifier linear --rule rs --rs inverse
  embed --import train=clip-train.npz --import test=clip-test.npz | train --classifier linear --loss balanced-softmax
  embed resnet32.safetensors --arch resnet32 --data data/cifar10-exp-100-*/manifest.json --split train";

/// Runs the tool.
pub fn main() -> ExitCode {
    super::main("embed", |a: &Flags| &a.common, run)
}

/// Refuses flags that would do nothing. Clap's `requires` misses those whose partner conflicts with another
/// given flag.
fn check_flags(flags: &Flags) -> Result<()> {
    let idle = [
        ("top", flags.top != TOP, "images", flags.images.is_some()),
        ("max-pixels", flags.max_pixels != MAX_PIXELS, "images", flags.images.is_some()),
        ("class-names", flags.class_names.is_some(), "import", !flags.import.is_empty()),
        ("name", flags.name.is_some(), "import", !flags.import.is_empty()),
    ];
    for (flag, is_given, partner, has_partner) in idle {
        ensure!(!is_given || has_partner, "--{flag}: does nothing here; it needs --{partner}");
    }
    Ok(())
}

fn run(flags: Flags) -> Result<()> {
    check_flags(&flags)?;
    let chosen = flags.projection.chosen()?;
    if let Some(images) = &flags.images {
        return images::run(&flags, images);
    }
    if !flags.import.is_empty() {
        return import::run(&flags);
    }
    let splits = splits(&flags);
    checkpoints::for_each(&flags.input, "embed", flags.common.out.as_deref(), |subject| {
        let plain = plan(subject, &flags)?;
        match chosen {
            None if !splits.is_empty() => {
                super::run_plan(&plain, &flags.common, |w| extract_splits(w, subject, &flags, &splits))
            }
            None => super::run_plan(&plain, &flags.common, |w| extract(w, subject, &flags)),
            Some(chosen) => {
                chosen.fits(subject.images(&flags.input.split))?;
                project(plain, chosen, subject, &flags)
            }
        }?;
        Ok(())
    })
}

/// Returns the splits of `--splits`, each once, in the order train, val, test.
fn splits(flags: &Flags) -> Vec<String> {
    let asked = |split: &String| flags.splits.contains(split);
    SPLITS.map(str::to_owned).into_iter().filter(asked).collect()
}

fn plan(subject: &Subject, flags: &Flags) -> Result<Plan> {
    let splits = splits(flags);
    let mut params = Object::new();
    if splits.is_empty() {
        params.insert("split".into(), flags.input.split.clone().into());
    } else {
        params.insert("splits".into(), json!(splits));
        if let Some(passes) = flags.passes {
            let is_there = splits.iter().any(|split| split == "train");
            ensure!(is_there, "--passes: augments the training images; add train to --splits");
            only_on_cpu(flags, "--passes")?;
            params.insert(features::PASSES.into(), passes.into());
        }
        // Classifiers depend on the class counts, which the content of the features does not determine.
        params.insert("cls_num_list".into(), json!(subject.info.cls_num_list));
    }
    params.insert("which".into(), subject.which.clone().into());
    params.insert("arch".into(), subject.arch.to_string().into());
    subject.add_preprocessing(&mut params);
    let mut inputs = subject.inputs.clone();
    if !splits.is_empty() {
        if subject.is_features() {
            bail!(
                "{}: its data set already consists of features; give a data set of images with --data",
                subject.name
            );
        }
        let names: Vec<&str> = splits.iter().map(String::as_str).collect();
        inputs[1] = subject.splits("dataset", &names)?;
    }
    let what = if splits.is_empty() { flags.input.split.clone() } else { splits.join("-") };
    let dir = |key: &str| flags.common.out.clone().unwrap_or_else(|| subject.dir("embeddings", &what, key));
    Ok(Plan::new(Kind::Embedding, SEMANTICS, params, inputs, dir))
}

/// Refuses a GPU for what is computed on the CPU alone.
fn only_on_cpu(flags: &Flags, what: &str) -> Result<()> {
    let device = &*flags.common.device;
    let on_cpu = ["auto", "cpu"].contains(&device);
    ensure!(on_cpu, "--device {device}: {what} is computed on the CPU; omit --device");
    Ok(())
}

/// Makes an embedding with a projection. Its features are a result of their own, so that another projection
/// finds them: they go where they would without `--project`, or inside `--out`.
fn project(mut plain: Plan, chosen: Chosen, subject: &Subject, flags: &Flags) -> Result<Manifest> {
    let mut params = plain.params.clone();
    params.insert("project".into(), json!(chosen));
    let what = format!("{}-{}", flags.input.split, chosen.name());
    let dir = |key: &str| flags.common.out.clone().unwrap_or_else(|| subject.dir("embeddings", &what, key));
    let plan = Plan::new(plain.kind, plain.semantics, params, plain.inputs.clone(), dir);
    if let Some(out) = &flags.common.out {
        plain.dir = out.join("features");
    }
    super::run_plan(&plan, &flags.common, |writer| {
        let features = super::make_or_reuse(&plain, &flags.common, |w| extract(w, subject, flags))?;
        projection::work(writer, &features, chosen)
    })
}

fn extract(writer: &Writer, subject: &Subject, flags: &Flags) -> Result<Done> {
    writer.begin(&[FEATURES])?;
    let (rows, out, run) = subject.infer(&flags.input, &flags.common.device, true)?;
    let images = rows.labels.len();
    let bytes = encode(&rows, &out)?;
    writer.withdraw()?;
    write_atomic(&writer.dir().join(FEATURES), |f| f.write_all(&bytes))?;
    let mut numbers = Object::new();
    numbers.insert("images".into(), images.into());
    numbers.insert("classes".into(), out.classes.into());
    numbers.insert("feature_len".into(), out.feature_len.into());
    numbers.insert("class_names".into(), json!(subject.info.class_names));
    Ok(Done { outputs: vec![produced(images)], metrics: numbers, run })
}

/// Metrics of a data set that are copied to its features, so that classifiers are trained on these as
/// networks are on images.
const OF_IMAGES: [&str; 9] =
    ["classes", "class_names", "cls_num_list", "mean", "std", "crop", "preprocess", "name", "official"];

/// Writes the features of several splits, which form a data set.
fn extract_splits(writer: &Writer, subject: &Subject, flags: &Flags, splits: &[String]) -> Result<Done> {
    let files: Vec<String> = splits.iter().map(|split| features::file(split)).collect();
    writer.begin(&files.iter().map(String::as_str).collect::<Vec<_>>())?;
    writer.withdraw()?;
    let mut numbers = Object::new();
    let copied = OF_IMAGES.iter().filter_map(|name| subject.metrics().get_key_value(*name));
    numbers.extend(copied.map(|(name, value)| (name.clone(), value.clone())));
    numbers.insert("normalise".into(), json!(subject.normalise));
    let (mut outputs, mut run) = (vec![], Object::new());
    for (split, name) in splits.iter().zip(files) {
        let choice = Choice { split: split.clone(), ..flags.input.clone() };
        // Augmented passes are computed on the CPU, so all of the file is.
        let device = if flags.passes.is_some() { "cpu" } else { &*flags.common.device };
        let (mut rows, mut out, computed) = subject.infer(&choice, device, true)?;
        let images = rows.labels.len();
        if let (Some(passes), "train") = (flags.passes, split.as_str()) {
            for pass in subject.augmented(passes, flags.input.batch_size as usize)? {
                let pass = pass?;
                out.logits.extend(pass.logits);
                out.features.extend(pass.features);
                rows.labels.extend_from_within(..images);
                rows.source_index.extend_from_within(..images);
            }
        }
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        let bytes = encode(&rows, &out)?;
        write_atomic(&writer.dir().join(&name), |f| f.write_all(&bytes))?;
        numbers.insert(split.clone(), images.into());
        numbers.insert("feature_len".into(), out.feature_len.into());
        run = computed;
        let role = SPLITS.into_iter().find(|known| known == split).context("a split by its name")?;
        outputs.push(Produced { role, name, rows: Some(rows.labels.len() as u64) });
    }
    Ok(Done { outputs, metrics: numbers, run })
}

fn produced(rows: usize) -> Produced {
    Produced { role: "features", name: FEATURES.into(), rows: Some(rows as u64) }
}

/// Returns the bytes of floats as safetensors stores them.
fn floats<'a>(values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    values.into_iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Returns the bytes of the file, which depend on the numbers alone: safetensors sorts tensors, and there is
/// no metadata.
fn encode(rows: &Rows, out: &Inference) -> Result<Vec<u8>> {
    let predicted = metrics::predictions(&out.logits, rows.labels.len(), out.classes)?;
    let labels: Vec<u8> = rows.labels.iter().flat_map(|&l| i64::from(l).to_le_bytes()).collect();
    safetensors_of(out, &predicted, &rows.source_index, Some(&labels))
}

/// Serialises an inference. Images of a data set have labels.
fn safetensors_of(
    out: &Inference,
    predicted: &[usize],
    index: &[u32],
    labels: Option<&[u8]>,
) -> Result<Vec<u8>> {
    let n = index.len();
    let features = floats(&out.features);
    let logits = floats(&out.logits);
    let predictions: Vec<u8> = predicted.iter().flat_map(|&p| (p as i64).to_le_bytes()).collect();
    let index: Vec<u8> = index.iter().flat_map(|i| i.to_le_bytes()).collect();
    let mut tensors = vec![
        ("features", TensorView::new(Dtype::F32, vec![n, out.feature_len], &features)?),
        ("logits", TensorView::new(Dtype::F32, vec![n, out.classes], &logits)?),
        ("predictions", TensorView::new(Dtype::I64, vec![n], &predictions)?),
        ("source_index", TensorView::new(Dtype::U32, vec![n], &index)?),
    ];
    if let Some(labels) = labels {
        tensors.push(("labels", TensorView::new(Dtype::I64, vec![n], labels)?));
    }
    Ok(safetensors::serialize(tensors, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(line: &str) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(std::iter::once("embed").chain(line.split_whitespace()))
    }

    #[test]
    fn flags_that_would_do_nothing_are_refused() {
        let import = "--import train=a.npz --import test=b.npz";
        flags(import).expect("sound flags");
        for useless in ["--checkpoint best", "--batch-size 4", "--data d", "--split val"] {
            let text = flags(&format!("{import} {useless}")).expect_err("refused").to_string();
            assert!(text.contains("cannot be used with"), "{useless}: {text}");
        }
        for line in [import, "run --images x"] {
            let line = format!("{line} --perplexity 5");
            let text = run(flags(&line).expect("clap takes them")).expect_err("refused").to_string();
            assert!(text.starts_with("--perplexity: does nothing without --project tsne"), "{line}: {text}");
        }
    }
}
