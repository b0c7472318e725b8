//! Lists the trainings in some directories: how they differ, how far they are, and how good.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Error;
use super::csv::records;
use super::experiment::{Experiment, disambiguated, order};
use super::settings::{departs, words};
use super::telling::{options, telling, variant};
use crate::manifest::{self, FILE, Kind, source, store};
use crate::train::config::Select;
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
    /// Accuracy on the test split after the epoch that is selected as the best, in percent; while the
    /// training is unfinished, after the one that would be selected if it ended now.
    best: Option<f64>,
    /// Estimated seconds left, if it is running.
    left: Option<f64>,
}

/// Finds the trainings in directories and their subdirectories, sorted by data, method and settings. Also
/// returns an error for each training that cannot be listed, and for each directory that cannot be searched.
///
/// # Errors
/// Returns an error if a directory does not exist.
pub fn find(dirs: &[PathBuf]) -> Result<(Vec<Run>, Vec<Error>), Error> {
    let mut search = Search::default();
    for dir in dirs {
        let dir = directory(dir);
        fs::read_dir(dir).map_err(manifest::Error::io(dir))?;
        search.visit(dir, DEPTH);
    }
    let Search { mut found, wrong, .. } = search;
    let told = disambiguated(&found.iter().map(|run| &run.of).collect::<Vec<_>>());
    for (run, of) in found.iter_mut().zip(told) {
        run.of = of;
    }
    let rank = |r: &Run| {
        let of = &r.of;
        let departing = of.settings.iter().filter(|(name, value)| departs(name, value)).count();
        let settings: Vec<String> = of.settings.iter().map(|(name, value)| words(name, value)).collect();
        let method =
            (order(&of.method), of.method.clone(), options(of).count() + departing, of.options.clone());
        (of.column.clone(), method, settings, of.seed, r.dir.clone())
    };
    found.sort_by_cached_key(rank);
    Ok((found, wrong))
}

/// Returns the directory that a path names; the path of a manifest means its directory, as everywhere.
fn directory(path: &Path) -> &Path {
    if path.file_name().is_some_and(|name| name == FILE) { store::parent(path) } else { path }
}

/// A search for trainings, and what it has found so far.
#[derive(Default)]
struct Search {
    /// The canonical paths of all directories visited. A directory is listed once, whatever paths lead to it.
    visited: BTreeSet<PathBuf>,
    found: Vec<Run>,
    wrong: Vec<Error>,
}

impl Search {
    /// Looks into a directory and, up to a depth, into those inside.
    fn visit(&mut self, dir: &Path, depth: usize) {
        let listed: io::Result<Vec<fs::DirEntry>> = fs::read_dir(dir).and_then(|all| all.collect());
        let (inside, unread) = match listed {
            Ok(inside) => (inside, None),
            Err(e) => (vec![], Some(e)),
        };
        if self.visited.insert(dir.canonicalize().unwrap_or_else(|_| dir.to_owned())) {
            match training(dir) {
                Ok(Some(run)) => self.found.push(run),
                Ok(None) => {
                    let wrong = unread.map(|e| Error::Manifest(manifest::Error::io(dir)(e)));
                    self.wrong.extend(wrong);
                }
                Err(e) => self.wrong.push(e),
            }
        }
        let Some(depth) = depth.checked_sub(1) else { return };
        for entry in inside.into_iter().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            self.visit(&entry.path(), depth);
        }
    }
}

/// Returns the training in a directory, finished or not.
fn training(dir: &Path) -> Result<Option<Run>, Error> {
    let read = |name: &str| {
        let path = dir.join(name);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Manifest(manifest::Error::io(path)(e)));
            }
            _ => return Ok(None),
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
    let select = m.params.get("select").and_then(Value::as_str);
    let best = number("best_top1").or_else(|| selected(&log, select).map(|e| e.test_top1));
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

