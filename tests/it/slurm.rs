//! Tests trainings under Slurm, on a cluster of one node that the test starts if Slurm is installed: steps of
//! `make -j`, an array of jobs, and a run cancelled by `scancel`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

use crate::common::{Sandbox, make, skipped};

/// A cluster that is stopped at the end of the test.
struct Cluster {
    sandbox: Sandbox,
}

impl Cluster {
    /// Starts a cluster. If Slurm is not installed or cannot run, it prints the reason and returns `None`, or
    /// fails if `$REMIX_REQUIRE_SLURM` is set.
    fn start() -> Option<Cluster> {
        let cluster = Cluster { sandbox: Sandbox::new() };
        let out = cluster.node("start");
        if out.status.success() {
            return Some(cluster);
        }
        let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        assert!(std::env::var_os("REMIX_REQUIRE_SLURM").is_none(), "{why}");
        skipped(why);
        None
    }

    fn node(&self, what: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/slurm-node");
        Command::new(script).arg(what).arg(self.dir()).output().expect("bash")
    }

    fn dir(&self) -> std::path::PathBuf {
        self.sandbox.join("slurm")
    }

    /// Returns a shell command in the repository that finds the cluster.
    fn shell(&self, command: &str) -> Command {
        let mut bash = make();
        bash.args(["-c", command])
            .env("SLURM_CONF", self.dir().join("slurm.conf"))
            .env("REMIX_CACHE_DIR", self.sandbox.join("memo"));
        bash
    }

    /// Returns the stdout of a command that must succeed.
    fn says(&self, command: &str) -> String {
        let out = self.shell(command).output().expect("bash");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&out.stderr));
        said
    }

    /// Runs `make` with the tools of this build on a small grid.
    fn make(&self, goal: &str) -> String {
        let tools = cargo_bin("train").parent().expect("a directory").display().to_string();
        let out = self.sandbox.path().display();
        self.says(&format!(
            "make --no-print-directory OUT='{out}' B='{tools}' CARGO=true CELLS=synthetic-exp-100 ARCH=resnet20 EPOCHS=1 \
             THREADS=1 {goal}"
        ))
    }

    /// Returns the number of finished runs.
    fn finished(&self) -> usize {
        let runs = fs::read_dir(self.sandbox.join("runs")).into_iter().flatten().flatten();
        runs.filter(|run| run.path().join("manifest.json").exists()).count()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.node("stop");
    }
}

/// Returns the hash of a run's last weights.
fn weights(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("manifest.json")).expect("finished");
    let m: Value = serde_json::from_str(&text).expect("JSON");
    let outputs = m["outputs"].as_array().expect("outputs");
    outputs.iter().find(|o| o["role"] == "last").expect("last")["blake3"].clone()
}

#[test]
fn steps_arrays_and_cancelled_runs() {
    let Some(cluster) = Cluster::start() else { return };
    let s = &cluster.sandbox;

    // Each training is a step of its own.
    cluster.make("table METHODS='erm remix' -j3 LAUNCH='srun -n1 -c1'");
    assert_eq!(cluster.finished(), 2);
    let jobs = cluster.says("scontrol -o show jobs");
    assert_eq!(jobs.matches("JobState=COMPLETED").count(), 2, "{jobs}");

    // Run the missing trainings as an array.
    let lines = cluster.make("table GOAL=jobs V=1 METHODS='erm remix mixup rw'");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.lines().all(|line| line.starts_with('"') && line.contains("/train\" ")), "{lines}");
    let file = s.join("jobs.txt");
    fs::write(&file, &lines).unwrap();
    let (file, out) = (file.display(), s.path().display());
    cluster.says(&format!(
        "sbatch --wait --array=1-2 --cpus-per-task=1 --output='{out}/%a.out' \
         --wrap 'eval \"$(sed -n \"${{SLURM_ARRAY_TASK_ID}}p\" {file})\"'"
    ));
    assert_eq!(cluster.finished(), 4);
    assert_eq!(cluster.make("jobs METHODS='erm remix mixup rw'"), "", "nothing is missing any more");

    // A cancelled run continues when it is requested again, and ends with the same weights.
    let train = cargo_bin("train").display().to_string();
    let train = |dir: &str| {
        format!(
            "'{train}' '{out}/data/synthetic-exp-100' --arch resnet20 --epochs 4 --threads 1 --out '{out}/{dir}'"
        )
    };
    let srun = format!("srun -n1 -c1 --job-name=stopped {}", train("stopped"));
    let first =
        cluster.shell(&srun).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut first = first.unwrap();
    let begun = Instant::now();
    while !s.join("stopped/state.safetensors").exists() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no epoch ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.says("scancel --name=stopped");
    assert!(!first.wait().unwrap().success());
    assert!(!s.join("stopped/manifest.json").exists(), "it was not finished");
    let again = cluster.shell(&srun).output().unwrap();
    assert!(
        again.status.success() && String::from_utf8_lossy(&again.stderr).contains("continuing after epoch")
    );
    cluster.says(&train("whole"));
    assert_eq!(weights(&s.join("stopped")), weights(&s.join("whole")));
}
