//! Where results go: a directory of their own, complete once `manifest.json` is in it, or a single file,
//! complete once `FILE.manifest.json` is beside it. Either is locked while one process works on it.
//!
//! Every file is written under a temporary name in its directory, flushed to disk and renamed; the manifest
//! comes last. A reader therefore sees a complete result or none, whichever process is killed and whenever.
//!
//! Nothing is replaced or removed that these tools did not make: only files that an earlier manifest or plan
//! in the directory lists, and temporary files, whose names nobody else would choose. Before the first file
//! is written, [`PLAN`] lists every file that is going to be made.

mod file;
mod writer;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::file::temporary;
pub use self::file::{absolute, beside, parent, remove, rename, write_atomic};
pub use self::writer::{Done, Produced, Writer};
use super::error::article;
pub use super::lock::LOCK;
use super::lock::{self, Lock};
use super::{Error, FILE, Input, Kind, Manifest, Object, SCHEMA, compare, for_each_path, hash, in_utf8, key};

/// File name of a plan, which is in a directory during the work, and stays beside results that can be
/// continued.
pub const PLAN: &str = "plan.json";

/// The field of a plan that lists the names of the files that belong to the tool.
const FILES: &str = "files";

/// The role of an output from which a tool can continue; the plan stays beside it.
const STATE: &str = "state";

/// Prefix of the names of temporary files and directories.
pub(crate) const TEMPORARY: &str = ".remix-tmp-";

/// A result before any work is done: everything that its key is made of, and the directory it will be in.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What will be made.
    pub kind: Kind,
    /// Version of the tool's meaning.
    pub semantics: u32,
    /// Resolved parameters.
    pub params: Object,
    /// Inputs with their content hashes.
    pub inputs: Vec<Input>,
    /// The output directory.
    pub dir: PathBuf,
    /// The file name, if the result is a single file: its manifest, plan and lock are then beside it under
    /// names made from its own, and the rest of the directory does not belong to the result.
    pub file: Option<String>,
}

/// The outcome of [`Plan::claim`].
pub enum Claim {
    /// The result exists and is intact.
    Done(Box<Manifest>),
    /// The result is for this process to make.
    Work(Box<Writer>),
}

impl Plan {
    /// Plans a result that is the directory that `dir` returns for its key.
    pub fn new(
        kind: Kind,
        semantics: u32,
        params: Object,
        inputs: Vec<Input>,
        dir: impl FnOnce(&str) -> PathBuf,
    ) -> Plan {
        let dir = dir(&key::key(kind, semantics, &params, &inputs));
        Plan { kind, semantics, params, inputs, dir, file: None }
    }

    /// Returns the path of the result: its directory or its file.
    pub fn path(&self) -> PathBuf {
        match &self.file {
            None => self.dir.clone(),
            Some(file) if self.dir == Path::new(".") => file.into(),
            Some(file) => self.dir.join(file),
        }
    }

    /// Returns the name that the result's own [`FILE`] or [`PLAN`] has in the directory.
    fn name(&self, what: &str) -> String {
        self.file.as_ref().map_or_else(|| what.to_owned(), |file| format!("{file}.{what}"))
    }

    pub(crate) fn manifest_path(&self) -> PathBuf {
        self.dir.join(self.name(FILE))
    }

    fn plan_path(&self) -> PathBuf {
        self.dir.join(self.name(PLAN))
    }

    /// Computes the key of the result.
    pub fn key(&self) -> String {
        key::key(self.kind, self.semantics, &self.params, &self.inputs)
    }

    /// Returns the manifest as far as it is known before the work: without outputs and metrics.
    pub fn manifest(&self) -> Manifest {
        Manifest {
            schema: SCHEMA.into(),
            kind: self.kind,
            key: self.key(),
            semantics: self.semantics,
            params: self.params.clone(),
            inputs: self.inputs.clone(),
            outputs: vec![],
            metrics: Object::new(),
            digest: None,
            run: Object::new(),
            path: Some(absolute(&self.manifest_path())),
            extra: Object::new(),
        }
    }

    /// Returns the manifest that is there now, whatever its key. A file that is not a manifest counts as
    /// none, and so does a manifest that lists files outside its directory.
    pub fn existing(&self) -> Option<Manifest> {
        self.read(&self.manifest_path())
    }

    /// Returns the plan of unfinished work, if there is a [`PLAN`].
    pub fn unfinished(&self) -> Option<Manifest> {
        self.read(&self.plan_path())
    }

    fn read(&self, path: &Path) -> Option<Manifest> {
        let text = fs::read_to_string(path).ok()?;
        let mut m: Manifest = serde_json::from_str(&text).ok()?;
        m.path = Some(absolute(&self.manifest_path()));
        (m.schema == SCHEMA && m.escaping().is_none()).then_some(m)
    }

    /// Returns the names of the files in the directory that these tools made for this result or for an
    /// earlier one at the same path, according to the manifest and the plan there. A plan from a version that
    /// did not list the files belongs to a training, whose files are then taken to be `usual`.
    fn owned(&self, usual: &BTreeSet<String>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        if let Some(m) = self.existing() {
            all.extend(m.outputs.iter().filter_map(|o| o.path.to_str()).map(str::to_owned));
            all.insert(self.name(FILE));
        }
        if let Some(plan) = self.unfinished() {
            match plan.extra.get(FILES).and_then(Value::as_array) {
                Some(names) => all.extend(names.iter().filter_map(Value::as_str).map(str::to_owned)),
                None => all.extend(usual.iter().cloned()),
            }
            all.insert(self.name(PLAN));
        }
        // A file that was tampered with may list paths elsewhere; these are ignored.
        all.retain(|name| Path::new(name).file_name().is_some_and(|own| own == name.as_str()));
        if let Some(file) = &self.file {
            all.retain(|name| [file.clone(), self.name(FILE), self.name(PLAN)].contains(name));
        }
        all
    }

