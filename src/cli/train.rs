//! `train`: trains classifiers on a data set, one run per seed, and prints their checkpoint manifests.
//!
//! Flags become configurations in [`flags`]; the training itself is [`crate::train`]. This module gives each
//! run its directory, and protects what is already in it: hours of training are never thrown away without
//! `--force`.

pub mod flags;
mod given;
mod init;
mod names;
mod options;
mod parallel;
mod progress;
pub mod values;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

pub(super) use self::flags::Flags;
use self::init::Init;
use self::names::{directory, name};
use self::progress::{Board, Progress};
use super::{differences, is_broken_pipe, run_plan};
use crate::backend::device::Device;
use crate::data::shard::Split;
use crate::data::{Info, Normalise};
use crate::manifest::store::{self, Done, Plan, Writer};
use crate::manifest::{self, Kind, Manifest, hash, source};
use crate::methods::classifier::Classifier;
use crate::methods::mix::Partner;
use crate::train::config::{Config, Select};
use crate::train::{Event, FILES, Job, LOG, RAND_AUGMENT, SECOND_STAGE, SEMANTICS, STATE, tensorboard};

/// Runs the tool.
pub fn main() -> ExitCode {
    super::main("train", |a: &Flags| &a.common, run)
}

fn run(flags: Flags) -> Result<()> {
    let kind = if flags.classifier.is_some() { Kind::Embedding } else { Kind::Dataset };
    let all = flags.swept(std::env::args_os())?;
    // A value that the sweep would refuse is reported before anything is trained.
    all.iter().try_for_each(|flags| flags.configs().map(drop))?;
    let datasets = source::read_all(&all[0].datasets, "train", kind).map_err(|e| match e {
        manifest::Error::WrongKind { found: "dataset", .. } if kind == Kind::Embedding => {
            anyhow::Error::new(e)
                .context("--classifier: takes features; write them with embed CHECKPOINT --splits train,test")
        }
        manifest::Error::WrongKind { found: "embedding", .. } => anyhow::Error::new(e)
            .context("features can only train a classifier; add --classifier linear, or another one"),
        e => e.into(),
    })?;
    // The weights are read once for all values of a sweep, because they may come from stdin.
    let init = |path: &Path| {
        let which = all[0].init_checkpoint.as_deref();
        Init::of(path, which).with_context(|| format!("--init {}", path.display()))
    };
    let init = all[0].init.as_deref().map(init).transpose()?;
    all.iter().try_for_each(|flags| train(flags, &datasets, init.as_ref()))
}

/// Trains on all data sets with each seed.
fn train(flags: &Flags, datasets: &[Manifest], init: Option<&Init>) -> Result<()> {
    let configs = flags.configs()?;
    let device = device(flags, &configs[0], datasets)?;
    warn_of_milestones(&configs[0]);
    if let (Some(out), true) = (&flags.common.out, datasets.len() > 1) {
        bail!("--out {}: is for one data set, but {} were given; omit it", out.display(), datasets.len());
    }
    let mut runs = Vec::new();
    for dataset in datasets {
        for config in &configs {
            runs.push(Run::new(flags, config, dataset, init)?);
        }
    }
    let several = datasets.len() > 1;
    let names = runs.iter().map(|run| name(&run.config, several.then_some(run.dataset)));
    let epochs = configs[0].classifier.is_none_or(Classifier::is_trained).then_some(configs[0].epochs);
    let board = Board::new(names.collect(), epochs, flags.common.quiet);
    let only_asked = flags.common.dry_run || flags.common.explain || flags.common.verify;
    let board = Mutex::new(board);
    let one = |number: usize| {
        let run = &runs[number];
        let progress = || board.lock().unwrap_or_else(PoisonError::into_inner).start(number);
        match run_plan(&run.plan, &flags.common, |writer| work(writer, run, flags, device, progress())) {
            // Nobody reads the manifests any more, but the trainings were asked for all the same.
            Err(e) if e.chain().any(is_broken_pipe) => {}
            made => drop(made?),
        }
        if flags.tensorboard && !only_asked {
            // Also for a run that was already there.
            tensorboard::update(&run.plan.dir)?;
        }
        Ok(())
    };
    match side_by_side(flags, device, runs.len()) {
        1 => (0..runs.len()).try_for_each(one),
        threads => parallel::for_each(runs.len(), threads, one),
    }
}

/// Field of `run`: the version of `train` that computed the last epochs, if an earlier one began the run.
const FINISHED_BY: &str = "finished_by_semantics";

/// A training to run.
struct Run<'a> {
    config: Config,
    /// Which epoch is kept as the best.
    select: Select,
    dataset: &'a Manifest,
    init: Option<Init>,
    plan: Plan,
    /// The version of `train` that computes it.
    version: u32,
}

