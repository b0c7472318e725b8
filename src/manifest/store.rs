//! The output directory: locked while one process works, complete once `manifest.json` is there.
//!
//! Every file is written under a temporary name in its directory, flushed to disk and renamed; the manifest comes last.
//! So a reader sees a complete result or none, whatever was killed and whenever.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};

use super::lock::Lock;
use super::{Error, FILE, Input, Kind, Manifest, Object, Output, SCHEMA, for_each_path, hash, in_utf8, key};

/// File name of a plan that stands in a directory as long as work on it can be gone on with.
pub const PLAN: &str = "plan.json";

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
}

/// What [`Plan::claim`] found.
pub enum Claim {
    /// The directory holds this very result, intact.
    Done(Box<Manifest>),
    /// The directory is ours to fill.
    Work(Writer),
}

impl Plan {
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
            path: Some(absolute(&self.dir).join(FILE)),
            extra: Object::new(),
        }
    }

    /// The manifest that stands in the directory now, whatever its key. A file that is no manifest counts as none, and
    /// so does one that lists files outside its directory.
    pub fn existing(&self) -> Option<Manifest> {
        self.read(FILE)
    }

    /// The plan of the unfinished work in the directory, where the tool wrote one as [`PLAN`].
    pub fn unfinished(&self) -> Option<Manifest> {
        self.read(PLAN)
    }

    fn read(&self, name: &str) -> Option<Manifest> {
        let text = fs::read_to_string(self.dir.join(name)).ok()?;
        let mut m: Manifest = serde_json::from_str(&text).ok()?;
        m.path = Some(absolute(&self.dir).join(FILE));
        (m.schema == SCHEMA && m.escaping().is_none()).then_some(m)
    }

    /// The finished result, if the directory holds it with intact outputs.
    pub fn done(&self) -> Option<Manifest> {
        self.existing().filter(|m| m.key == self.key() && m.damage(hash::file).is_none())
    }

    /// Says, part by part, how the key differs from the one of the result in the directory, finished or not.
    pub fn explain(&self) -> String {
        let dir = self.dir.display();
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

    /// Refuses a plan whose manifest could not be written: it names the current directory, the output directory and every
    /// input.
    ///
    /// # Errors
    /// [`Error::NotUtf8`], with the path.
    pub fn check_paths(&self) -> Result<(), Error> {
        in_utf8(&self.dir)?;
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

    /// Takes the directory's lock, waiting for another process if need be, and looks whether the work is done.
    /// `waiting` is called once if another process holds the lock.
    ///
    /// # Errors
    /// A directory that cannot be made or written, or that holds another tool's result: that one is never replaced.
    pub fn claim(&self, force: bool, waiting: impl FnOnce()) -> Result<Claim, Error> {
        if !force && let Some(m) = self.done() {
            return Ok(Claim::Done(Box::new(m)));
        }
        self.check_paths()?;
        let (lock, waited) = Lock::take(&self.dir, waiting)?;
        // Another process may have finished between the first look and the lock.
        if (waited || !force)
            && let Some(m) = self.done()
        {
            return Ok(Claim::Done(Box::new(m)));
        }
        if let Some(e) =
            self.existing().filter(|m| m.key == self.key() && !force).and_then(|m| m.damage(hash::file))
        {
            log::warn!("{e}; working again");
        }
        // A plan alone, beside the lock, is of a run that came to nothing.
        let begun = || fs::read_dir(&self.dir).is_ok_and(|files| files.count() > 2);
        let there = self.existing().or_else(|| self.unfinished().filter(|_| begun()));
        if let Some(other) = there.filter(|m| m.kind != self.kind) {
            let (found, wanted) = (other.kind.name(), self.kind.name());
            return Err(Error::Occupied { path: self.dir.clone(), found, wanted });
        }
        Ok(Claim::Work(Writer { plan: self.clone(), _lock: lock }))
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
    _lock: Lock,
}

/// A file of the result, before its hash is known.
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

    /// Withdraws a stale manifest before its outputs are replaced: from here on the directory counts as incomplete.
    ///
    /// # Errors
    /// The file system's.
    pub fn withdraw(&self) -> Result<(), Error> {
        let file = self.plan.dir.join(FILE);
        match fs::remove_file(&file) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(file)(e)),
            _ => Ok(()),
        }
    }

    /// Hashes the outputs and publishes the manifest, as the last file of the directory.
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
        let mut text = serde_json::to_string_pretty(&m).expect("a manifest is plain JSON");
        text.push('\n');
        hash::sync_dir(dir)?;
        write_atomic(&dir.join(FILE), |f| f.write_all(text.as_bytes()))?;
        m.path = place;
        Ok(m)
    }
}

