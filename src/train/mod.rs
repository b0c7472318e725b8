//! Training: what to do ([`config`], by default that of a [`recipe`]), at which learning rate ([`schedule`]),
//! on which batches ([`plan`]), and the loop over the epochs, which can be killed at any moment and resumes
//! after the last finished epoch.
//!
//! At the end of an epoch (on a GPU, of the first one that ends more than a second after the last write) the
//! log, the best weights and the state are replaced, each atomically and in this order. New best weights have
//! a name of their own until the state that refers to them is written, so the best weights that the state
//! refers to always exist, whenever the process is killed. A log that is ahead of the state is cut; the
//! epochs since the state are repeated with the same numbers and write the same bytes.

mod change;
mod classifier;
pub mod config;
pub mod engine;
mod memory;
pub mod plan;
mod progress;
pub mod recipe;
pub mod schedule;
pub mod start;
pub mod tensorboard;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backend::Rates;
use crate::backend::cpu::net::Net;
use crate::backend::device::Device;
use crate::data::Info;
use crate::data::features::Features;
use crate::data::shard::Split;
use crate::manifest::store::{Done, Produced};
use crate::manifest::{Kind, Manifest, object};
use crate::methods::classifier::Classifier;
use crate::net::Params;
use crate::net::files::{self, StateDict};
use classifier::OnFeatures;
use config::{Config, Select};
use engine::Engine;
use plan::Plan;
use progress::Reached;
use start::Start;

/// Version of the meaning of `train`; raised when the same params would give another result.
///
/// 2: the loss and the variance of batch norm keep their precision where logits and means are large;
/// accuracies on a GPU are computed in f32 in bf16 trainings too; recipes do not lower the rate before the
/// third epoch.
pub const SEMANTICS: u32 = 2;

/// Version of the meaning of `train` with RandAugment.
///
/// 3: Solarize inverts the pixels that torchvision's inverts at all magnitudes.
pub const RAND_AUGMENT: u32 = 3;

/// Version of the meaning of `train` for classifiers on features.
///
/// 3: nearest class means are computed from centred features, which keeps their precision; the state of LWS
/// has the weights without their scales.
pub const SECOND_STAGE: u32 = 3;

/// Weights after the last epoch.
pub const LAST: &str = "last.safetensors";
/// Weights after the epoch that was selected, see [`Select`].
pub const BEST: &str = "best.safetensors";
/// New best weights that the state does not refer to yet.
const NEXT_BEST: &str = "best.next.safetensors";
/// Everything that a resumed training needs.
pub const STATE: &str = "state.safetensors";
/// The log: one JSON object per epoch.
pub const LOG: &str = "log.jsonl";
/// All files that a training makes.
pub const FILES: [&str; 5] = [LAST, BEST, NEXT_BEST, STATE, LOG];

/// The results of one epoch; a line of `log.jsonl`. Accuracies are in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// The epoch that has ended, counted from 1.
    pub epoch: u32,
    /// Number of epochs of the run.
    pub epochs: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Learning rate of the epoch.
    pub lr: f32,
    /// Training loss: the mean over the epoch's images of the loss of their batch.
    pub loss: f64,
    /// Training images classified correctly during training; a mixed label counts by its share.
    pub train_top1: f64,
    /// Test images classified correctly after the epoch.
    pub test_top1: f64,
    /// Validation images classified correctly after the epoch, if they select the best epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_top1: Option<f64>,
    /// Training images per second, without evaluation.
    pub images_per_second: f64,
    /// Seconds of the epoch, evaluation included.
    pub seconds: f64,
    /// What computed the epoch: the instruction set of a CPU, or a GPU. Empty in logs of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub computed_by: String,
}

/// An event of a run in progress.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The run begins, or resumes after an epoch of an earlier call.
    Begin {
        /// Number of epochs that are already done.
        done: u32,
        /// Number of steps per epoch.
        steps: usize,
    },
    /// A step has ended. Not reported on GPUs, whose epochs are short.
    Step {
        /// The step, counted from 1.
        step: usize,
    },
    /// An epoch has ended. On the CPU its results are on disk.
    Epoch(&'a EpochReport),
}

/// Minimum time between two writes of a GPU's run, whose epochs may be shorter than a write takes. On the CPU
/// every epoch is written.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// Advice where values are not finite.
const SLOWER: &str = "try a smaller --lr, or --warmup 5";

fn check_loss(loss: f64, epoch: u32, step: usize) -> Result<()> {
    if !loss.is_finite() {
        bail!("the loss is {loss} in epoch {epoch}, step {}; {SLOWER}", step + 1);
    }
    Ok(())
}

/// A training to run.
pub struct Job<'a> {
    /// The choices that can change its result.
    pub config: &'a Config,
    /// How the best epoch is selected.
    pub select: Select,
    /// The version of `train` that began it.
    pub begun_by: u32,
    /// The images, or the features of images.
    pub dataset: &'a Manifest,
    /// The weights to start from, if not random ones.
    pub start: Option<&'a Start>,
}

