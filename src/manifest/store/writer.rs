//! Making a claimed result: its files first, its manifest last.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::file::{absolute, relative, remove};
use super::{FILES, Lock, PLAN, Plan, STATE, TEMPORARY, flag, write_json};
use crate::manifest::{Error, FILE, Manifest, Object, Output, for_each_path, hash, in_utf8, key};

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
    /// Starts the work on a plan whose result is locked.
    pub(super) fn new(plan: Plan, lock: Lock) -> Self {
        Writer { plan, owned: RefCell::default(), lock }
    }

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

    /// Does the same as [`Writer::begin`], and returns a directory for files that are not yet at their final
    /// paths. Files that a killed process left there are kept if it worked on the same key.
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
        let first = files.iter().chain(&own).map(String::as_str).find(foreign);
        match first.map(|name| self.plan.dir.join(name)) {
            Some(path) => {
                let tool = self.plan.kind.tool();
                let why = format!("{}, or choose another {}", in_the_way(&path, &own, tool), flag(tool));
                Err(Error::Refused { path, why })
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
                extra: Object::new(),
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
        let path = m.path.take();
        // The outputs must be on disk before the manifest that lists them.
        hash::sync_dir(dir)?;
        write_json(&self.plan.manifest_path(), &m)?;
        if m.outputs_of(STATE).next().is_none() {
            remove(&self.plan.plan_path())?;
        }
        self.owned.take();
        m.path = path;
        Ok(m)
    }
}

/// Returns what is wrong with a file at the path of a tool's output, and what to do besides choosing another
/// path. `own` are the names of the manifest and the plan of the result.
fn in_the_way(path: &Path, own: &[String; 2], tool: &str) -> String {
    if path.is_dir() {
        return "is a directory; move it away".into();
    }
    let [manifest, plan] = own;
    let why = match path.ends_with(manifest) || path.ends_with(plan) {
        true => format!("is not a manifest that {tool} can read"),
        false => format!("no readable {manifest} or {plan} lists it"),
    };
    format!("{why}, so {tool} does not replace it; move it away")
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
