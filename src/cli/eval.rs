//! `eval`: evaluates checkpoints on a split. The numbers themselves are computed in [`crate::metrics`].

mod adjust;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use candle_core::{Device, Tensor};
use clap::Parser;
use serde_json::json;

use self::adjust::Adjust;
use super::checkpoints::{self, Choice, Subject};
use super::{Common, VERSION, negative_values, terminal};
use crate::manifest::store::{Done, Plan, Produced, Writer, write_atomic};
use crate::manifest::{Kind, Object, object};
use crate::metrics::{self, Confusion};

/// Version of the numbers; raised when the same weights and images would give others. 2: with reliability. 3:
/// the NLL keeps its precision, and weights that are not exactly the network's are refused. 4: with the most
/// confident mistakes. 5: with the worst class, and the harmonic and the geometric mean of the classes.
const SEMANTICS: u32 = 6;

/// Maximum number of classes whose confusion matrix is in the manifest; with more classes, [`CONFUSION`] has
/// the counts that are not 0.
const IN_MANIFEST: usize = 200;

/// The file of a confusion matrix of many classes.
const CONFUSION: &str = "confusion.safetensors";

/// Evaluate checkpoints: accuracy, many/medium/few, macro-F1, NLL, ECE, reliability, confusion matrix
///
/// Prints one metrics manifest per checkpoint on stdout as soon as it is finished. Accuracies are in percent,
/// macro_f1 and ece are fractions, and nll is in nats. Classes are grouped by their number of training
/// images: many > 100, medium 20 to 100, few < 20.
///
/// With more than 200 classes, the confusion matrix is not in the manifest but in confusion.safetensors,
/// which lists its N non-zero entries: `true` and `predicted` I64 (N), `count` U32 (N).
///
/// A checkpoint is evaluated on the data set that it was trained on, whose content must not have changed.
/// --data says where that data set is now, or names a different one: many, medium and few then follow the
/// class counts of the different one, and reports show the result in a row of its own.
#[derive(Parser, Debug)]
#[command(name = "eval", version = VERSION, after_help = EXAMPLES, mut_args(negative_values))]
pub struct Flags {
    /// What to evaluate.
    #[command(flatten)]
    pub input: checkpoints::Choice,

    /// How logits are corrected.
    #[command(flatten)]
    pub adjust: adjust::Flags,

    /// Common flags.
    #[command(flatten)]
    pub common: Common,
}

const EXAMPLES: &str = "Examples:
  train data/cifar10-exp-100-*/manifest.json --method remix | ./eval | report table
  cat runs/*/manifest.json | ./eval --checkpoint best
  ./eval runs/erm --adjust 1
  ./eval resnet32.pth --arch resnet32 --data data/cifar10-exp-100-*/manifest.json

`eval` is also a shell builtin: call this tool by its path.";

/// Maximum number of wrong predictions in a manifest: those with the highest probability.
const MISTAKES: usize = 50;

/// Runs the tool.
pub fn main() -> ExitCode {
    super::main("eval", |a: &Flags| &a.common, run)
}

fn run(flags: Flags) -> Result<()> {
    checkpoints::for_each(&flags.input, "eval", &flags.common, |subject| {
        let adjust = Adjust::of(&flags.adjust, subject, &flags.input.split)?;
        let plan = plan(subject, &flags, adjust.as_ref());
        super::run_plan(&plan, &flags.common, |w| work(w, subject, &flags, adjust.as_ref()))?;
        Ok(())
    })
}

