//! Helpers shared by the tests of all tools: running a tool in a directory of its own, and finding the real
//! CIFAR files.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use assert_cmd::assert::Assert;
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

    /// Returns a command for the tool with these arguments, not started yet.
    pub fn tool(&self, name: &str, args: &str) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::cargo_bin(name).expect("the tool is built");
        command
            .current_dir(self.path())
            .env("REMIX_CACHE_DIR", self.join("memo"))
            // These tests do not cover a GPU that the machine may have.
            .env("CUDA_VISIBLE_DEVICES", "")
            .args(args.split_whitespace());
        command
    }

    /// Runs a tool that must succeed and returns the manifests that it prints.
    pub fn run(&self, name: &str, args: &str) -> Vec<Value> {
        let output = self.tool(name, args).assert().success().get_output().clone();
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a manifest a line")).collect()
    }

    /// Runs a tool that prints one manifest.
    pub fn one(&self, name: &str, args: &str) -> Value {
        let mut found = self.run(name, args);
        assert_eq!(found.len(), 1, "one manifest");
        found.remove(0)
    }
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
    let mut v: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("read")).expect("JSON");
    change(&mut v);
    seal(&mut v);
    std::fs::write(&file, v.to_string()).expect("written");
}

/// Updates a manifest's key and digest to match its content.
pub fn seal(v: &mut Value) {
    let Ok(m) = serde_json::from_value::<Manifest>(v.clone()) else { return };
    let key = key::key(m.kind, m.semantics, &m.params, &m.inputs);
    let m = Manifest { key, ..m };
    v["digest"] = key::digest(&m).into();
    v["key"] = m.key.into();
}

/// Flips one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).expect("written");
}

/// Returns the directory with the four unpacked official directories: `$CIFAR_DIR`, or else the user's cache,
/// into which they are unpacked once from `../shared`. If neither is available, it prints that the test is
/// skipped and returns `None`.
pub fn cifar_dir() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        if let Some(dir) = std::env::var_os("CIFAR_DIR") {
            return Some(PathBuf::from(dir));
        }
        let unpack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/unpack");
        let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
        let dest = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?.join("remix-test-data");
        let done = unpack.exists()
            && std::fs::create_dir_all(&dest).is_ok()
            && ["cifar10", "cifar100"].iter().all(|set| {
                let status = Command::new(&unpack).arg(set).arg(&dest).status();
                status.is_ok_and(|s| s.success())
            });
        done.then_some(dest)
    });
    if found.is_none() {
        eprintln!(
            "skipped: no real CIFAR files; set CIFAR_DIR to the directory of cifar-10-batches-bin and its like"
        );
    }
    found.as_deref()
}