/// Writes a file under a temporary name in the same directory, flushes it to disk and renames it.
///
/// # Errors
/// The file system's; the target is then as it was before.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), Error> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let tmp = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(Error::io(path))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, tmp.as_file());
    write(&mut buffered)
        .and_then(|()| buffered.flush())
        .and_then(|()| tmp.as_file().sync_all())
        .map_err(Error::io(path))?;
    drop(buffered);
    tmp.persist(path).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
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
mod tests {
    use super::*;

    fn plan(dir: &Path, n: i64) -> Plan {
        let params = json!({"n": n, "deep": {"m": 1}}).as_object().cloned().expect("an object");
        Plan { kind: Kind::Dataset, semantics: 1, params, inputs: vec![], dir: dir.to_owned() }
    }

    fn make(plan: &Plan, text: &str) -> Manifest {
        let Claim::Work(w) = plan.claim(false, || ()).expect("claimed") else {
            panic!("the work was already done");
        };
        w.withdraw().expect("withdrawn");
        write_atomic(&w.dir().join("a.txt"), |f| f.write_all(text.as_bytes())).expect("written");
        let out = Produced { role: "train", name: "a.txt".into(), rows: None };
        w.publish(vec![out], Object::new(), Object::new()).expect("published")
    }

    #[test]
    fn a_result_is_found_again_until_it_is_damaged() {
        let dir = tempfile::tempdir().expect("a directory");
        let p = plan(dir.path(), 1);
        assert!(p.done().is_none());
        let m = make(&p, "hello");
        assert_eq!(p.done().expect("done").key, m.key);
        assert!(plan(dir.path(), 2).done().is_none(), "another key");
        fs::write(dir.path().join("a.txt"), "jello").expect("tampered");
        assert!(p.done().is_none(), "damaged");
        fs::remove_file(dir.path().join("a.txt")).expect("removed");
        assert!(p.done().is_none(), "missing");
    }

    #[test]
    fn a_manifest_that_lists_files_elsewhere_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let p = plan(dir.path(), 1);
        make(&p, "hello");
        let file = dir.path().join(FILE);
        let text = fs::read_to_string(&file).expect("read").replace("a.txt", "../a.txt");
        fs::write(&file, text).expect("written");
        assert!(p.existing().is_none() && p.done().is_none());
    }

    #[test]
    fn explain_names_the_parameter() {
        let dir = tempfile::tempdir().expect("a directory");
        make(&plan(dir.path(), 1), "hello");
        let text = plan(dir.path(), 2).explain();
        assert!(text.contains("params.n: 1 there, 2 asked"), "{text}");
        assert!(!text.contains("deep"), "{text}");
    }

    #[test]
    fn a_second_claimant_waits_and_finds_the_result() {
        let dir = tempfile::tempdir().expect("a directory");
        let p = plan(dir.path(), 1);
        let Claim::Work(w) = p.claim(false, || ()).expect("claimed") else {
            panic!("not done yet");
        };
        let (tx, rx) = std::sync::mpsc::channel();
        std::thread::scope(|s| {
            let other = s.spawn(|| p.claim(false, || tx.send(()).expect("heard")));
            rx.recv().expect("the other one waits");
            fs::write(dir.path().join("a.txt"), "x").expect("written");
            let out = Produced { role: "train", name: "a.txt".into(), rows: None };
            w.publish(vec![out], Object::new(), Object::new()).expect("published");
            drop(w);
            assert!(matches!(other.join().expect("joined"), Ok(Claim::Done(_))));
        });
    }

    #[test]
    fn another_tools_result_is_never_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        make(&plan(dir.path(), 1), "hello");
        let other = Plan { kind: Kind::Metrics, ..plan(dir.path(), 2) };
        for force in [false, true] {
            let e = other.claim(force, || ()).err().expect("refused").to_string();
            assert!(e.contains("holds a dataset"), "{e}");
        }
        assert!(plan(dir.path(), 1).done().is_some(), "intact");
    }

    #[test]
    fn relative_paths() {
        let r = |a: &str, b: &str| relative(Path::new(a), Path::new(b)).display().to_string();
        assert_eq!(r("/x/data/m.json", "/x/runs/a"), "../../data/m.json");
        assert_eq!(r("/x/runs/a/m.json", "/x/runs/a"), "m.json");
    }
}