    /// Returns the finished result, if the directory holds it with intact outputs.
    pub fn done(&self) -> Option<Manifest> {
        self.existing().filter(|m| m.key == self.key() && m.damage(hash::file).is_none())
    }

    /// Describes, part by part, how the key differs from that of the result that is there, finished or not.
    pub fn explain(&self) -> String {
        let dir = self.path();
        let dir = dir.display();
        let (old, what, next) = match (self.existing(), self.unfinished()) {
            (Some(old), _) => (old, "holds a result with a different key", "nothing to do"),
            (None, Some(old)) => {
                let what = "holds an unfinished result with a different key";
                (old, what, "unfinished; the same command continues it")
            }
            (None, None) => return format!("{dir}: there is no result here"),
        };
        if old.own_key() == self.key() {
            return match old.damage(hash::file) {
                Some(e) => format!("{dir}: same key {}, but {e}", old.key),
                None => format!("{dir}: same key {}, {next}", old.key),
            };
        }
        let show = |value: Option<Value>| value.map_or("nothing".to_owned(), |value| value.to_string());
        let differences = compare::differences(&old, &self.manifest()).into_iter();
        let lines =
            differences.map(|d| format!("\n  {}: {} there, {} requested", d.part, show(d.old), show(d.new)));
        format!("{dir}: {what}:{}", lines.collect::<String>())
    }

    /// Refuses a plan whose manifest could not be written: a manifest names the current directory, the output
    /// directory and every input.
    ///
    /// # Errors
    /// Returns an error that names the first path that is not UTF-8.
    pub fn check_paths(&self) -> Result<(), Error> {
        in_utf8(&self.path())?;
        in_utf8(&absolute(Path::new(".")))?;
        in_utf8(&absolute(&self.dir))?;
        let mut all = Ok(());
        for_each_path(&mut self.inputs.clone(), &mut |path| {
            if all.is_ok() {
                all = in_utf8(path);
            }
        });
        all
    }

    /// Takes the result's lock and checks whether the work is already done. If another process holds the
    /// lock, calls `waiting` once and waits.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be made or written, or if it holds the result of another
    /// tool, which is never replaced.
    pub fn claim(&self, force: bool, waiting: impl FnOnce()) -> Result<Claim, Error> {
        // A plan beside a result that cannot be continued was left by a kill, perhaps with temporary files.
        let is_tidy = |m: &Manifest| m.outputs_of(STATE).next().is_some() || self.unfinished().is_none();
        if !force && let Some(m) = self.done().filter(is_tidy) {
            return Ok(Claim::Done(Box::new(m)));
        }
        self.check_paths()?;
        let lock = Lock::take(&self.dir, &lock::name(self.file.as_deref()), waiting)?;
        // Another process may have finished between the first check and the lock.
        if !force && let Some(m) = self.done() {
            if !is_tidy(&m) {
                self.clear_temporaries("")?;
                remove(&self.plan_path())?;
            }
            lock.keep(self.file.is_none());
            return Ok(Claim::Done(Box::new(m)));
        }
        if let Some(e) =
            self.existing().filter(|m| m.key == self.key() && !force).and_then(|m| m.damage(hash::file))
        {
            log::warn!("{}; restoring the result", e.without_remedy());
        }
        // A plan with only the lock beside it is from a run that failed before it made a file.
        let begun = || match self.file {
            Some(_) => self.path().exists(),
            None => fs::read_dir(&self.dir).is_ok_and(|files| files.count() > 2),
        };
        let there = self.existing().or_else(|| self.unfinished().filter(|_| begun()));
        if let Some(other) = there.filter(|m| m.kind != self.kind) {
            let (found, wanted) = (other.kind.noun(), self.kind.noun());
            let why = format!(
                "already holds {} {found}, which the new {wanted} would replace; choose another {}",
                article(found),
                flag(self.kind.name())
            );
            return Err(Error::Refused { path: self.path(), why });
        }
        Ok(Claim::Work(Box::new(Writer::new(self.clone(), lock))))
    }

    /// Removes what killed processes left under temporary names, except `but`. The result is locked, so no
    /// process is working on them.
    fn clear_temporaries(&self, but: &str) -> Result<(), Error> {
        let own = match &self.file {
            None => vec![TEMPORARY.to_owned()],
            Some(file) => {
                [file.clone(), self.name(FILE), self.name(PLAN)].iter().map(|name| temporary(name)).collect()
            }
        };
        for entry in fs::read_dir(&self.dir).map_err(Error::io(&self.dir))? {
            let entry = entry.map_err(Error::io(&self.dir))?;
            let name = entry.file_name();
            if name
                .to_str()
                .is_some_and(|name| name != but && own.iter().any(|start| name.starts_with(start)))
            {
                let path = entry.path();
                let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
                if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                    .map_err(Error::io(&path))?;
            }
        }
        Ok(())
    }
}

/// Returns the flags that choose where the result of a tool, or a result of a kind, goes.
fn flag(tool: &str) -> &'static str {
    if tool == "report" { "--out or -o" } else { "--out" }
}

/// Writes a manifest or a plan as indented, human-readable JSON.
fn write_json(path: &Path, m: &Manifest) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(m).expect("a manifest is plain JSON");
    text.push('\n');
    write_atomic(path, |f| f.write_all(text.as_bytes()))
}

#[cfg(test)]
mod tests;
