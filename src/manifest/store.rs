//! Where results go: a directory of their own, complete once `manifest.json` is in it, or a single file,
//! complete once `FILE.manifest.json` is beside it. Either is locked while one process works on it.
//!
//! Every file is written under a temporary name in its directory, flushed to disk and renamed; the manifest
//! comes last. A reader therefore sees a complete result or none, whichever process is killed and whenever.
//!
//! Nothing is replaced or removed that these tools did not make: only files that an earlier manifest or plan
//! in the directory lists, and temporary files, whose names nobody else would choose. Before the first file
//! is written, [`PLAN`] lists every file that is going to be made.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

pub use super::lock::LOCK;
use super::lock::{self, Lock};
use super::{Error, FILE, Input, Kind, Manifest, Object, Output, SCHEMA, for_each_path, hash, in_utf8, key};
use crate::interrupt::kill_point;

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
    /// Returns the place of the result: its directory or its file.
    pub fn place(&self) -> PathBuf {
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

    fn manifest_path(&self) -> PathBuf {
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
    /// earlier one in its place, according to the manifest and the plan there. A plan from a version that did
    /// not list the files belongs to a training, whose files are then taken to be `usual`.
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
        let dir = self.place();
        let dir = dir.display();
        let (old, what, next) = match (self.existing(), self.unfinished()) {
            (Some(old), _) => (old, "another key", "nothing to do"),
            (None, Some(old)) => {
                (old, "an unfinished result of another key", "unfinished; the same command continues it")
            }
            (None, None) => return format!("{dir}: no result here"),
        };
        if old.own_key() == self.key() {
            return match old.damage(hash::file) {
                Some(e) => format!("{dir}: same key {}, but {e}", old.key),
                None => format!("{dir}: same key {}, {next}", old.key),
            };
        }
        let parts = |kind: Kind, semantics: u32, params: &Object, inputs: &[Input]| {
            let mut all = Object::new();
            all.insert("kind".into(), json!(kind));
            all.insert("semantics".into(), json!(semantics));
            flatten("params", &Value::Object(params.clone()), &mut all);
            for (n, i) in inputs.iter().enumerate() {
                all.insert(format!("inputs[{n}] {}", i.role), json!(i.blake3));
            }
            all
        };
        let was = parts(old.kind, old.semantics, &old.params, &old.inputs);
        let now = parts(self.kind, self.semantics, &self.params, &self.inputs);
        let show = |v: Option<&Value>| v.map_or("nothing".to_owned(), Value::to_string);
        let mut names: Vec<_> = was.keys().chain(now.keys()).collect();
        names.sort();
        names.dedup();
        let lines: Vec<_> = names
            .into_iter()
            .filter(|n| was.get(*n) != now.get(*n))
            .map(|n| format!("  {n}: {} there, {} asked", show(was.get(n)), show(now.get(n))))
            .collect();
        format!("{dir}: {what}:\n{}", lines.join("\n"))
    }

    /// Refuses a plan whose manifest could not be written: a manifest names the current directory, the output
    /// directory and every input.
    ///
    /// # Errors
    /// Returns [`Error::NotUtf8`] with the first path that is not UTF-8.
    pub fn check_paths(&self) -> Result<(), Error> {
        in_utf8(&self.place())?;
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
            log::warn!("{e}; working again");
        }
        // A plan with only the lock beside it is from a run that failed before it made a file.
        let begun = || match self.file {
            Some(_) => self.place().exists(),
            None => fs::read_dir(&self.dir).is_ok_and(|files| files.count() > 2),
        };
        let there = self.existing().or_else(|| self.unfinished().filter(|_| begun()));
        if let Some(other) = there.filter(|m| m.kind != self.kind) {
            let (found, wanted) = (other.kind.name(), self.kind.name());
            return Err(Error::Occupied { path: self.place(), found, wanted });
        }
        Ok(Claim::Work(Box::new(Writer { plan: self.clone(), owned: RefCell::default(), lock })))
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

fn flatten(name: &str, value: &Value, all: &mut Object) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| flatten(&format!("{name}.{k}"), v, all)),
        v => {
            all.insert(name.to_owned(), v.clone());
        }
    }
}