fn plan(subject: &Subject, flags: &Flags, adjust: Option<&Adjust>) -> Plan {
    let mut params = object(json!({
        "split": flags.input.split,
        "which": subject.which,
        "arch": subject.arch.to_string(),
        // many/medium/few depend on the class counts, which the split's content does not contain.
        "cls_num_list": subject.info.cls_num_list,
    }));
    subject.add_preprocessing(&mut params);
    let mut inputs = subject.inputs.clone();
    let mut what = flags.input.split.clone();
    if let Some(adjust) = adjust {
        adjust.add(&mut params, &mut inputs);
        what += &adjust.name();
    }
    let dir = |key: &str| flags.common.out.clone().unwrap_or_else(|| subject.dir("metrics", &what, key));
    Plan::new(Kind::Metrics, SEMANTICS, params, inputs, dir)
}

fn work(writer: &Writer, subject: &Subject, flags: &Flags, adjust: Option<&Adjust>) -> Result<Done> {
    let files: &[&str] = if subject.info.classes > IN_MANIFEST { &[CONFUSION] } else { &[] };
    writer.begin(files)?;
    let (rows, mut out, run) = subject.infer(&flags.input, &flags.common.device, false)?;
    let mut corrected = Object::new();
    if let Some(adjust) = adjust {
        let choice = Choice { split: "val".into(), ..flags.input.clone() };
        let val =
            adjust.needs_val().then(|| subject.infer(&choice, &flags.common.device, false)).transpose()?;
        let val = val.as_ref().map(|(rows, out, _)| (&out.logits[..], &rows.labels[..]));
        let counts = &subject.info.cls_num_list;
        out.logits = adjust.apply(out.logits, &rows.labels, counts, val, &mut corrected)?;
    }
    let m = metrics::evaluate(&out.logits, &rows.labels, &subject.info.cls_num_list)?;
    if !terminal::stdout_is_terminal() {
        log::info!(
            "{}: {} {} top-1 {:.2} %, top-5 {:.2} %",
            subject.inputs[0].path.display(),
            flags.input.split,
            subject.which,
            m.top1,
            m.top5
        );
    }
    let mut numbers = object(&m);
    numbers.extend(corrected);
    let mut outputs = Vec::new();
    writer.withdraw()?;
    if files.is_empty() {
        numbers.insert("confusion".into(), json!(m.confusion.matrix()));
    } else {
        outputs.push(write_confusion(writer, &m.confusion)?);
    }
    let surest = metrics::mistakes(&out.logits, &rows.labels, subject.info.classes, MISTAKES);
    let mistake = |m: &metrics::Mistake| {
        json!({
            "source_index": rows.source_index[m.row],
            "label": m.label,
            "prediction": m.prediction,
            "probability": m.probability,
        })
    };
    numbers.insert("mistakes".into(), surest.iter().map(mistake).collect());
    // With these, a report needs only the metrics manifests.
    numbers.insert("cls_num_list".into(), json!(subject.info.cls_num_list));
    numbers.insert("class_names".into(), json!(subject.info.class_names));
    Ok(Done { outputs, metrics: numbers, run })
}

/// Writes [`CONFUSION`]. Its bytes depend on the counts alone: they are sorted, and there is no metadata.
fn write_confusion(writer: &Writer, confusion: &Confusion) -> Result<Produced> {
    let cells = &confusion.cells;
    let n = cells.len();
    let labels: Vec<i64> = cells.iter().map(|c| c.label as i64).collect();
    let predicted: Vec<i64> = cells.iter().map(|c| c.predicted as i64).collect();
    let count = |n: u64| u32::try_from(n).expect("the logits of 2³² images do not fit in memory");
    let counts: Vec<u32> = cells.iter().map(|c| count(c.count)).collect();
    let tensors = [
        ("true", Tensor::from_vec(labels, n, &Device::Cpu)?),
        ("predicted", Tensor::from_vec(predicted, n, &Device::Cpu)?),
        ("count", Tensor::from_vec(counts, n, &Device::Cpu)?),
    ];
    let bytes = safetensors::serialize(tensors, None)?;
    write_atomic(&writer.dir().join(CONFUSION), |f| f.write_all(&bytes))?;
    Ok(Produced { role: "confusion", name: CONFUSION.into(), rows: Some(n as u64) })
}
