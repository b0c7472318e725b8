//! Helpers shared by the tests of all tools: running a tool in a directory of its own, small results to start
//! from, damaging them, and finding the real CIFAR files.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use assert_cmd::assert::Assert;
use assert_cmd::cargo::cargo_bin;
use remix::manifest::{Manifest, key};
use serde_json::Value;
use tempfile::TempDir;

/// A directory in which tools run, with its own memo of file hashes.
pub struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        Sandbox { dir: tempfile::tempdir().expect("a directory") }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Returns a command for a program, not started yet, in which the tools use this directory and its memo.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env("REMIX_CACHE_DIR", self.join("memo"))
            // These tests do not cover a GPU that the machine may have.
            .env("CUDA_VISIBLE_DEVICES", "")
            .stdin(Stdio::null());
        command
    }

    /// Returns a command for the tool with these arguments, not started yet.
    pub fn tool(&self, name: &str, args: &str) -> assert_cmd::Command {
        let mut command = self.command(cargo_bin(name));
        command.args(args.split_whitespace());
        command.into()
    }

    /// Runs a tool that must succeed and returns the manifests that it prints.
    pub fn run(&self, name: &str, args: &str) -> Vec<Value> {
        let text = self.printed(name, args);
        text.lines().map(|line| serde_json::from_str(line).expect("a manifest a line")).collect()
    }

    /// Runs a tool that prints one manifest.
    pub fn one(&self, name: &str, args: &str) -> Value {
        let mut found = self.run(name, args);
        assert_eq!(found.len(), 1, "one manifest");
        found.remove(0)
    }

    /// Runs a tool that must succeed and returns what it prints on stdout.
    pub fn printed(&self, name: &str, args: &str) -> String {
        let done = self.tool(name, args).assert().success();
        String::from_utf8(done.get_output().stdout.clone()).expect("UTF-8")
    }

    /// Runs a tool that must end with this exit code and returns what it says on stderr.
    pub fn said(&self, name: &str, args: &str, code: i32) -> String {
        let done = self.tool(name, args).assert().code(code);
        String::from_utf8(done.get_output().stderr.clone()).expect("UTF-8")
    }

    /// Runs a line of bash with the tools' directory in `$B`; the line fails if any part of a pipe does.
    pub fn bash(&self, line: &str) -> Output {
        let bin = cargo_bin("train");
        let mut bash = self.command("bash");
        bash.env("B", bin.parent().expect("a directory"));
        bash.args(["-o", "pipefail", "-c", line]).output().expect("bash")
    }

    /// Kills a training at one kill point after the other, starting with `first` and each time in a new
    /// directory, until these files are in it.
    pub fn killed_with(&self, files: &[&str], args: &str, dir: &str, first: u32) {
        for point in first.. {
            let _ = fs::remove_dir_all(self.join(dir));
            let mut killed = self.tool("train", &format!("{args} --out {dir}"));
            killed.env("REMIX_KILL_AT", point.to_string()).assert().interrupted();
            if files.iter().all(|file| self.join(dir).join(file).exists()) {
                return;
            }
        }
    }

    /// Runs a line of sh, which must succeed, on a terminal of script(1), and returns what the terminal shows.
    /// If there is no script(1), it prints that the test is skipped and returns `None`.
    pub fn terminal(&self, line: &str) -> Option<String> {
        let mut script = self.command("script");
        let Ok(output) = script.args(["-qec", line, "/dev/null"]).env("TERM", "xterm").output() else {
            skipped("no script(1) to make a terminal with");
            return None;
        };
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success(), "{said}");
        Some(said)
    }
}

/// Flags of `mk-imbalance` for a small data set.
pub const DATA: &str = "--dataset synthetic --train-per-class 8 --test-per-class 2 --imb-ratio 4";

/// Arguments of `train` for one epoch on it.
pub const TRAIN: &str = "data --arch resnet20 --epochs 1 --batch-size 64";

/// Makes a small data set in `data`.
pub fn with_data() -> Sandbox {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} -q --out data"));
    s
}

/// Makes a small data set in `data`, a run in `run` and its evaluation in `m`.
pub fn trained() -> Sandbox {
    let s = with_data();
    s.one("train", &format!("{TRAIN} -q --out run"));
    s.one("eval", "run -q --out m");
    s
}

/// Returns a bash command in the repository from which make can be started, even if make started the tests.
pub fn make() -> Command {
    let mut bash = Command::new("bash");
    bash.current_dir(env!("CARGO_MANIFEST_DIR")).env("CUDA_VISIBLE_DEVICES", "");
    for inherited in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"] {
        bash.env_remove(inherited);
    }
    bash
}

