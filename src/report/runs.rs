//! Lists the trainings in some directories: how they differ, how far they are, and how good.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Error;
use super::csv::quoted;
use super::experiment::{Experiment, disambiguated, order};
use super::settings::words;
use super::telling::{telling, variant};
use crate::manifest::{self, FILE, Kind, source, store};
use crate::train::{EpochReport, LOG};

/// How many levels below a named directory are searched.
const DEPTH: usize = 3;

/// The state of a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    /// A process is working on it.
    Running,
    /// No process is working on it; it continues when the same command is run again.
    Stopped,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Running => "running",
            State::Stopped => "stopped",
        }
    }
}

/// A training.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    of: Experiment,
    state: State,
    /// Epochs done, and epochs in total.
    epochs: (u64, u64),
    /// Accuracy on the test split after the last epoch done, in percent.
    last: Option<f64>,
    /// The best accuracy on the test split so far, in percent.
    best: Option<f64>,
    /// Estimated seconds left, if it is running.
    left: Option<f64>,
}

/// Finds the trainings in directories and their subdirectories, sorted by data, method and settings. Also
/// returns an error for each training that cannot be listed.
///
/// # Errors
/// Returns an error if a directory does not exist.
pub fn find(dirs: &[PathBuf]) -> Result<(Vec<Run>, Vec<Error>), Error> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for dir in dirs {
        // The path of a manifest means its directory, as everywhere.
        let named = dir.file_name().is_some_and(|name| name == FILE);
        let dir = dir.parent().filter(|_| named).unwrap_or(dir);
        fs::read_dir(dir).map_err(manifest::Error::io(dir))?;
        search(dir, DEPTH, &mut found, &mut wrong);
    }
    let told = disambiguated(&found.iter().map(|run| &run.of).collect::<Vec<_>>());
    for (run, of) in found.iter_mut().zip(told) {
        run.of = of;
    }
    let rank = |r: &Run| {
        let of = &r.of;
        let settings: Vec<String> = of.settings.iter().map(|(name, value)| words(name, value)).collect();
        let method = (order(&of.method), of.method.clone(), of.options.clone());
        (of.column.clone(), method, settings, of.seed, r.dir.clone())
    };
    found.sort_by_cached_key(rank);
    Ok((found, wrong))
}

fn search(dir: &Path, depth: usize, found: &mut Vec<Run>, wrong: &mut Vec<Error>) {
    // A directory is listed once, whatever paths lead to it.
    let canonical = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    match training(dir) {
        Ok(Some(run)) if found.iter().any(|other| canonical(&other.dir) == canonical(dir)) => drop(run),
        Ok(Some(run)) => found.push(run),
        Ok(None) => {}
        Err(e) => wrong.push(e),
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    // A directory that cannot be read holds no trainings that could be listed.
    let inside = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in inside.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        search(&entry.path(), depth, found, wrong);
    }
}

/// Returns the training in a directory, finished or not.
fn training(dir: &Path) -> Result<Option<Run>, Error> {
    let read = |name: &str| {
        let path = dir.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let all = source::read_file(&path)?;
        Ok::<_, Error>(all.into_iter().next().filter(|m| m.kind == Kind::Checkpoint))
    };
    let (m, is_done) = match (read(FILE)?, read(store::PLAN)?) {
        (Some(m), _) => (m, true),
        (None, Some(m)) => (m, false),
        (None, None) => return Ok(None),
    };
    let of = Experiment::of(&m)?;
    let log = log(dir);
    let state = match () {
        () if is_done => State::Done,
        () if is_locked(dir) => State::Running,
        () => State::Stopped,
    };
    let number = |name: &str| m.metrics.get(name).and_then(Value::as_f64);
    let last = number("last_top1").or_else(|| log.last().map(|e| e.test_top1));
    let best = number("best_top1").or_else(|| log.iter().map(|e| e.test_top1).reduce(f64::max));
    let all = m.params.get("epochs").and_then(Value::as_u64).unwrap_or(0);
    let done = m.metrics.get("epochs").and_then(Value::as_u64);
    let done = done.or(log.last().map(|e| e.epoch.into())).unwrap_or(0);
    let recent = &log[log.len().saturating_sub(10)..];
    let mean = recent.iter().map(|e| e.seconds).sum::<f64>() / recent.len() as f64;
    let left =
        (state == State::Running && !recent.is_empty()).then(|| mean * all.saturating_sub(done) as f64);
    Ok(Some(Run { dir: dir.to_owned(), of, state, epochs: (done, all), last, best, left }))
}

