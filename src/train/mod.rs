//! Training: what to do ([`config`]), at which learning rate ([`schedule`]), on which batches ([`plan`]), and the loop
//! over the epochs, which can be killed at any moment and goes on from the last finished epoch.
//!
//! At the end of an epoch (on a GPU of the first that is a second after the last such) the log, the best weights and the state are
//! replaced, each atomically and in this order. A kill between them leaves a state that is older than the other two; the
//! epochs since are then repeated with the same numbers and write the same bytes.

pub mod config;
pub mod engine;
pub mod plan;
pub mod schedule;
pub mod tensorboard;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::data::Info;
use crate::data::shard::Split;
use crate::device::Device;
use crate::manifest::store::{Done, Produced, write_atomic};
use crate::manifest::{Manifest, Object};
use crate::model::resnet::Net;
use crate::model::weights;
use crate::ops::sgd::Rates;
use config::Config;
use engine::{Engine, host_batch};
use plan::Plan;

/// Version of what `train` means; raised when the same params would give another result.
pub const SEMANTICS: u32 = 1;

/// Weights after the last epoch.
pub const LAST: &str = "last.safetensors";
/// Weights after the epoch with the best accuracy on the test set.
pub const BEST: &str = "best.safetensors";
/// Everything that a resumed training needs.
pub const STATE: &str = "state.safetensors";
/// One JSON object an epoch.
pub const LOG: &str = "log.jsonl";

/// What one epoch came to; a line of `log.jsonl`. Accuracies are in percent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// The epoch that has ended, from 1.
    pub epoch: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Learning rate of the epoch.
    pub lr: f32,
    /// Training loss: the mean over the epoch's images, each with the loss of its batch.
    pub loss: f64,
    /// Training images classified right while training, a mixed label counting by its share.
    pub train_top1: f64,
    /// Test images classified right after the epoch.
    pub test_top1: f64,
    /// Training images a second, without evaluation.
    pub images_per_second: f64,
    /// Seconds of the epoch, evaluation included.
    pub seconds: f64,
    /// What computed it: a CPU's instruction set or a GPU. Earlier versions did not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub computed_by: String,
}

/// How far a training is; the metadata of its state file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Reached {
    epoch: u32,
    steps: u64,
    best_epoch: u32,
    best_top1: f64,
    /// Hashes of the state's own tensors, of those of the best weights and of the log: until the manifest is
    /// published, nothing else would tell of damage, and a damaged file must never be published as sound.
    state_blake3: String,
    best_blake3: String,
    log_blake3: String,
}

/// How often a GPU's run is written, whose epochs may be shorter than that takes. On the CPU every epoch is.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// What to do where files of an earlier call cannot be used.
const ANEW: &str = "cannot go on from here; --force starts the training anew";

/// What to do about numbers that are none.
const SLOWER: &str = "try a smaller --lr, or --warmup 5";

/// Name of the metadata entry that holds [`Reached`].
const REACHED: &str = "reached";

