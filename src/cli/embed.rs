//! `embed`: writes the network's pooled features, logits and predictions of a split into one safetensors file
//! and, with `--project`, a map of the features in the plane.

mod images;
mod import;
mod projection;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use clap::Parser;
use serde_json::json;

use self::import::Import;
use self::projection::{Chosen, Projection};
use super::checkpoints::{self, Choice, Subject};
use super::{Common, VERSION, negative_values, only_on_cpu, whole_number};
use crate::backend::Inference;
use crate::data::features;
use crate::data::listing::SPLITS;
use crate::interrupt;
use crate::manifest::store::{Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{Kind, Manifest, Object, object};
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

    /// With --images: number of classes per image in predictions.csv, most probable first [default: 5]
    #[arg(long, value_name = "N", value_parser = whole_number::<u32>(1, u64::MAX))]
    pub top: Option<u32>,

    /// With --images: refuse images with more pixels than this [default: 178956970]
    #[arg(long, value_name = "N", value_parser = whole_number::<u64>(1, u64::MAX))]
    pub max_pixels: Option<u64>,

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
    #[arg(conflicts_with_all = ["split", "splits", "project", "images", "data", "arch", "checkpoint"])]
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
        ("top", flags.top.is_some(), "images", flags.images.is_some()),
        ("max-pixels", flags.max_pixels.is_some(), "images", flags.images.is_some()),
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
    checkpoints::for_each(&flags.input, "embed", &flags.common, |subject| {
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
fn splits(flags: &Flags) -> Vec<&'static str> {
    SPLITS.into_iter().filter(|known| flags.splits.iter().any(|split| split == known)).collect()
}

fn plan(subject: &Subject, flags: &Flags) -> Result<Plan> {
    let splits = splits(flags);
    let mut params = Object::new();
    if splits.is_empty() {
        params.insert("split".into(), flags.input.split.clone().into());
    } else {
        params.insert("splits".into(), json!(splits));
        if let Some(passes) = flags.passes {
            let is_there = splits.contains(&"train");
            ensure!(is_there, "--passes: augments the training images; add train to --splits");
            only_on_cpu(&flags.common.device, "--passes")?;
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
        if subject.dataset.kind == Kind::Embedding {
            bail!(
                "{}: its data set already consists of features; give a data set of images with --data",
                subject.name
            );
        }
        let found = subject.splits("dataset", &splits);
        inputs[1] = found.with_context(|| format!("--splits {}", splits.join(",")))?;
    }
    let what = if splits.is_empty() { flags.input.split.clone() } else { splits.join("-") };
    let dir = |key: &str| flags.common.out.clone().unwrap_or_else(|| subject.dir("embeddings", &what, key));
    Ok(Plan::new(Kind::Embedding, SEMANTICS, params, inputs, dir))
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
    let metrics = object(json!({
        "images": images,
        "classes": out.classes,
        "feature_len": out.feature_len,
        "class_names": subject.info.class_names,
    }));
    let bytes = encode(out, rows.source_index, Some(&rows.labels))?;
    writer.withdraw()?;
    write_atomic(&writer.dir().join(FEATURES), |f| f.write_all(&bytes))?;
    Ok(Done { outputs: vec![produced(images)], metrics, run })
}

/// Metrics of a data set that are copied to its features, so that classifiers are trained on these as
/// networks are on images.
const OF_IMAGES: [&str; 9] =
    ["classes", "class_names", "cls_num_list", "mean", "std", "crop", "preprocess", "name", "official"];

/// Writes the features of several splits, which form a data set.
fn extract_splits(
    writer: &Writer,
    subject: &Subject,
    flags: &Flags,
    splits: &[&'static str],
) -> Result<Done> {
    let files: Vec<String> = splits.iter().map(|split| features::file(split)).collect();
    writer.begin(&files)?;
    let mut numbers = Object::new();
    let copied = OF_IMAGES.iter().filter_map(|name| subject.dataset.metrics.get_key_value(*name));
    numbers.extend(copied.map(|(name, value)| (name.clone(), value.clone())));
    numbers.insert("normalise".into(), json!(subject.normalise));
    let (mut outputs, mut run) = (vec![], Object::new());
    for (&role, name) in splits.iter().zip(files) {
        let choice = Choice { split: role.into(), ..flags.input.clone() };
        // Augmented passes are computed on the CPU, so all of the file is.
        let device = if flags.passes.is_some() { "cpu" } else { &*flags.common.device };
        let (mut rows, mut out, computed) = subject.infer(&choice, device, true)?;
        let images = rows.labels.len();
        if let (Some(passes), "train") = (flags.passes, role) {
            for pass in subject.augmented(passes)? {
                let pass = pass?;
                out.logits.extend(pass.logits);
                out.features.extend(pass.features);
                rows.labels.extend_from_within(..images);
                rows.source_index.extend_from_within(..images);
            }
        }
        interrupt::check()?;
        numbers.insert(role.into(), images.into());
        numbers.insert("feature_len".into(), out.feature_len.into());
        let bytes = encode(out, rows.source_index, Some(&rows.labels))?;
        writer.withdraw()?;
        write_atomic(&writer.dir().join(&name), |f| f.write_all(&bytes))?;
        run = computed;
        outputs.push(Produced { role, name, rows: Some(rows.labels.len() as u64) });
    }
    Ok(Done { outputs, metrics: numbers, run })
}

fn produced(rows: usize) -> Produced {
    Produced { role: "features", name: FEATURES.into(), rows: Some(rows as u64) }
}

/// Returns the bytes of the file, which depend on the numbers alone: safetensors sorts tensors, and there is
/// no metadata. Images of a data set have labels.
fn encode(out: Inference, index: Vec<u32>, labels: Option<&[u32]>) -> Result<Vec<u8>> {
    let n = index.len();
    let predicted = metrics::predictions(&out.logits, n, out.classes)?;
    let integers = |all: Vec<i64>| Tensor::from_vec(all, n, &Device::Cpu);
    let mut tensors = vec![
        ("features", Tensor::from_vec(out.features, (n, out.feature_len), &Device::Cpu)?),
        ("logits", Tensor::from_vec(out.logits, (n, out.classes), &Device::Cpu)?),
        ("predictions", integers(predicted.into_iter().map(|class| class as i64).collect())?),
        ("source_index", Tensor::from_vec(index, n, &Device::Cpu)?),
    ];
    if let Some(labels) = labels {
        tensors.push(("labels", integers(labels.iter().map(|&label| label.into()).collect())?));
    }
    Ok(safetensors::serialize(tensors, None)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::data::files::decode::MAX_PIXELS;

    fn flags(line: &str) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(std::iter::once("embed").chain(line.split_whitespace()))
    }

    #[test]
    fn flags_that_would_do_nothing_are_refused() {
        let import = "--import train=a.npz --import test=b.npz";
        flags(import).expect("sound flags");
        for useless in ["--checkpoint best", "--data d", "--split val"] {
            let text = flags(&format!("{import} {useless}")).expect_err("refused").to_string();
            assert!(text.contains("cannot be used with"), "{useless}: {text}");
        }
        for line in [import, "run --images x"] {
            let line = format!("{line} --perplexity 5");
            let text = run(flags(&line).expect("clap takes them")).expect_err("refused").to_string();
            assert!(text.starts_with("--perplexity: does nothing without --project tsne"), "{line}: {text}");
        }
        // Whatever their values are.
        for flag in [format!("--top {TOP}"), format!("--max-pixels {MAX_PIXELS}")] {
            let text = run(flags(&format!("run {flag}")).expect("clap takes it")).expect_err("refused");
            let name = flag.split(' ').next().expect("a name");
            assert_eq!(text.to_string(), format!("{name}: does nothing here; it needs --images"));
        }
    }

    #[test]
    fn the_help_states_the_defaults() {
        let help = Flags::command().term_width(1000).render_long_help().to_string();
        for (flag, default) in [("--top", u64::from(TOP)), ("--max-pixels", MAX_PIXELS)] {
            let (_, text) = help.split_once(&format!("{flag} <N>")).expect("the flag");
            let line = text.lines().nth(1).expect("its text");
            assert!(line.ends_with(&format!(" [default: {default}]")), "{flag}: {line}");
        }
    }

    #[test]
    fn checkpoints_and_paths_cannot_both_come_from_stdin() {
        for line in ["--images -", "- --images -", "run - --images -", "run --images - --data -"] {
            let text = run(flags(line).expect("sound flags")).expect_err("refused").to_string();
            assert!(text.starts_with("--images -: paths are read from stdin"), "{line}: {text}");
        }
    }
}
