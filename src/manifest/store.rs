//! Where results go: a directory of their own, complete once `manifest.json` is in it, or one file, complete
//! once `FILE.manifest.json` is beside it. Either is locked while one process works on it.
//!
//! Every file is written under a temporary name in its directory, flushed to disk and renamed; the manifest
//! comes last. So a reader sees a complete result or none, whatever was killed and whenever.
//!
//! Nothing is replaced or removed that these tools did not make: only files that an earlier manifest or plan
//! in the directory lists, and temporaries, whose names nobody else would choose. Before the first file is
//! written, [`PLAN`] lists every file that will be.

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

/// File name of a plan, which stands in a directory while it is worked on, and beside results that can be
/// continued.
pub const PLAN: &str = "plan.json";

/// The field of a plan that lists the names of the files which are the tool's.
const FILES: &str = "files";

/// The role of an output that a tool continues from; the plan stays beside it.
const STATE: &str = "state";

/// What the names of temporary files and directories begin with.
pub(crate) const TEMPORARY: &str = ".remix-tmp-";

/// A result before any work: everything that its key is made of, and the directory it will be in.
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
    /// The result's only file, where that is all it is: its manifest, plan and lock then stand beside it
    /// under its name, and the rest of the directory is not the result's.
    pub file: Option<String>,
}

/// What [`Plan::claim`] found.
pub enum Claim {
    /// The result is there, intact.
    Done(Box<Manifest>),
    /// It is ours to make.
    Work(Box<Writer>),
}

impl Plan {
    /// What the result is called: its directory or its file.
    pub fn place(&self) -> PathBuf {
        match &self.file {
            None => self.dir.clone(),
            Some(file) if self.dir == Path::new(".") => file.into(),
            Some(file) => self.dir.join(file),
        }
    }

    /// The name that the result's own [`FILE`] or [`PLAN`] has in the directory.
    fn name(&self, what: &str) -> String {
        self.file.as_ref().map_or_else(|| what.to_owned(), |file| format!("{file}.{what}"))
    }

    fn manifest_path(&self) -> PathBuf {
        self.dir.join(self.name(FILE))
    }

    fn plan_path(&self) -> PathBuf {
        self.dir.join(self.name(PLAN))
    }

    /// The key of the result.
    pub fn key(&self) -> String {
        key::key(self.kind, self.semantics, &self.params, &self.inputs)
    }

    /// The manifest as far as it is known before the work: no outputs, no metrics.
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

    /// The manifest that is there now, whatever its key. A file that is no manifest counts as none, and so
    /// does one that lists files outside its directory.
    pub fn existing(&self) -> Option<Manifest> {
        self.read(&self.manifest_path())
    }

    /// The plan of unfinished work, where the tool wrote one as [`PLAN`].
    pub fn unfinished(&self) -> Option<Manifest> {
        self.read(&self.plan_path())
    }

    fn read(&self, path: &Path) -> Option<Manifest> {
        let text = fs::read_to_string(path).ok()?;
        let mut m: Manifest = serde_json::from_str(&text).ok()?;
        m.path = Some(absolute(&self.manifest_path()));
        (m.schema == SCHEMA && m.escaping().is_none()).then_some(m)
    }