/// A claimed output directory.
pub struct Writer {
    plan: Plan,
    /// Names of the files in the directory that may be replaced or removed; `None` until the plan that lists
    /// them is written.
    owned: RefCell<Option<BTreeSet<String>>>,
    lock: Lock,
}

/// A file of the result, before its hash is known.
#[derive(Debug)]
pub struct Produced {
    /// Role in the manifest.
    pub role: &'static str,
    /// File name in the directory; the file is already there under this name.
    pub name: String,
    /// Number of rows, where that is meaningful.
    pub rows: Option<u64>,
}

/// The outcome of the work on a plan.
#[derive(Default)]
pub struct Done {
    /// The files.
    pub outputs: Vec<Produced>,
    /// Numbers for `metrics`.
    pub metrics: Object,
    /// Additions to `run`.
    pub run: Object,
}

impl Writer {
    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.plan.dir
    }

    /// Returns the plan that this writer carries out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Lists in [`PLAN`] the files that are going to be made, and removes temporary files that a killed
    /// process left.
    ///
    /// # Errors
    /// Returns an error if one of the names is taken by a file that these tools did not make, or if the file
    /// system fails.
    pub fn begin<S: AsRef<str>>(&self, files: &[S]) -> Result<(), Error> {
        self.begin_with(files, "")
    }

    /// Does the same as [`Writer::begin`], and returns a directory for files that are not yet in their final
    /// place. Files that a killed process left there are kept if it worked on the same key.
    ///
    /// # Errors
    /// Fails under the same conditions as [`Writer::begin`], or if the directory cannot be made.
    pub fn begin_staged<S: AsRef<str>>(&self, files: &[S]) -> Result<PathBuf, Error> {
        let name = format!("{TEMPORARY}{}", key::short(&self.plan.key()));
        self.begin_with(files, &name)?;
        let staging = self.plan.dir.join(name);
        fs::create_dir_all(&staging).map_err(Error::io(&staging))?;
        Ok(staging)
    }

    fn begin_with<S: AsRef<str>>(&self, files: &[S], kept: &str) -> Result<(), Error> {
        let mut owned = self.check(files)?;
        self.plan.clear_temporaries(kept)?;
        owned.extend(files.iter().map(|name| name.as_ref().to_owned()));
        owned.retain(|name| ![self.plan.name(FILE), self.plan.name(PLAN)].contains(name));
        let mut plan = self.plan.manifest();
        plan.path = None;
        plan.extra.insert(FILES.into(), json!(owned));
        write_json(&self.plan.plan_path(), &plan)?;
        self.owned.replace(Some(owned));
        Ok(())
    }

    /// Checks that none of the files that are going to be made would replace one that these tools did not
    /// make. Returns the names of the files there that they did make.
    ///
    /// # Errors
    /// Returns an error that names the first file in the way.
    pub fn check<S: AsRef<str>>(&self, files: &[S]) -> Result<BTreeSet<String>, Error> {
        let files: BTreeSet<String> = files.iter().map(|name| name.as_ref().to_owned()).collect();
        let owned = self.plan.owned(&files);
        let foreign =
            |name: &&str| !owned.contains(*name) && self.plan.dir.join(name).symlink_metadata().is_ok();
        let own = [self.plan.name(FILE), self.plan.name(PLAN)];
        match files.iter().chain(&own).map(String::as_str).find(foreign) {
            Some(name) => {
                Err(Error::InTheWay { path: self.plan.dir.join(name), tool: self.plan.kind.tool() })
            }
            None => Ok(owned),
        }
    }

    /// Removes a stale manifest before its outputs are replaced: from here on the directory counts as
    /// incomplete. Must be called after [`Writer::check`] or [`Writer::begin`], which have verified that the
    /// file is a manifest.
    ///
    /// # Errors
    /// Returns an error if the manifest cannot be removed.
    pub fn withdraw(&self) -> Result<(), Error> {
        remove(&self.plan.manifest_path())
    }

    /// Hashes the outputs, removes those of an earlier result that are not among them, and publishes the
    /// manifest, as the last file of the directory. The plan stays if the result has a state that can be
    /// continued.
    ///
    /// # Errors
    /// Returns an error if an output cannot be read, or if the file system fails.
    pub fn publish(&self, outputs: Vec<Produced>, metrics: Object, run: Object) -> Result<Manifest, Error> {
        let dir = &self.plan.dir;
        let mut m = self.plan.manifest();
        for o in outputs {
            let path = dir.join(&o.name);
            m.outputs.push(Output {
                role: o.role.into(),
                bytes: fs::metadata(&path).map_err(Error::io(&path))?.len(),
                blake3: hash::file(&path)?,
                path: o.name.into(),
                rows: o.rows,
            });
        }
        let is_output = |name: &&String| m.outputs.iter().any(|o| o.path == Path::new(name));
        for stale in self.owned.borrow().iter().flatten().filter(|name| !is_output(name)) {
            remove(&dir.join(stale))?;
        }
        m.metrics = metrics;
        m.digest = Some(key::digest(&m));
        m.run = run;
        // Symbolic links are resolved first, because the system resolves a `..` only after following them.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| absolute(path));
        let here = real(dir);
        for_each_path(&mut m.inputs, &mut |p| {
            let named = relative(&real(p), &here);
            // A link may lead to a path that JSON cannot hold; the link's own name was checked before.
            *p = if in_utf8(&named).is_ok() { named } else { absolute(p) };
        });
        let place = m.path.take();
        // The outputs must be on disk before the manifest that lists them.
        hash::sync_dir(dir)?;
        write_json(&self.plan.manifest_path(), &m)?;
        if m.outputs_of(STATE).next().is_none() {
            remove(&self.plan.plan_path())?;
        }
        self.owned.take();
        m.path = place;
        Ok(m)
    }
}