/// Reads the log up to the first line that cannot be parsed; the log is only displayed.
fn log(dir: &Path) -> Vec<EpochReport> {
    let bytes = fs::read(dir.join(LOG)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map_while(|line| serde_json::from_str(line).ok()).collect()
}

/// Returns whether a process holds the lock of a directory.
fn is_locked(dir: &Path) -> bool {
    let file = File::open(dir.join(store::LOCK));
    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

impl Run {
    fn data(&self) -> String {
        let column = &self.of.column;
        match column.imb_type.as_str() {
            "none" => column.dataset.clone(),
            imb_type => format!("{} {imb_type} {}", column.dataset, column.imb_ratio),
        }
    }

    fn seed(&self) -> String {
        self.of.seed.map_or_else(String::new, |seed| seed.to_string())
    }
}

/// Returns the settings that each row states, and those that all rows share.
fn settings(all: &[Run]) -> (Vec<String>, Vec<String>) {
    let telling = telling(&all.iter().map(|run| &run.of).collect::<Vec<_>>());
    let rows = all.iter().map(|run| variant(&run.of, &telling)).collect();
    (rows, telling.common)
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(String::new, |v| format!("{v:.2}"))
}

/// Formats the runs as aligned, human-readable columns.
pub fn text(all: &[Run]) -> String {
    let (settings, common) = settings(all);
    let mut rows = vec![
        ["method", "settings", "data", "seed", "epochs", "last %", "best %", "", "directory"]
            .map(str::to_owned),
    ];
    for (run, settings) in all.iter().zip(settings) {
        let state = match (run.state, run.left) {
            (State::Done, _) => String::new(),
            (state, Some(left)) => format!("{}, {} min left", state.name(), (left / 60.0).ceil()),
            (state, None) => state.name().into(),
        };
        rows.push([
            run.of.method.clone(),
            settings,
            run.data(),
            run.seed(),
            format!("{}/{}", run.epochs.0, run.epochs.1),
            percent(run.last),
            percent(run.best),
            state,
            super::one_line(&run.dir.display().to_string()),
        ]);
    }
    let width = |k: usize| rows.iter().map(|row| row[k].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    // Empty columns are left out.
    let is_empty = |k: usize| rows[1..].iter().all(|row| row[k].is_empty());
    let shown: Vec<usize> = (0..widths.len()).filter(|&k| !is_empty(k)).collect();
    let mut text = String::new();
    if !common.is_empty() {
        text += &format!("All runs: {}.\n\n", common.join(", "));
    }
    for row in &rows {
        let field = |&k: &usize| match k {
            3..=6 => format!("{:>1$}", row[k], widths[k]),
            _ => format!("{:<1$}", row[k], widths[k]),
        };
        text += shown.iter().map(field).collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Formats the runs as CSV (RFC 4180), with all settings that differ from the usual ones in each row.
pub fn csv(all: &[Run]) -> String {
    let (settings, common) = settings(all);
    let mut text =
        "method,settings,dataset,imb_type,imb_ratio,seed,epochs_done,epochs,last_top1,best_top1,state,directory\n"
            .to_owned();
    for (run, own) in all.iter().zip(settings) {
        let settings: Vec<String> =
            Some(own).into_iter().filter(|s| !s.is_empty()).chain(common.clone()).collect();
        let column = &run.of.column;
        let fields = [
            quoted(&run.of.method),
            quoted(&settings.join(", ")),
            quoted(&column.dataset),
            quoted(&column.imb_type),
            quoted(&column.imb_ratio),
            run.seed(),
            run.epochs.0.to_string(),
            run.epochs.1.to_string(),
            percent(run.last),
            percent(run.best),
            run.state.name().into(),
            quoted(&run.dir.display().to_string()),
        ];
        text += &fields.join(",");
        text.push('\n');
    }
    text
}

/// Formats the runs as a JSON array, with all settings by name.
pub fn json(all: &[Run]) -> String {
    let one = |run: &Run| {
        let column = &run.of.column;
        json!({
            "method": run.of.method,
            "options": run.of.options,
            "settings": run.of.settings,
            "dataset": column.dataset,
            "imb_type": column.imb_type,
            "imb_ratio": column.imb_ratio.parse::<f64>().ok(),
            "seed": run.of.seed,
            "epochs_done": run.epochs.0,
            "epochs": run.epochs.1,
            "last_top1": run.last,
            "best_top1": run.best,
            "state": run.state.name(),
            "seconds_left": run.left,
            "directory": run.dir.display().to_string(),
        })
    };
    let all: Value = all.iter().map(one).collect();
    format!("{all:#}\n")
}
