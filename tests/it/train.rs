//! Tests `train`: the same bytes every time, even if it is killed; the cache; and the protection of its
//! directory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use remix::simd::Isa;
use serde_json::Value;

use crate::common::{DATA, Sandbox, edit, flip, refused, skipped, timeless, with_data};

/// A short training that uses every random stream.
const SHORT: &str = "data --method remix-drs --arch resnet20 --batch-size 32 -q";

/// Returns the weights and the state of a run, and its log without the times.
fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let read =
        |name: &str| fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{}: {name}: {e}", dir.display()));
    let mut all: BTreeMap<_, _> = ["last.safetensors", "best.safetensors", "state.safetensors"]
        .map(|name| (name.to_owned(), read(name)))
        .into();
    all.insert("log".into(), timeless(&String::from_utf8(read("log.jsonl")).unwrap()).into());
    all
}

/// Returns the names of the files that differ.
fn differing(a: &BTreeMap<String, Vec<u8>>, b: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    a.iter().filter(|(name, bytes)| b[*name] != **bytes).map(|(name, _)| name.clone()).collect()
}

fn spawn(s: &Sandbox, args: &str) -> Child {
    spawn_with(s, args, &[])
}

fn spawn_with(s: &Sandbox, args: &str, env: &[(&str, &str)]) -> Child {
    s.command(assert_cmd::cargo::cargo_bin("train"))
        .args(args.split_whitespace())
        .envs(env.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the first epoch is on disk.
fn started(dir: &Path) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !dir.join("state.safetensors").exists() {
        assert!(Instant::now() < limit, "no epoch in a minute");
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_seed_gives_the_same_bytes_for_any_number_of_threads() {
    let s = with_data();
    for threads in [1, 2, 4] {
        s.one("train", &format!("{SHORT} --epochs 2 --threads {threads} --out t{threads}"));
    }
    let first = bytes(&s.join("t1"));
    for threads in [2, 4] {
        let none: [&str; 0] = [];
        assert_eq!(differing(&first, &bytes(&s.join(format!("t{threads}")))), none, "{threads} threads");
    }
    // Seeds 0 and 1 give two manifests, each as if it had been trained alone.
    let both = s.run("train", &format!("{SHORT} --epochs 2 --seeds 0-1 --out both"));
    assert_eq!(both.iter().map(|m| &m["params"]["seed"]).collect::<Vec<_>>(), [0, 1]);
    assert!(differing(&first, &bytes(&s.join("both/seed-0"))).is_empty());
    assert_eq!(differing(&first, &bytes(&s.join("both/seed-1"))).len(), 4, "another seed");
}

#[test]
fn killed_twenty_times_it_ends_with_the_same_bytes() {
    let s = with_data();
    let run = format!("{SHORT} --epochs 12 --threads 1");
    let whole = Instant::now();
    s.one("train", &format!("{run} --out whole"));
    let whole = whole.elapsed();
    // The kills are spread over the time of two epochs, so that most processes make progress and none reaches
    // the end.
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut kills = 0;
    while kills < 20 {
        let mut child = spawn(&s, &format!("{run} --out killed"));
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        sleep(whole.mul_f64(2.0 / 12.0 * (random >> 40) as f64 / (1 << 24) as f64));
        if child.try_wait().unwrap().is_some() {
            // The training ended before the kill: start again from the beginning.
            fs::remove_dir_all(s.join("killed")).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(
            !s.join("killed/manifest.json").exists()
                || s.tool("train", &format!("{run} --out killed --verify")).assert().try_success().is_ok()
        );
    }
    let m = s.one("train", &format!("{run} --out killed"));
    assert!(differing(&bytes(&s.join("whole")), &bytes(&s.join("killed"))).is_empty());
    assert_eq!(m["outputs"][3]["rows"], 12);
}

#[test]
fn a_run_that_goes_on_by_other_instructions_says_so() {
    let sets: Vec<_> = Isa::available().iter().map(|isa| isa.for_floats().name()).collect();
    let (best, other) = (sets[0], sets[sets.len() - 1]);
    if best == other {
        return skipped(format!("this machine has {best} alone"));
    }
    let s = with_data();
    let run = format!("{SHORT} --epochs 40 --out run");
    let mut child = spawn_with(&s, &run, &[("REMIX_ISA", other)]);
    started(&s.join("run"));
    child.kill().unwrap();
    child.wait().unwrap();
    let done = s.tool("train", &run).env("REMIX_ISA", best).assert().success();
    let said = String::from_utf8(done.get_output().stderr.clone()).unwrap();
    assert!(
        said.contains(&format!("warning: computed by {other} so far, and by {best} from here on: ")),
        "{said}"
    );
    let m: Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!(m["run"]["instruction_set"], format!("{other}, {best}"));
    let log = fs::read_to_string(s.join("run/log.jsonl")).unwrap();
    let by = |line: &str| serde_json::from_str::<Value>(line).unwrap()["computed_by"].clone();
    assert_eq!([by(log.lines().next().unwrap()), by(log.lines().last().unwrap())], [other, best]);
}

#[test]
fn an_interrupted_run_says_so_and_goes_on() {
    let s = with_data();
    let run = format!("{SHORT} --epochs 6");
    s.one("train", &format!("{run} --out whole"));
    // Ctrl-C sends SIGINT; a scheduler ends a job with SIGTERM.
    for signal in ["-INT", "-TERM"] {
        let stopped = format!("stopped{signal}");
        let dir = s.join(&stopped);
        let child = spawn(&s, &format!("{run} --out {stopped}"));
        started(&dir);
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{message}");
        assert!(message.contains("interrupted; run the same command again"), "{message}");
        assert!(output.stdout.is_empty() && !dir.join("manifest.json").exists());

        let text = s.said("train", &format!("{run} --seed 3 --out {stopped} --explain"), 0);
        assert!(
            text.contains("an unfinished result") && text.contains("params.seed: 0 there, 3 requested"),
            "{text}"
        );
        refused(
            s.tool("train", &format!("{run} --seed 3 --out {stopped}")).assert(),
            "an unfinished run of another experiment (differs in seed;",
        );
        s.one("train", &format!("{run} --out {stopped}"));
        assert!(differing(&bytes(&s.join("whole")), &bytes(&dir)).is_empty());
    }
}

/// Returns when each file of some results was last changed.
fn changed(s: &Sandbox, dirs: &[&str]) -> BTreeMap<PathBuf, SystemTime> {
    let files = dirs.iter().flat_map(|dir| fs::read_dir(s.join(dir)).unwrap());
    files
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap().modified().unwrap())
        })
        .collect()
}

#[test]
fn a_second_call_of_any_tool_does_no_work() {
    let s = with_data();
    s.one("train", &format!("{SHORT} --epochs 1 --out run"));
    let all = [
        ("mk-imbalance", format!("{DATA} -q --out data")),
        ("train", format!("{SHORT} --epochs 1 --out run")),
        ("eval", "run -q --out m".to_owned()),
        ("embed", "run -q --out e".to_owned()),
        ("report", "table m -q --out r".to_owned()),
    ];
    let first: Vec<Value> = all.iter().map(|(tool, args)| s.one(tool, args)).collect();
    let dirs = ["data", "run", "m", "e", "r"];
    let again = |what: &str| {
        let before = changed(&s, &dirs);
        for ((tool, args), first) in all.iter().zip(&first) {
            assert_eq!(&s.one(tool, args), first, "{tool}, {what}: the same manifest, times included");
        }
        assert_eq!(changed(&s, &dirs), before, "{what}: no file was written");
    };
    again("at once");
    for file in changed(&s, &dirs).into_keys() {
        File::open(file).unwrap().set_modified(SystemTime::now()).unwrap();
    }
    again("touched");
}

#[test]
fn asking_without_doing() {
    let s = with_data();
    let run = format!("{SHORT} --epochs 1 --out run");
    let planned = s.one("train", &format!("{run} --dry-run"));
    assert!(!s.join("run").exists(), "a dry run makes nothing");
    s.tool("train", &format!("{run} --verify")).assert().code(1);
    let made = s.one("train", &run);
    assert_eq!((&planned["key"], &planned["params"]), (&made["key"], &made["params"]));
    s.tool("train", &format!("{run} --verify")).assert().code(0);
    let said = s.said("train", &format!("{run} --verify --dry-run"), 2);
    assert!(said.contains("'--verify' cannot be used with '--dry-run'"), "{said}");
    // What is wrong with one result does not keep the others from being checked.
    s.one("train", &format!("{SHORT} --epochs 1 --seed 1 --out all/seed-1"));
    let all = s.tool("train", &format!("{SHORT} --epochs 1 --seeds 0-2 --out all --verify")).assert().code(1);
    let (manifests, said) = (&all.get_output().stdout, String::from_utf8_lossy(&all.get_output().stderr));
    assert_eq!(manifests.iter().filter(|byte| **byte == b'\n').count(), 1);
    for missing in ["all/seed-0", "all/seed-2"] {
        assert!(said.contains(&format!("train: {missing}: there is no finished result here\n")), "{said}");
    }
    let explained = |run: &str| s.said("train", &format!("{run} --explain"), 0);
    assert!(explained(&run).contains("nothing to do"));
    for (name, advice) in [("best", "run train --force again"), ("last", "run train again")] {
        let file = s.join(format!("run/{name}.safetensors"));
        fs::rename(&file, s.join("kept")).unwrap();
        let text = explained(&run);
        assert!(text.contains("missing") && text.contains(advice) && !text.contains("nothing"), "{text}");
        fs::rename(s.join("kept"), &file).unwrap();
    }
    let text = explained(&format!("{run} --lr 0.2"));
    assert!(text.contains("params.lr: 0.1 there, 0.2 requested") && !text.contains("epochs"), "{text}");

    // Another experiment is refused this directory unless --force is given.
    let before = bytes(&s.join("run"));
    refused(
        s.tool("train", &format!("{run} --lr 0.2")).assert(),
        "a finished run of another experiment (differs in lr;",
    );
    assert!(differing(&before, &bytes(&s.join("run"))).is_empty());
    assert_eq!(s.one("train", &run), made, "still from the cache");
    let forced = s.one("train", &format!("{run} --force"));
    assert_ne!(
        forced["run"]["started_unix"].as_u64().zip(forced["run"]["seconds"].as_f64()),
        made["run"]["started_unix"].as_u64().zip(made["run"]["seconds"].as_f64()),
        "trained again"
    );
    assert!(differing(&before, &bytes(&s.join("run"))).is_empty(), "to the same bytes");
    s.one("train", &format!("{run} --lr 0.2 --force"));
    assert!(!differing(&before, &bytes(&s.join("run"))).is_empty());
}

#[test]
fn of_two_processes_one_works_and_one_waits() {
    let s = with_data();
    let run = format!("{} --epochs 3 --out run", SHORT.replace("-q", "-v"));
    let both = [spawn(&s, &run), spawn(&s, &run)].map(|child| child.wait_with_output().unwrap());
    for output in &both {
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(both[0].stdout, both[1].stdout, "the same manifest");
    let said = both.map(|o| String::from_utf8(o.stderr).unwrap());
    let epochs: Vec<usize> = said.iter().map(|text| text.matches("epoch 3/3").count()).collect();
    assert_eq!(epochs.iter().sum::<usize>(), 1, "one of them trained: {said:?}");
    assert!(
        said.iter().any(|text| text.contains("another process is computing this result; waiting")),
        "{said:?}"
    );
}

/// A directory left unfinished by version 1: its plan does not list files, and its key has another version.
#[test]
fn an_unfinished_run_of_the_version_before_goes_on_as_one_of_that_version() {
    let s = with_data();
    let run = format!("{SHORT} --epochs 6");
    s.one("train", &format!("{run} --out whole"));
    let mut child = spawn(&s, &format!("{run} --out old"));
    started(&s.join("old"));
    child.kill().unwrap();
    child.wait().unwrap();
    let file = s.join("old/plan.json");
    edit(&file, |v| {
        v["semantics"] = 1.into();
        v.as_object_mut().unwrap().remove("files");
    });
    let output = s.tool("train", &format!("{run} --out old")).assert().success().get_output().clone();
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&m["semantics"], &m["run"]["finished_by_semantics"]), (&1.into(), &2.into()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("warning: this run was begun by version 1 of train"), "{said}");
    assert!(differing(&bytes(&s.join("whole")), &bytes(&s.join("old"))).is_empty(), "the same epochs");
    let judged = s.one("eval", "old -q --out judged");
    let by = judged["inputs"][0]["facts"]["computed_by"].as_str().unwrap();
    assert!(by.ends_with(", versions 1 and 2"), "{by}");
    // The result is found again and not replaced by a run of the current version.
    assert_eq!(s.one("train", &format!("{run} --out old")), m, "from the cache");
    let forced = s.one("train", &format!("{run} --force --out old"));
    assert_eq!(forced["semantics"], 2);
}

#[test]
fn force_works_again_even_where_another_process_was_first() {
    let s = with_data();
    let run = format!("{} --epochs 8 --out run", SHORT.replace("-q", "-v"));
    let first = spawn(&s, &run);
    started(&s.join("run"));
    let forced = spawn(&s, &format!("{run} --force")).wait_with_output().unwrap();
    let first = first.wait_with_output().unwrap();
    let said = String::from_utf8(forced.stderr).unwrap();
    assert!(first.status.success() && forced.status.success(), "{said}");
    assert!(
        said.contains("another process is computing this result; waiting") && said.contains("epoch 1/8"),
        "{said}"
    );
    assert_ne!(first.stdout, forced.stdout, "a result of its own");
}

#[test]
fn runs_side_by_side_are_for_gpus() {
    let s = with_data();
    let args = format!("{SHORT} --epochs 1 --seeds 0-1 --parallel 4 --device cpu --out runs");
    let said = s.said("train", &args, 0);
    assert!(said.contains("warning: --parallel 4: does nothing on the CPU"), "{said}");
}

#[test]
fn a_damaged_file_is_restored_or_refused_but_never_published() {
    let s = with_data();
    let run = format!("{SHORT} --epochs 2 --out run");
    s.one("train", &run);
    let sound = bytes(&s.join("run"));
    for spoil in [|p: &Path| flip(p), |p: &Path| fs::remove_file(p).unwrap()] {
        spoil(&s.join("run/last.safetensors"));
        s.one("train", &run);
        assert!(differing(&sound, &bytes(&s.join("run"))).is_empty(), "restored");
    }
    for (name, from, to) in [
        ("state.safetensors", "", ""),
        ("best.safetensors", "", ""),
        ("log.jsonl", "\"train_top1\":", "\"train_top1\":1"),
        ("log.jsonl", "\"computed_by\":\"", "\"computed_by\":\"not "),
    ] {
        let why = format!(
            "run: {name}: is missing or damaged, so the run cannot continue; --force trains again from the \
             start"
        );
        let path = s.join("run").join(name);
        let bytes_before = fs::read(&path).unwrap();
        if name == "log.jsonl" {
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
        } else {
            flip(&path);
        }
        let text = s.said("train", &run, 2);
        assert!(text.contains(&why), "{name}: {text}");
        assert!(s.join("run/manifest.json").exists(), "{name}: what is sound stays usable");
        fs::write(&path, bytes_before).unwrap();
        s.tool("train", &format!("{run} --verify")).assert().code(0);
    }
    // An edited manifest is replaced by the right one without any loss.
    for (from, to) in [("\"key\": \"", "\"key\": \"0"), ("\"best_epoch\": ", "\"best_epoch\": 1")] {
        let file = s.join("run/manifest.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
        s.tool("train", &format!("{run} --verify")).assert().code(1);
        s.one("train", &run);
        s.tool("train", &format!("{run} --verify")).assert().code(0);
    }
    flip(&s.join("run/state.safetensors"));
    s.one("train", &format!("{run} --force"));
    assert!(differing(&sound, &bytes(&s.join("run"))).is_empty(), "trained anew");
}

#[test]
fn damaged_files_of_a_stopped_run_are_named_with_one_remedy() {
    let s = with_data();
    let run = format!("{SHORT} --epochs 2 --out run");
    s.one("train", &run);
    fs::remove_file(s.join("run/manifest.json")).unwrap();
    for name in ["state.safetensors", "best.safetensors", "log.jsonl"] {
        let path = s.join("run").join(name);
        let sound = fs::read(&path).unwrap();
        for bytes in [&sound[..20], b"", b"\xff\xfe{}"] {
            fs::write(&path, bytes).unwrap();
            let why = format!(
                "run/{name}: is damaged, so the run cannot continue; --force trains again from the start\n"
            );
            refused(s.tool("train", &run).assert(), &why);
        }
        fs::write(&path, sound).unwrap();
    }
    for name in ["best.safetensors", "log.jsonl"] {
        let path = s.join("run").join(name);
        fs::rename(&path, s.join("aside")).unwrap();
        refused(
            s.tool("train", &run).assert(),
            &format!("run/{name}: is missing, so the run cannot continue"),
        );
        fs::rename(s.join("aside"), &path).unwrap();
    }
    s.one("train", &run);
}

#[test]
fn a_state_that_is_gone_is_missed() {
    let s = with_data();
    s.one("train", &format!("{SHORT} --epochs 3 --out run"));
    let whole = bytes(&s.join("run"));
    fs::remove_file(s.join("run/state.safetensors")).unwrap();
    fs::remove_file(s.join("run/manifest.json")).unwrap();
    let said = s.said("train", &format!("{} --epochs 3 --out run", SHORT.replace(" -q", "")), 0);
    assert!(said.contains("state.safetensors: is missing, so 3 epochs are lost"), "{said}");
    assert!(differing(&whole, &bytes(&s.join("run"))).is_empty());
}

/// The swept flag is inserted before the `--` that ends the flags.
#[test]
fn a_sweep_takes_its_data_set_after_a_double_dash() {
    let s = with_data();
    let found = s.run("train", "--sweep lr=0.05:0.1:0.05 --arch resnet20 -q --dry-run -- data");
    let rates: Vec<&Value> = found.iter().map(|m| &m["params"]["lr"]).collect();
    assert_eq!(rates, [0.05, 0.1]);
}