/// Returns the epoch that `train` selects from a log; `select` is the run's param of that name, which is
/// absent for the default.
fn selected<'a>(log: &'a [EpochReport], select: Option<&str>) -> Option<&'a EpochReport> {
    if select == Some(Select::Last.name()) {
        return log.last();
    }
    // Epochs have an accuracy on the validation split only if that split selects.
    let top1 = |e: &EpochReport| e.val_top1.unwrap_or(e.test_top1);
    // Of epochs with the same accuracy, the first one is selected.
    log.iter().reduce(|best, e| if top1(e) > top1(best) { e } else { best })
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
    let row = |(run, own): (&Run, String)| {
        let settings: Vec<String> =
            Some(own).into_iter().filter(|s| !s.is_empty()).chain(common.clone()).collect();
        let column = &run.of.column;
        [
            run.of.method.clone(),
            settings.join(", "),
            column.dataset.clone(),
            column.imb_type.clone(),
            column.imb_ratio.clone(),
            run.seed(),
            run.epochs.0.to_string(),
            run.epochs.1.to_string(),
            percent(run.last),
            percent(run.best),
            run.state.name().into(),
            run.dir.display().to_string(),
        ]
    };
    let header = "method,settings,dataset,imb_type,imb_ratio,seed,epochs_done,epochs,last_top1,\
                  best_top1,state,directory";
    records(header, all.iter().zip(settings).map(row))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a log with the accuracy of each epoch on the test split and, if it selects, on the validation
    /// split.
    fn log_of(epochs: &[(f64, Option<f64>)]) -> Vec<EpochReport> {
        let report = |(epoch, (test_top1, val_top1)): (u32, &(f64, Option<f64>))| EpochReport {
            epoch,
            epochs: 9,
            seed: 0,
            lr: 0.1,
            loss: 1.0,
            train_top1: 50.0,
            test_top1: *test_top1,
            val_top1: *val_top1,
            images_per_second: 1.0,
            seconds: 1.0,
            computed_by: String::new(),
        };
        (1..).zip(epochs).map(report).collect()
    }

    #[test]
    fn the_best_epoch_so_far_is_that_of_the_split_that_selects() {
        let epoch = |log: &[EpochReport], select| selected(log, select).map(|e| e.epoch);
        let by_test = log_of(&[(40.0, None), (70.0, None), (70.0, None), (60.0, None)]);
        assert_eq!(epoch(&by_test, None), Some(2));
        assert_eq!(epoch(&by_test, Some("test")), Some(2));
        assert_eq!(epoch(&by_test, Some("last")), Some(4));
        let by_val = log_of(&[(40.0, Some(30.0)), (50.0, Some(60.0)), (80.0, Some(60.0)), (90.0, Some(5.0))]);
        assert_eq!(epoch(&by_val, None), Some(2));
        assert_eq!(epoch(&[], None), None);
    }

    #[test]
    fn the_path_of_a_manifest_means_its_directory() {
        let all = ["runs/a", "runs/a/manifest.json", "manifest.json"].map(|path| directory(Path::new(path)));
        assert_eq!(all, ["runs/a", "runs/a", "."].map(Path::new));
    }

    #[test]
    fn a_directory_is_listed_once_and_its_best_epoch_is_the_selected_one() {
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("runs/a");
        fs::create_dir_all(&dir).expect("made");
        let plan = json!({
            "schema": manifest::SCHEMA, "kind": "checkpoint", "key": "0", "semantics": 2,
            "params": {
                "mix": {"name": "none"}, "loss": {"name": "ce"}, "rule": {"name": "none"},
                "epochs": 9, "seed": 0,
            },
            "inputs": [{
                "role": "dataset", "path": "../data/manifest.json", "blake3": "0",
                "params": {"dataset": "cifar10", "imb_type": "exp", "imb_ratio": 100},
            }],
        });
        let mut plan: manifest::Manifest = serde_json::from_value(plan).expect("a manifest");
        plan.key = plan.own_key();
        fs::write(dir.join(store::PLAN), serde_json::to_string(&plan).expect("JSON")).expect("written");
        let log = log_of(&[(50.0, Some(60.0)), (80.0, Some(40.0))]);
        let lines: Vec<String> = log.iter().map(|e| serde_json::to_string(e).expect("JSON")).collect();
        fs::write(dir.join(LOG), lines.join("\n")).expect("written");

        let dirs = [root.path().to_owned(), dir.clone(), root.path().join("runs/../runs/a")];
        let (found, wrong) = find(&dirs).expect("they exist");
        assert!(wrong.is_empty(), "{wrong:?}");
        let listed: Vec<_> = found.iter().map(|run| (&run.dir, run.epochs, run.last, run.best)).collect();
        assert_eq!(listed, [(&dir, (2, 9), Some(80.0), Some(50.0))]);
    }
}