    /// Names of the files in the directory that these tools made for this result or an earlier one in its
    /// place, by the manifest and the plan there. The plan of a version that did not list them is a
    /// training's, and stands for `usual`.
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
        // What a file that was tampered with lists elsewhere is nobody's.
        all.retain(|name| Path::new(name).file_name().is_some_and(|own| own == name.as_str()));
        if let Some(file) = &self.file {
            all.retain(|name| [file.clone(), self.name(FILE), self.name(PLAN)].contains(name));
        }
        all
    }

    /// The finished result, if the directory holds it with intact outputs.
    pub fn done(&self) -> Option<Manifest> {
        self.existing().filter(|m| m.key == self.key() && m.damage(hash::file).is_none())
    }

    /// Says, part by part, how the key differs from the one of the result that is there, finished or not.
    pub fn explain(&self) -> String {
        let dir = self.place();
        let dir = dir.display();
        let (old, what, next) = match (self.existing(), self.unfinished()) {
            (Some(old), _) => (old, "another key", "nothing to do"),
            (None, Some(old)) => {
                (old, "an unfinished result of another key", "unfinished, to be gone on with")
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

    /// Refuses a plan whose manifest could not be written: it names the current directory, the output
    /// directory and every input.
    ///
    /// # Errors
    /// [`Error::NotUtf8`], with the path.
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

    /// Takes the result's lock, waiting for another process if need be, and looks whether the work is done.
    /// `waiting` is called once if another process holds the lock.
    ///
    /// # Errors
    /// A directory that cannot be made or written, or that holds another tool's result: that one is never
    /// replaced.
    pub fn claim(&self, force: bool, waiting: impl FnOnce()) -> Result<Claim, Error> {
        // A plan beside a result that is not continued was left by a kill, with temporaries perhaps.
        let is_tidy = |m: &Manifest| m.outputs_of(STATE).next().is_some() || self.unfinished().is_none();
        if !force && let Some(m) = self.done().filter(is_tidy) {
            return Ok(Claim::Done(Box::new(m)));
        }
        self.check_paths()?;
        let lock = Lock::take(&self.dir, &lock::name(self.file.as_deref()), waiting)?;
        // Another process may have finished between the first look and the lock.
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
        // A plan alone, beside the lock, is of a run that came to nothing.
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

    /// Removes what killed processes left under temporary names, except for one. The result is locked, so
    /// nobody is at work on them.
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
    /// Names of files in the directory that may be replaced or removed, once the plan that lists them is
    /// written.
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
    /// Rows, where that means something.
    pub rows: Option<u64>,
}

/// What the work on a plan came to.
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
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.plan.dir
    }

    /// The plan that this fills.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Lists in [`PLAN`] the files that are going to be made, and removes temporaries that a killed process
    /// left.
    ///
    /// # Errors
    /// One of the names is taken by a file that these tools did not make; the file system's.
    pub fn begin<S: AsRef<str>>(&self, files: &[S]) -> Result<(), Error> {
        self.begin_with(files, "")
    }

    /// [`Writer::begin`] with a directory for files that are not in their place yet, which keeps those that a
    /// killed process has left there if it worked on the same key.
    ///
    /// # Errors
    /// Those of [`Writer::begin`].
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

    /// Looks whether one of the files that are going to be made would replace one that these tools did not
    /// make. Returns the names of those that they did make.
    ///
    /// # Errors
    /// A file that is in the way.
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

    /// Withdraws a stale manifest before its outputs are replaced: from here on the directory counts as
    /// incomplete. Only after [`Writer::check`] or [`Writer::begin`], which have seen that the manifest is
    /// one.
    ///
    /// # Errors
    /// The file system's.
    pub fn withdraw(&self) -> Result<(), Error> {
        remove(&self.plan.manifest_path())
    }

    /// Hashes the outputs, removes those of an earlier result that are not among them, and publishes the
    /// manifest, as the last file of the directory. The plan stays where the result has a state that can be
    /// continued.
    ///
    /// # Errors
    /// The file system's.
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
        // Through symbolic links: the system resolves `..` behind them.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| absolute(path));
        let here = real(dir);
        for_each_path(&mut m.inputs, &mut |p| {
            let named = relative(&real(p), &here);
            // A link may lead to a place that JSON cannot name; its own name was checked.
            *p = if in_utf8(&named).is_ok() { named } else { absolute(p) };
        });
        let place = m.path.take();
        // The outputs before the manifest that lists them.
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
    /// Work that failed before it wrote a file leaves no plan, so that the lock can go, and the directory if
    /// it was made for it.
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
        // Beside a file a lock would only be litter: the name is the file's own.
        self.lock.keep(self.plan.file.is_none() && (finished.is_some() || self.plan.unfinished().is_some()));
    }
}

/// Writes a manifest or a plan, for people to read as well.
fn write_json(path: &Path, m: &Manifest) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(m).expect("a manifest is plain JSON");
    text.push('\n');
    write_atomic(path, |f| f.write_all(text.as_bytes()))
}

/// Gives a file another name in its directory, and flushes that.
///
/// # Errors
/// The file system's.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    kill_point();
    fs::rename(from, to).map_err(Error::io(from))?;
    hash::sync_dir(to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Removes a file; that it is not there is no error.
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
/// The file system's; the target is then as it was before.
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

/// What the names of a file's temporary files begin with.
fn temporary(name: &str) -> String {
    format!("{TEMPORARY}{name}-")
}

/// Absolute and without `.` and `..`, by name only: nothing need exist.
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

/// `path` as seen from the directory `from`; both absolute.
fn relative(path: &Path, from: &Path) -> PathBuf {
    let same = path.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| Component::ParentDir);
    up.chain(path.components().skip(same)).collect()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