impl Drop for Writer {
    /// Removes the plan of work that failed before it wrote a file, so that the lock file can be removed, and
    /// the directory too if it was made for this work.
    fn drop(&mut self) {
        let finished = self.plan.existing();
        if let Some(owned) = self.owned.take() {
            let outputs = || finished.iter().flat_map(|m| &m.outputs);
            let is_new = |name: &&String| {
                !outputs().any(|o| o.path == Path::new(name)) && self.plan.dir.join(name).exists()
            };
            if !outputs().any(|o| o.role == STATE) && !owned.iter().any(|name| is_new(&name)) {
                let _ = fs::remove_file(self.plan.plan_path());
            }
        }
        // Beside a single file a lock would only be litter: its name belongs to that file alone.
        self.lock.keep(self.plan.file.is_none() && (finished.is_some() || self.plan.unfinished().is_some()));
    }
}

/// Writes a manifest or a plan as indented JSON, which people can read as well.
fn write_json(path: &Path, m: &Manifest) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(m).expect("a manifest is plain JSON");
    text.push('\n');
    write_atomic(path, |f| f.write_all(text.as_bytes()))
}

/// Renames a file within its directory, and flushes the directory.
///
/// # Errors
/// Returns an error if the file cannot be renamed, or if the directory cannot be flushed.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    kill_point();
    fs::rename(from, to).map_err(Error::io(from))?;
    hash::sync_dir(to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Removes a file. A file that does not exist is not an error.
pub fn remove(path: &Path) -> Result<(), Error> {
    kill_point();
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

/// Writes a file under a temporary name in the same directory, flushes it to disk, renames it, and flushes
/// the directory.
///
/// # Errors
/// Returns an error if the file system fails. The target is then as it was before, unless it was the final
/// flush of the directory that failed.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), Error> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let tmp = tempfile::Builder::new()
        .prefix(&temporary(name))
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(Error::io(path))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, tmp.as_file());
    write(&mut buffered)
        .and_then(|()| buffered.flush())
        .and_then(|()| tmp.as_file().sync_all())
        .map_err(Error::io(path))?;
    drop(buffered);
    kill_point();
    tmp.persist(path).map_err(|e| Error::io(path)(e.error))?;
    kill_point();
    hash::sync_dir(dir)
}

/// Returns the prefix of the names of a file's temporary files.
fn temporary(name: &str) -> String {
    format!("{TEMPORARY}{name}-")
}

/// Makes a path absolute and removes `.` and `..`, by name only: nothing needs to exist.
pub fn absolute(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            part => clean.push(part),
        }
    }
    clean
}

/// Returns `path` relative to the directory `from`. Both must be absolute.
fn relative(path: &Path, from: &Path) -> PathBuf {
    let same = path.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(path.components().skip(same)).collect()
}

#[cfg(test)]
mod tests;