/// Trains, or resumes where an earlier call was stopped: from the state in `dir`, if there is one.
///
/// # Errors
/// Returns an error if data or state are damaged, if the loss is not finite, if a file cannot be written (as
/// on a full disk) or if a GPU cannot be used, and [`crate::interrupt::Interrupted`] after a signal.
pub fn run(job: &Job, dir: &Path, device: Device, on: &mut dyn FnMut(Event)) -> Result<Done> {
    match job.dataset.kind {
        Kind::Embedding => on_features(job, dir, on),
        _ => on_images(job, dir, device, on),
    }
}

/// Returns the names of the splits on which accuracy is measured.
fn judged(select: Select) -> &'static [&'static str] {
    if select == Select::Val { &["test", "val"] } else { &["test"] }
}

fn on_images(job: &Job, dir: &Path, device: Device, on: &mut dyn FnMut(Event)) -> Result<Done> {
    let Job { config, select, begun_by, dataset, start } = *job;
    let info = Info::of(dataset)?;
    let train = Split::open(dataset, "train")?;
    let judged = judged(select).iter().map(|name| Ok((*name, Split::open(dataset, name)?)));
    let judged = judged.collect::<Result<Vec<_>>>()?;
    for (name, split) in &judged {
        ensure!(
            train.stored() == split.stored(),
            "train images have the shape {:?}, but {name} images {:?}; make the data set again",
            train.stored(),
            split.stored()
        );
    }
    let plan = Plan::new(config, train.labels(), train.shape(), &info.cls_num_list)?.cropping(train.stored());
    let batch = config.batch_size.min(train.len());
    let network = config.network();
    if !device.is_cuda() {
        let needed = Net::bytes(&network, train.shape(), info.classes, batch, config.precision.dtype())?;
        memory::check(needed, memory::available(), batch)?;
    }
    let params = Params::new(&network, info.classes)?;
    let (reached, log) = match progress::resume(&params, dir, begun_by)? {
        Some(found) => found,
        None => {
            params.init(config.seed)?;
            if let Some(start) = start {
                start.load(&params, &info)?;
            }
            Default::default()
        }
    };
    let criterion = config.criterion(&info.cls_num_list);
    let splits = judged.iter().map(|(_, split)| split).collect();
    let engine = Engine::new(device, config, params, criterion, &train, splits)?;
    let keep_every = if device.is_cuda() { KEEP_EVERY } else { Duration::ZERO };
    epochs(job, dir, engine, &plan, (reached, log), keep_every, on)
}

/// Trains a classifier on the features of a network whose other weights are in `start`.
fn on_features(job: &Job, dir: &Path, on: &mut dyn FnMut(Event)) -> Result<Done> {
    let Job { config, select, begun_by, dataset, start } = *job;
    let info = Info::of(dataset)?;
    let classifier = config
        .classifier
        .context("features can only train a classifier; add --classifier linear, or another one")?;
    let open = |split: &str| Features::open(dataset, split);
    let train = open("train")?;
    let judged = judged(select).iter().map(|split| open(split)).collect::<Result<_, _>>()?;
    let is_auto = matches!(classifier, Classifier::TauNorm { tau_norm: None });
    let val = is_auto.then(|| open("val")).transpose()?;
    let plan = Plan::new(config, train.labels(), [1, 1, train.width()], &info.cls_num_list)?;
    let plan = plan.repeating(train.passes() as u32);
    let network = config.network();
    let mut rest = match start {
        Some(start) => start.network(&network, info.classes, classifier.keeps_weights())?,
        None => StateDict::new(),
    };
    let own = network.without_layers();
    let params = Params::new(&own, info.classes)?;
    // A classifier that is computed at once has no state to resume from.
    let found = if classifier.is_trained() { progress::resume(&params, dir, begun_by)? } else { None };
    let goes_on = found.is_some();
    let (reached, log) = match found {
        Some(found) => found,
        None => {
            params.init(config.seed)?;
            if classifier.keeps_weights() {
                ensure!(
                    start.is_some(),
                    "the features were imported, so there is no classifier to rescale; use --classifier linear, \
                     cosine, ncm, ncm-cosine or knn"
                );
                params.load(&rest)?;
            }
            Default::default()
        }
    };
    rest.retain(|name, _| !name.starts_with(&format!("{}.", network.classifier.name)));
    let splits = classifier::Splits { train, judged, val };
    let engine = OnFeatures::new(config, classifier, params, goes_on, rest, &info.cls_num_list, splits)?;
    epochs(job, dir, Engine::of_features(engine), &plan, (reached, log), Duration::ZERO, on)
}