/// Trains, or goes on where an earlier call was stopped: from the state in `dir`, if there is one.
///
/// # Errors
/// Damaged data or state, a loss that is no number, a full disk, a GPU that cannot be used;
/// [`crate::interrupt::Interrupted`] after a signal.
pub fn run(
    config: &Config,
    dataset: &Manifest,
    dir: &Path,
    device: Device,
    on_epoch: &mut dyn FnMut(&EpochReport),
) -> Result<Done> {
    let info = Info::of(dataset)?;
    let (train, test) = (Split::open(dataset, "train")?, Split::open(dataset, "test")?);
    ensure!(
        train.shape() == test.shape(),
        "train images are {:?}, test images {:?}; make the data set again",
        train.shape(),
        test.shape()
    );
    let plan = Plan::new(config, train.labels(), train.shape(), &info.cls_num_list)?;
    let batch = config.batch_size.min(train.len());
    let room = host_batch(device, batch);
    check_memory(
        Net::bytes(config.arch, train.shape(), room, config.precision.dtype()),
        available_memory(),
        batch,
    )?;
    let mut net = Net::new(config.arch, train.shape(), info.classes, room, config.precision.dtype())?;
    net.criterion = config.loss.criterion(&info.cls_num_list);
    let (mut reached, mut log) = match resume(&net, dir)? {
        Some(found) => {
            log::info!("going on after epoch {} of {}", found.0.epoch, config.epochs);
            found
        }
        None => {
            net.init(config.seed)?;
            Default::default()
        }
    };
    let mut engine = Engine::new(device, config, &net, &train, &test, batch)?;
    let (kind, computer) = engine.describe();
    let before = computers(&log);
    if before.iter().any(|by| *by != computer) {
        log::warn!(
            "computed by {} so far, goes on by {computer}: none alone gives the bytes of this run",
            before.join(", ")
        );
    }
    // When the files were last written, and the best weights that are not among them yet.
    let (mut kept, mut best) = (None::<Instant>, None);
    for epoch in reached.epoch + 1..=config.epochs {
        let started = Instant::now();
        let rates = Rates {
            lr: config.lr_at(epoch),
            momentum: config.momentum as f32,
            weight_decay: config.weight_decay as f32,
        };
        let (loss, right) = engine.epoch(&plan, epoch, rates)?;
        let trained = started.elapsed().as_secs_f64();
        let test_top1 = engine.top1(info.classes)?;
        reached.epoch = epoch;
        reached.steps += plan.steps() as u64;
        let report = EpochReport {
            epoch,
            epochs: config.epochs,
            seed: config.seed,
            lr: rates.lr,
            loss: loss / train.len() as f64,
            train_top1: 100.0 * right / train.len() as f64,
            test_top1,
            images_per_second: round(train.len() as f64 / trained),
            seconds: round(started.elapsed().as_secs_f64()),
            computed_by: computer.clone(),
        };
        log.push(report.clone());
        let better = test_top1 > reached.best_top1 || reached.best_epoch == 0;
        let now =
            !device.is_cuda() || epoch == config.epochs || kept.is_none_or(|t| t.elapsed() > KEEP_EVERY);
        if better || now {
            engine.give()?;
            let state = net.state_dict()?;
            // The loss of the last step was taken before its update.
            ensure!(
                state.values().all(|v| v.data.iter().all(|x| x.is_finite())),
                "the weights are no longer finite after epoch {epoch}; {SLOWER}"
            );
            if better {
                (reached.best_epoch, reached.best_top1) = (epoch, test_top1);
                reached.best_blake3 = weights::digest(&state);
                best = Some((state, reached.steps));
            }
        }
        if now {
            let text = lines(&log)?;
            write_atomic(&dir.join(LOG), |f| f.write_all(text.as_bytes()))?;
            reached.log_blake3 = log_digest(&log)?;
            if let Some((state, steps)) = best.take() {
                weights::save(&dir.join(BEST), &state, steps, None)?;
            }
            let state = net.training_state()?;
            reached.state_blake3 = weights::digest(&state);
            let note = serde_json::to_string(&reached)?;
            weights::save(&dir.join(STATE), &state, reached.steps, Some((REACHED, note)))?;
            kept = Some(Instant::now());
        }
        on_epoch(&report);
    }
    weights::save(&dir.join(LAST), &net.state_dict()?, reached.steps, None)?;
    let best = dir.join(BEST);
    let (found, _) = weights::open(&best).context(ANEW)?;
    ensure!(
        weights::digest(&found) == reached.best_blake3,
        "{}: not the weights of epoch {}, it was changed or damaged; {ANEW}",
        best.display(),
        reached.best_epoch
    );
    finish(&reached, &log, kind)
}

/// Refuses a network for which there is no memory: the system would end the program, or others, without a word.
fn check_memory(needed: u64, available: Option<u64>, batch: usize) -> Result<()> {
    match available {
        Some(available) if needed > available => bail!(
            "batches of {batch} images need {} MiB of memory, {} MiB are free; lower --batch-size",
            needed >> 20,
            available >> 20
        ),
        _ => Ok(()),
    }
}

/// Bytes of memory that can be had, swap included, where the system says it as Linux does.
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let of = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some((of("MemAvailable:")? + of("SwapFree:").unwrap_or(0)) << 10)
}

/// Takes up the state in the directory, with the log as far as the state goes.
fn resume(net: &Net, dir: &Path) -> Result<Option<(Reached, Vec<EpochReport>)>> {
    let path = dir.join(STATE);
    if !path.exists() {
        return Ok(None);
    }
    let at = || format!("{}: {ANEW}", path.display());
    let (state, notes) = weights::open(&path).context(ANEW)?;
    let reached: Reached = notes
        .get(REACHED)
        .context("does not say how far the training is")
        .and_then(|text| Ok(serde_json::from_str(text)?))
        .with_context(at)?;
    ensure!(weights::digest(&state) == reached.state_blake3, "{}: it was changed or damaged", at());
    net.resume(&state).with_context(at)?;
    let path = dir.join(LOG);
    let at = || format!("{}: {ANEW}", path.display());
    let text = fs::read_to_string(&path).with_context(at)?;
    // A kill may have left the log one epoch ahead of the state.
    let lines = text.lines().take(reached.epoch as usize);
    let log = lines.map(serde_json::from_str).collect::<Result<Vec<_>, _>>().with_context(at)?;
    ensure!(log_digest(&log)? == reached.log_blake3, "{}: it was changed or damaged", at());
    Ok(Some((reached, log)))
}

