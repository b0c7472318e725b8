//! How far a training has come: its log, its state and its best weights on disk.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::config::Select;
use super::{BEST, EpochReport, LOG, NEXT_BEST, STATE};
use crate::manifest::store::{self, write_atomic};
use crate::net::Params;
use crate::net::files::{self, StateDict};

/// Advice where files of an earlier call cannot be used.
const ANEW: &str = "so the run cannot continue; --force trains again from the start";

/// Name of the metadata entry that holds [`Reached`].
const REACHED: &str = "reached";

/// How far a training has come; part of the metadata of its state file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Reached {
    pub epoch: u32,
    pub steps: u64,
    pub best_epoch: u32,
    /// Accuracy on the test split after the best epoch.
    pub best_top1: f64,
    /// Accuracy on the validation split after the best epoch, if that split selects the best epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_val_top1: Option<f64>,
    /// Hashes of the state's own tensors, of the best weights and of the log. Until the manifest is
    /// published, nothing else would reveal damage, and a damaged file must never be published as sound.
    state_blake3: String,
    best_blake3: String,
    log_blake3: String,
}

impl Reached {
    /// Returns whether the epoch that has just ended is the best one so far, given whether it is written now.
    pub fn is_best(&self, report: &EpochReport, select: Select, now: bool) -> bool {
        self.best_epoch == 0
            || match select {
                Select::Val => report.val_top1 > self.best_val_top1,
                Select::Test => report.test_top1 > self.best_top1,
                // Every epoch that is written becomes the best, so that in the end it is the last one of the
                // run.
                Select::Last => now,
            }
    }

    /// Makes the epoch that has just ended the best one, with its weights.
    pub fn set_best(&mut self, report: &EpochReport, weights: &StateDict) {
        self.best_epoch = report.epoch;
        self.best_top1 = report.test_top1;
        self.best_val_top1 = report.val_top1;
        self.best_blake3 = files::digest(weights);
    }

    /// Writes the log, new best weights with their number of steps, and the state, in the order that a kill
    /// at any moment allows (see [`super`]).
    pub fn save(
        &mut self,
        dir: &Path,
        log: &[EpochReport],
        best: Option<(StateDict, u64)>,
        state: &StateDict,
    ) -> Result<()> {
        let text = lines(log)?;
        write_atomic(&dir.join(LOG), |f| f.write_all(text.as_bytes()))?;
        self.log_blake3 = log_digest(log)?;
        if let Some((best, steps)) = &best {
            files::save(&dir.join(NEXT_BEST), best, *steps, None)?;
        }
        self.state_blake3 = files::digest(state);
        let note = serde_json::to_string(self)?;
        files::save(&dir.join(STATE), state, self.steps, Some((REACHED, note)))?;
        if best.is_some() {
            store::rename(&dir.join(NEXT_BEST), &dir.join(BEST))?;
        }
        Ok(())
    }

    /// Refuses best weights that are not the ones that the state refers to: a damaged file must not be
    /// published as sound.
    pub fn check_best(&self, best: &Path) -> Result<()> {
        let (found, _) = files::open(best).map_err(|e| unreadable(best, e))?;
        ensure!(
            files::digest(&found) == self.best_blake3,
            "{}: does not hold the weights of epoch {}, {ANEW}",
            best.display(),
            self.best_epoch
        );
        Ok(())
    }
}

/// Returns the error for a file of an earlier call that cannot be read: that of the file system, or else that
/// the file is damaged. What is wrong with its content does not help users, who did not make it.
fn unreadable(path: &Path, e: Error) -> Error {
    let of_system = e.root_cause().downcast_ref::<io::Error>().map(|e| (e.kind(), e.raw_os_error()));
    match of_system {
        Some((ErrorKind::NotFound, _)) => anyhow!("{}: is missing, {ANEW}", path.display()),
        Some((_, Some(_))) => e,
        _ => damaged(path),
    }
}

fn damaged(path: &Path) -> Error {
    anyhow!("{}: is damaged, {ANEW}", path.display())
}

/// Loads the state in the directory, and the log as far as the state has come.
pub(super) fn resume(
    params: &Params,
    dir: &Path,
    begun_by: u32,
) -> Result<Option<(Reached, Vec<EpochReport>)>> {
    let path = dir.join(STATE);
    if !path.exists() {
        // A kill during the first epoch may have left that epoch's line of the log.
        let epochs = fs::read_to_string(dir.join(LOG)).map_or(0, |text| text.lines().count());
        if epochs > 1 {
            log::warn!(
                "{}: is missing, so {epochs} epochs are lost and the run starts again from the beginning",
                path.display()
            );
        }
        return Ok(None);
    }
    let (state, notes) = files::open(&path).map_err(|e| unreadable(&path, e))?;
    let reached = notes.get(REACHED).and_then(|text| serde_json::from_str::<Reached>(text).ok());
    let reached = reached.filter(|reached| files::digest(&state) == reached.state_blake3);
    let reached = reached.ok_or_else(|| damaged(&path))?;
    params.resume(&state).map_err(|_| damaged(&path))?;
    let path = dir.join(LOG);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string());
    let text = text.map_err(|e| unreadable(&path, e))?;
    // A kill may have left the log ahead of the state.
    let lines = text.lines().take(reached.epoch as usize);
    let log = lines.map(serde_json::from_str).collect::<Result<Vec<_>, _>>().map_err(|_| damaged(&path))?;
    ensure!(log_digest(&log)? == reached.log_blake3, damaged(&path));
    let (best, next) = (dir.join(BEST), dir.join(NEXT_BEST));
    // These are either the weights that the state refers to, which a kill kept from being renamed, or weights
    // that the state does not know of.
    if next.exists() {
        match reached.check_best(&next) {
            Ok(()) => store::rename(&next, &best)?,
            Err(_) => store::remove(&next)?,
        }
    }
    match reached.check_best(&best) {
        // Version 1 could leave best weights that are one epoch ahead; repeating that epoch writes them
        // again.
        Err(_) if begun_by == 1 => log::warn!(
            "{}: does not hold the weights of epoch {}; the next epochs may restore them",
            best.display(),
            reached.best_epoch
        ),
        checked => checked?,
    }
    Ok(Some((reached, log)))
}

/// Returns what computed the epochs of a log, in turn. There is more than one if the run was resumed
/// elsewhere.
pub(super) fn computers(log: &[EpochReport]) -> Vec<&str> {
    let by = log.iter().map(|e| if e.computed_by.is_empty() { "unknown" } else { &e.computed_by });
    let mut all: Vec<&str> = by.collect();
    all.dedup();
    all
}

/// Returns the text of the log.
fn lines(log: &[EpochReport]) -> Result<String> {
    log.iter().map(|epoch| Ok(serde_json::to_string(epoch)? + "\n")).collect()
}

/// Hashes a log without times and devices: the state that contains the hash must be the same in every run.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computers_are_listed_in_order() {
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