/// Asserts that a tool fails with exit code 2, nothing on stdout, and one line on stderr that contains `why`.
pub fn refused(assert: Assert, why: &str) {
    let output = assert.code(2).get_output().clone();
    let message = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.stdout.is_empty(), "stdout: {:?}", output.stdout);
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    assert!(message.contains(why), "`{why}` is not in: {message}");
    assert!(!message.contains("panicked"), "{message}");
}

/// Changes a manifest, given by its file or directory, and updates its key and digest to match.
pub fn edit(place: &Path, change: impl FnOnce(&mut Value)) {
    let file = if place.is_dir() { place.join("manifest.json") } else { place.to_owned() };
    let mut v: Value = serde_json::from_str(&fs::read_to_string(&file).expect("read")).expect("JSON");
    change(&mut v);
    seal(&mut v);
    fs::write(&file, v.to_string()).expect("written");
}

/// Updates a manifest's key and digest to match its content.
pub fn seal(v: &mut Value) {
    let Ok(m) = serde_json::from_value::<Manifest>(v.clone()) else { return };
    let key = key::key(m.kind, m.semantics, &m.params, &m.inputs);
    let m = Manifest { key, ..m };
    v["digest"] = key::digest(&m).into();
    v["key"] = m.key.into();
}

/// Returns a training's log without the times.
pub fn timeless(log: &str) -> String {
    let line = |line: &str| {
        let mut v: Value = serde_json::from_str(line).expect("JSON");
        v.as_object_mut()
            .expect("an object")
            .retain(|name, _| name != "seconds" && name != "images_per_second");
        format!("{v}\n")
    };
    log.lines().map(line).collect()
}

/// Asserts that a committed file has this text. If `$REMIX_BLESS` is set, it writes the text first.
pub fn committed(name: &str, text: &str, test: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("REMIX_BLESS").is_some() {
        fs::write(&path, text).expect("written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{name}: renew it with REMIX_BLESS=1 cargo test --release --test it {test}");
}

/// Flips one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("written");
}

/// Copies the files of a directory into another one, which is made if it is not there.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// A small file system in memory, to be filled by a test, at whose end it is unmounted.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts a file system of a size such as `2m` on a new directory. If that is not permitted, it prints that
    /// the test is skipped and returns `None`.
    pub fn mount(dir: PathBuf, size: &str) -> Option<Disk> {
        fs::create_dir(&dir).expect("made");
        let size = format!("size={size}");
        if run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir)) {
            return Some(Disk(dir));
        }
        skipped("mounting a tmpfs is not permitted");
        None
    }

    /// Changes the size.
    pub fn resize(&self, size: &str) {
        assert!(run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0)));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg(&self.0));
        assert!(unmounted || std::thread::panicking(), "{}: is unmounted", self.0.display());
    }
}

/// Runs a command without showing its output, and returns whether it succeeded.
fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// Prints why the running test, or a part of it, is skipped. The test runner shows nothing that passing tests print by
/// macros, so this writes to stderr itself.
pub fn skipped(why: impl Display) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "skipped: {}: {why}", thread.name().unwrap_or("a test"));
}

/// Returns the official files of `cifar10` or `cifar100` in the `python` or the `binary` form: the directory
/// or the archive in `$CIFAR_DIR`, or else in `data`, where `make data` puts the python form. If they are not
/// there, it prints that the test is skipped and returns `None`, or fails if `$CIFAR_DIR` is set.
pub fn official(set: &str, form: &str) -> Option<PathBuf> {
    let given = std::env::var_os("CIFAR_DIR").filter(|dir| !dir.is_empty());
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(given.as_deref().unwrap_or(OsStr::new("data")));
    let archive = format!("{}-{form}.tar.gz", set.replace("cifar", "cifar-"));
    let unpacked = match (set, form) {
        ("cifar10", "binary") => "cifar-10-batches-bin",
        ("cifar10", _) => "cifar-10-batches-py",
        ("cifar100", "binary") => "cifar-100-binary",
        _ => "cifar-100-python",
    };
    let found = [unpacked, &archive].map(|name| dir.join(name)).into_iter().find(|path| path.exists());
    if found.is_none() {
        let get = if form == "python" { "make data" } else { "scripts/fetch-cifar --form binary" };
        let why = format!("neither {unpacked} nor {archive} is in {}", dir.display());
        assert!(given.is_none(), "{why}, the directory of CIFAR_DIR");
        skipped(format!("{why}; run {get}, or set CIFAR_DIR to a directory that has both forms"));
    }
    found
}