/// What computed the epochs of a log, in turn: more than one where a run was stopped and went on elsewhere.
fn computers(log: &[EpochReport]) -> Vec<&str> {
    let by = log.iter().map(|e| if e.computed_by.is_empty() { "unknown" } else { &e.computed_by });
    let mut all: Vec<&str> = by.collect();
    all.dedup();
    all
}

/// The text of the log.
fn lines(log: &[EpochReport]) -> Result<String> {
    log.iter().map(|epoch| Ok(serde_json::to_string(epoch)? + "\n")).collect()
}

/// Hash of a log without its times and computers: the state that holds it must be the same in every run.
fn log_digest(log: &[EpochReport]) -> Result<String> {
    let timeless = |e: &EpochReport| EpochReport {
        images_per_second: 0.0,
        seconds: 0.0,
        computed_by: String::new(),
        ..e.clone()
    };
    let timeless: Vec<_> = log.iter().map(timeless).collect();
    Ok(blake3::hash(lines(&timeless)?.as_bytes()).to_hex().to_string())
}

fn finish(reached: &Reached, log: &[EpochReport], kind: &str) -> Result<Done> {
    let last = log.last().context("a training has at least one epoch")?;
    let mut speed: Vec<f64> = log.iter().map(|e| e.images_per_second).collect();
    speed.sort_by(f64::total_cmp);
    let object = |value: Value| value.as_object().cloned().unwrap_or_else(Object::new);
    let file = |role, name: &str, rows| Produced { role, name: name.to_owned(), rows };
    Ok(Done {
        outputs: vec![
            file("last", LAST, None),
            file("best", BEST, None),
            file("state", STATE, None),
            file("log", LOG, Some(log.len() as u64)),
        ],
        metrics: object(json!({
            "last_top1": last.test_top1,
            "best_top1": reached.best_top1,
            "best_epoch": reached.best_epoch,
            "last_loss": last.loss,
            "last_train_top1": last.train_top1,
            "epochs": last.epoch,
        })),
        run: object(json!({
            "train_images_per_second": speed[speed.len() / 2],
            kind: computers(log).join(", "),
        })),
    })
}

fn round(x: f64) -> f64 {
    (x * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::model::Arch;

    #[test]
    fn memory_is_asked_for_before_it_is_taken() {
        let needed = |batch| Net::bytes(Arch::RESNET32, [32, 32, 3], batch, DType::F32);
        // The stem, one more of the first stage, 15 blocks of three outputs, and twice each stage's end.
        let values = 3 * 16_384 + 5 * 3 * (16_384 + 8_192 + 4_096) + 2 * (16_384 + 8_192 + 4_096);
        assert_eq!(needed(128), values * 128 * 4);
        assert!(check_memory(needed(128), None, 128).is_ok() && check_memory(5, Some(5), 1).is_ok());
        let refused = check_memory(needed(65_536), Some(8 << 30), 65_536).expect_err("131 GiB").to_string();
        assert!(refused.contains("134144 MiB") && refused.contains("lower --batch-size"), "{refused}");
        if cfg!(target_os = "linux") {
            assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
        }
    }

    #[test]
    fn what_computed_is_told_in_turn() {
        let line = |by: &str| {
            let text = r#"{"epoch":1,"epochs":9,"seed":0,"lr":0.1,"loss":1.0,"train_top1":1.0,"test_top1":1.0,
                "images_per_second":1.0,"seconds":1.0"#;
            let by = if by.is_empty() { "}".into() } else { format!(r#","computed_by":"{by}"}}"#) };
            serde_json::from_str::<EpochReport>(&(text.to_owned() + &by)).expect("a line of a log")
        };
        let log = ["", "", "avx2", "amx", "amx", "avx2"].map(line);
        assert_eq!(computers(&log), ["unknown", "avx2", "amx", "avx2"]);
        assert_eq!(log_digest(&log).ok(), log_digest(&[""; 6].map(line)).ok(), "who computed is not hashed");
    }
}