/// Trains to the end of the run, from where an earlier call was stopped. Files are written after the epochs
/// that end at least `keep_every` after the last write, and after the last epoch.
fn epochs(
    job: &Job,
    dir: &Path,
    mut engine: Engine,
    plan: &Plan,
    (mut reached, mut log): (Reached, Vec<EpochReport>),
    keep_every: Duration,
    on: &mut dyn FnMut(Event),
) -> Result<Done> {
    let (config, info) = (job.config, Info::of(job.dataset)?);
    let (kind, computer) = engine.describe();
    warn_of_other_computers(&log, &computer);
    on(Event::Begin { done: reached.epoch, steps: plan.steps() });
    // When the files were last written, and the best weights that have not been written yet.
    let (mut kept, mut best) = (None::<Instant>, None);
    for epoch in reached.epoch + 1..=config.epochs {
        let report = run_epoch(config, &mut engine, plan, epoch, on)?;
        reached.epoch = epoch;
        reached.steps += plan.steps() as u64;
        log.push(report.clone());
        let is_due = kept.is_none_or(|t| t.elapsed() >= keep_every);
        let now = is_due || epoch == config.epochs;
        let better = reached.is_best(&report, job.select, now);
        if better || now {
            engine.give()?;
            let state = finite_weights(&engine, epoch)?;
            if better {
                reached.set_best(&report, &state);
                best = Some((state, reached.steps));
            }
        }
        if now {
            reached.save(dir, &log, best.take(), &engine.training_state()?)?;
            kept = Some(Instant::now());
        }
        on(Event::Epoch(&report));
    }
    files::save(&dir.join(LAST), &engine.state_dict()?, reached.steps, None)?;
    reached.check_best(&dir.join(BEST))?;
    let mut done = finish(&reached, job.select, &log, kind)?;
    done.metrics.insert("class_names".into(), info.class_names.into());
    if let Some(tau) = engine.tau_norm() {
        done.metrics.insert("tau_norm".into(), json!(tau));
    }
    if let Some(preprocess) = info.preprocess {
        done.metrics.insert("preprocess".into(), json!(preprocess));
    }
    Ok(done)
}

/// Warns if earlier epochs of the run were computed by something else, which rounds differently.
fn warn_of_other_computers(log: &[EpochReport], computer: &str) {
    let before = progress::computers(log);
    if before.iter().any(|by| *by != computer) {
        log::warn!(
            "computed by {} so far, and by {computer} from here on: none of them alone would compute the same \
             bytes as this run",
            before.join(", ")
        );
    }
}

/// Trains one epoch and measures the accuracy after it.
fn run_epoch(
    config: &Config,
    engine: &mut Engine,
    plan: &Plan,
    epoch: u32,
    on: &mut dyn FnMut(Event),
) -> Result<EpochReport> {
    let started = Instant::now();
    let rates = Rates {
        lr: config.lr_at(epoch),
        momentum: config.momentum as f32,
        weight_decay: config.weight_decay as f32,
        nesterov: config.nesterov,
    };
    let (loss, right) = engine.epoch(plan, epoch, rates, &mut |step| on(Event::Step { step }))?;
    let trained = started.elapsed().as_secs_f64();
    let top1 = engine.top1()?;
    let images = plan.images_per_epoch() as f64;
    Ok(EpochReport {
        epoch,
        epochs: config.epochs,
        seed: config.seed,
        lr: rates.lr,
        loss: loss / images,
        train_top1: 100.0 * right / images,
        test_top1: top1[0],
        val_top1: top1.get(1).copied(),
        images_per_second: round(images / trained),
        seconds: round(started.elapsed().as_secs_f64()),
        computed_by: engine.describe().1,
    })
}

/// Returns the weights after an epoch.
fn finite_weights(engine: &Engine, epoch: u32) -> Result<StateDict> {
    let state = engine.state_dict()?;
    // The loss of the last step was computed before its update.
    ensure!(
        state.values().all(|v| v.data.iter().all(|x| x.is_finite())),
        "the weights are no longer finite after epoch {epoch}; {SLOWER}"
    );
    Ok(state)
}

fn finish(reached: &Reached, select: Select, log: &[EpochReport], kind: &str) -> Result<Done> {
    let last = log.last().context("a training has at least one epoch")?;
    let mut speed: Vec<f64> = log.iter().map(|e| e.images_per_second).collect();
    speed.sort_by(f64::total_cmp);
    let file = |role, name: &str, rows| Produced { role, name: name.to_owned(), rows };
    let mut metrics = object(json!({
        "last_top1": last.test_top1,
        "best_top1": reached.best_top1,
        "best_epoch": reached.best_epoch,
        "selected_on": select.name(),
        "last_loss": last.loss,
        "last_train_top1": last.train_top1,
        "epochs": last.epoch,
    }));
    let on_val = [("last_val_top1", last.val_top1), ("best_val_top1", reached.best_val_top1)];
    metrics.extend(on_val.into_iter().filter_map(|(name, top1)| Some((name.to_owned(), top1?.into()))));
    Ok(Done {
        outputs: vec![
            file("last", LAST, None),
            file("best", BEST, None),
            file("state", STATE, None),
            file("log", LOG, Some(log.len() as u64)),
        ],
        metrics,
        run: object(json!({
            "train_images_per_second": speed[speed.len() / 2],
            kind: progress::computers(log).join(", "),
        })),
    })
}

fn round(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}