impl<'a> Run<'a> {
    fn new(flags: &Flags, config: &Config, dataset: &'a Manifest, init: Option<&Init>) -> Result<Run<'a>> {
        // Features are those of a network, whose weights become part of the result.
        let network = config.classifier.map(|_| init::network_of(dataset)).transpose()?;
        let arch = network.as_ref().map_or(config.arch, |(arch, _)| *arch);
        let init = network.as_ref().and_then(|(_, init)| init.as_ref()).or(init);
        let usual = Select::usual(has_val(dataset));
        let select = config.select.unwrap_or(usual);
        let needs_val = needs_val(config, select, dataset)?;
        let config = Config { arch, select: Some(select).filter(|s| *s != usual), ..config.clone() };
        let config = completed(config, dataset, init)?;
        let version = match config.classifier {
            Some(_) => SECOND_STAGE,
            None if config.rand_augment.is_some() => RAND_AUGMENT,
            None => SEMANTICS,
        };
        // An unfinished run of version 1 continues under its key of version 1, and is found by that key once
        // it is finished. That version always selected by the test split.
        if select == usual && !flags.common.force && init.is_none() && config.classifier.is_none() {
            let plan = plan(flags, &config, dataset, None, 1, &["train", "test"])?;
            if is_begun(&plan) {
                return Ok(Run { config, select: Select::Test, dataset, init: None, plan, version });
            }
        }
        let splits: &[&str] = if needs_val { &["train", "val", "test"] } else { &["train", "test"] };
        let plan = plan(flags, &config, dataset, init, version, splits)?;
        if let Some(init) = init {
            init.check(config.arch, &plan.dir)?;
        }
        Ok(Run { config, select, dataset, init: init.cloned(), plan, version })
    }
}

fn has_val(dataset: &Manifest) -> bool {
    dataset.outputs_of("val").next().is_some()
}

/// Returns whether a run chooses anything on the validation split, which must then exist.
fn needs_val(config: &Config, select: Select, dataset: &Manifest) -> Result<bool> {
    let is_auto = matches!(config.classifier, Some(Classifier::TauNorm { tau_norm: None }));
    if select == Select::Val && !has_val(dataset) {
        bail!(
            "--select val: {} has no validation split; make one with mk-imbalance \
             --val-fraction, or use --select test or last",
            dataset.path.as_deref().unwrap_or(Path::new("the data set")).display()
        );
    }
    if is_auto && !has_val(dataset) {
        bail!(
            "--tau-norm auto: chooses the value on the validation split, but the features have none; \
             give a value"
        );
    }
    Ok(select == Select::Val || is_auto)
}

/// Completes a configuration by what the data set and the initial weights state.
fn completed(config: Config, dataset: &Manifest, init: Option<&Init>) -> Result<Config> {
    let info = Info::of(dataset)?;
    let normalise = info.normalise.unwrap_or(Normalise::CIFAR);
    let other = init.filter(|_| config.classifier.is_none()).and_then(|init| init.start.other_classes(&info));
    if let Some(init) = init {
        init.compare(normalise, info.preprocess)?;
    }
    if config.crop_padding.is_some() && info.crop.is_some() {
        bail!("--crop-padding: does nothing here, because crops are taken from larger images; omit it");
    }
    Ok(Config {
        mean: normalise.mean,
        std: normalise.std,
        preprocess: info.preprocess,
        class_names: info.names_id(),
        init: init.map(Init::name),
        init_checkpoint: init.and_then(|init| init.which.clone()),
        new_classifier: other.map(|_| true),
        ..config
    })
}

/// Plans a run by a version of `train` that uses these splits.
fn plan(
    flags: &Flags,
    config: &Config,
    dataset: &Manifest,
    init: Option<&Init>,
    version: u32,
    splits: &[&str],
) -> Result<Plan> {
    let init = init.map(|init| init.input.clone());
    let inputs = [dataset.as_input("dataset", splits)?].into_iter().chain(init).collect();
    let dir = |key: &str| directory(flags, config, dataset, key);
    Ok(Plan::new(Kind::Checkpoint, version, config.params(), inputs, dir))
}

/// Returns whether version 1 began a run, which this version has finished or can continue.
fn is_begun(plan: &Plan) -> bool {
    let is_own = |m: Manifest| m.own_key() == plan.key();
    match plan.existing() {
        Some(m) => m.run.contains_key(FINISHED_BY) && is_own(m),
        None => plan.dir.join(STATE).exists() && plan.unfinished().is_some_and(is_own),
    }
}

/// Logs that a milestone at epoch 1 leaves no epoch with the rate of `--lr`, and warns of a milestone after the
/// last epoch.
fn warn_of_milestones(config: &Config) {
    let Config { lr, epochs, milestones, .. } = config;
    if milestones.first() == Some(&1) {
        let none = if under_make() { "FLAGS=milestones=none" } else { "--milestones none" };
        log::info!(
            "epoch 1 is a milestone, so no epoch has the learning rate {lr} of --lr; {none} keeps it constant"
        );
    }
    if let Some(late) = milestones.iter().find(|m| *m > epochs) {
        log::warn!("--milestones {late}: does nothing, because there are only {epochs} epochs");
    }
}

/// Returns whether make called the tool; users then set flags through its variables.
fn under_make() -> bool {
    std::env::var_os("MAKELEVEL").is_some()
}

/// Returns the device of the runs, which differ in their seeds alone. Calls that train nothing need no GPU.
fn device(flags: &Flags, config: &Config, datasets: &[Manifest]) -> Result<Device> {
    let common = &flags.common;
    if common.dry_run || common.explain || common.verify {
        return Ok(Device::Cpu);
    }
    let asked = &common.device;
    if config.classifier.is_some() {
        if asked.starts_with("cuda") {
            bail!("--device {asked}: classifiers are trained on the CPU; use --device cpu");
        }
        return Ok(Device::Cpu);
    }
    // A data set that is missing is not needed where its runs are done, and is an error elsewhere.
    let sizes = datasets.iter().filter_map(|dataset| {
        let train = Split::open(dataset, "train").ok()?;
        Some((train.shape(), Info::of(dataset).ok()?.classes))
    });
    let found = Device::find_for(asked, &config.network(), &sizes.collect::<Vec<_>>())?;
    let lacking = match config.mix.kind.partner {
        _ if config.freeze.is_some() => "--freeze".to_owned(),
        Partner::OfAnyClass => format!("--mix {}", config.mix.name()),
        Partner::OfBatch => return Ok(found),
    };
    if !found.is_cuda() {
        return Ok(found);
    }
    if asked != "auto" {
        bail!("--device {asked}: the GPU has no kernels for {lacking}; use --device cpu");
    }
    log::info!("computing on the CPU: the GPU has no kernels for {lacking}");
    Ok(Device::Cpu)
}

/// Returns how many runs train at a time: on the CPU one, which takes all threads.
fn side_by_side(flags: &Flags, device: Device, runs: usize) -> usize {
    if !device.is_cuda() {
        if let Some(parallel) = flags.parallel.filter(|n| *n > 1) {
            log::warn!("--parallel {parallel}: does nothing on the CPU, where a run uses all threads");
        }
        return 1;
    }
    flags.parallel.map_or(parallel::MOST, usize::from).min(runs).max(1)
}

fn work(writer: &Writer, run: &Run, flags: &Flags, device: Device, mut progress: Progress) -> Result<Done> {
    if flags.tensorboard {
        tensorboard::check(writer.dir())?;
    }
    take_over(writer, flags.common.force)?;
    let dir = writer.dir();
    let mut failed = None;
    let begun_by = writer.plan().semantics;
    if begun_by < run.version {
        log::warn!(
            "this run was begun by version {begun_by} of train, which rounds differently; the remaining epochs are computed by version {}",
            run.version
        );
    }
    let Run { config, select, dataset, init, .. } = run;
    let job =
        Job { config, select: *select, begun_by, dataset, start: init.as_ref().map(|init| &init.start) };
    let mut done = crate::train::run(&job, dir, device, &mut |e| {
        if flags.tensorboard && failed.is_none() && matches!(e, Event::Epoch(_)) {
            failed = tensorboard::update(dir).err();
        }
        progress.on(e);
    })?;
    if let Some(e) = failed {
        log::warn!("{e:#}; the event file is written again at the end of the run");
    }
    progress.done(&done.metrics);
    if begun_by < run.version {
        done.run.insert(FINISHED_BY.into(), run.version.into());
    }
    Ok(done)
}

/// Takes over the directory for this run, unless that would throw away another run.
///
/// While there is no manifest, the plan tells which run the state belongs to. It stays in case the manifest
/// of a finished run is removed. The order makes a crash safe at any point: a training state is gone before
/// the plan of another run is written beside it.
fn take_over(writer: &Writer, force: bool) -> Result<()> {
    let plan = writer.plan();
    let state = writer.dir().join(STATE);
    let finished = plan.existing();
    let what = if finished.is_some() { "a finished" } else { "an unfinished" };
    // A damaged result is restored file by file with the same bytes, so its manifest stays true.
    let restored = finished.as_ref().is_some_and(|old| old.own_key() == plan.key()) && !force;
    if let Some(old) = finished.as_ref().filter(|_| restored) {
        // The files that it resumes from must be as published; the warning logged before says what is wrong.
        if let Some(o) =
            old.outputs.iter().filter(|o| o.role != "last").find(|o| old.check(o, hash::file).is_err())
        {
            bail!(
                "{}: is missing or damaged, so the run cannot continue; --force trains again from the start",
                o.path.display()
            );
        }
    }
    // A plan without a state is from a run that failed early: there is nothing to protect.
    match finished.or_else(|| plan.unfinished().filter(|_| state.exists())) {
        Some(old) if old.own_key() != plan.key() && !force => bail!(
            "holds {what} run of another experiment (differs in {}; --explain shows how); choose another \
             --out, or --force to discard it",
            differences(&old, &plan.manifest()),
        ),
        _ => {}
    }
    writer.check(&FILES)?;
    if !restored {
        writer.withdraw()?;
    }
    if force {
        store::remove(&state)?;
        store::remove(&writer.dir().join(LOG))?;
        tensorboard::discard(writer.dir())?;
    }
    Ok(writer.begin(&FILES)?)
}

#[cfg(test)]
mod tests;
