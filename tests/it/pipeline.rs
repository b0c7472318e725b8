//! Tests the tools together: pipes, messages for people, and what a key does and does not depend on.

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::cargo::cargo_bin;
use remix::simd::Isa;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::{DATA, Sandbox, edit, official, with_data};

const TRAIN: &str = "--method remix --arch resnet20 --epochs 1 --batch-size 32";

fn manifests(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn one_line_from_nothing_to_a_table() {
    let s = Sandbox::new();
    let line = format!("$B/mk-imbalance {DATA} | $B/train {TRAIN} --seeds 0-1 | $B/eval | $B/report table");
    let output = s.bash(&line);
    let report = manifests(&output).remove(0);
    assert_eq!((&report["kind"], &report["metrics"]["cells"]), (&json!("report"), &json!(1)));
    // Everything came through pipes, and the table says that there are two seeds.
    let file = Path::new(report["path"].as_str().unwrap()).with_file_name("table.md");
    assert!(fs::read_to_string(file).unwrap().contains("(2) |"));
    // The messages for people are lines of text, without a progress bar.
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("epoch 1/1") && said.contains("top-1"), "{said}");
    assert!(!said.contains(['\r', '\x1b']), "{said:?}");

    // Only the evaluation and the report are run again, on files, and also from another directory.
    let again = manifests(&s.bash("cat runs/*/manifest.json | $B/eval -q | $B/report table -q"));
    assert_eq!(again, std::slice::from_ref(&report), "from the cache");
    fs::create_dir(s.join("elsewhere")).unwrap();
    let away = manifests(&s.bash("cd elsewhere && cat ../runs/*/manifest.json | $B/eval -q"));
    assert_eq!(away.len(), 2);
    let known = report["inputs"].as_array().unwrap();
    assert!(away.iter().all(|m| known.iter().any(|i| i["key"] == m["key"])), "the same keys from elsewhere");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let s = with_data();
    let output = s.bash(&format!("$B/train data {TRAIN} -q --seeds 0-2 | head -1"));
    assert_eq!(manifests(&output).len(), 1);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let done = |run: &fs::DirEntry| run.path().join("manifest.json").exists();
    let runs = fs::read_dir(s.join("runs")).unwrap().flatten().filter(done).count();
    assert_eq!(runs, 3, "all trainings that were asked for");
    let output = s.bash("$B/eval runs/* -q | head -1");
    assert_eq!(manifests(&output).len(), 1);
    assert!(output.stderr.is_empty());
}

#[test]
fn evaluation_starts_while_training_goes_on() {
    let s = with_data();
    // `hold` keeps the pipe open after the first checkpoint until its evaluation exists.
    let hold = "for i in $(seq 600); do ls metrics/*/manifest.json && exit 0; sleep 0.1; done >/dev/null 2>&1; exit 1";
    let output = s.bash(&format!("{{ $B/train data {TRAIN} -q; ({hold}); }} | $B/eval -q"));
    assert_eq!(manifests(&output).len(), 1);
}

#[test]
fn a_moved_directory_is_found_by_its_argument() {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} -q --out a/data"));
    s.one("train", &format!("a/data {TRAIN} -q --out a/runs/r"));
    let before = s.one("eval", "a/runs/r -q --out m");
    fs::rename(s.join("a"), s.join("b")).unwrap();
    let after = s.one("eval", "b/runs/r/manifest.json -q --out m");
    assert_eq!(before, after, "the same key, from the cache");
    // A manifest from a pipe does not say where the files have moved.
    let output = s.bash("cat b/runs/r/manifest.json | $B/eval -q");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("pass its path as an argument"));
}

/// On clusters, `runs` is often a link to another disk, at another depth.
#[test]
fn results_behind_a_link_are_used_like_others() {
    let s = with_data();
    fs::create_dir_all(s.join("far/away/disk")).unwrap();
    std::os::unix::fs::symlink("far/away/disk", s.join("runs")).unwrap();
    let output = s.bash(&format!("$B/train data {TRAIN} -q --out runs/r | $B/eval -q --out piped"));
    let piped = manifests(&output).remove(0);
    let run = fs::canonicalize(s.join("runs/r/manifest.json")).unwrap();
    assert_eq!(piped["inputs"][0]["path"], relative_to(&s, &run));
    std::os::unix::fs::symlink("runs/r", s.join("last")).unwrap();
    for from in ["runs/r", "last", "far/away/disk/r", "runs/r/manifest.json"] {
        assert_eq!(s.one("eval", &format!("{from} -q --out again"))["key"], piped["key"], "{from}");
    }
    // Features behind the link lead on to the network, and through it to the data set.
    s.one("embed", "runs/r --splits train,test -q --out runs/f");
    let ncm = s.one("train", "runs/f --classifier ncm -q --out ncm");
    assert_eq!(s.one("eval", "ncm -q")["params"]["split"], "test");
    assert!(ncm["inputs"][0]["inputs"].as_array().unwrap().len() > 1);
    let table = s.one("report", "table again -q --out t");
    assert_eq!(table["inputs"][0]["inputs"][0]["path"], relative_to(&s, &run));
}

/// Returns the path as it is written in a manifest of a result in `DIR` of the sandbox.
fn relative_to(s: &Sandbox, path: &Path) -> String {
    let root = fs::canonicalize(s.path()).unwrap();
    Path::new("..").join(path.strip_prefix(root).unwrap()).display().to_string()
}

/// The directory of the original, or of the copy, may hold another result by now, with the same key.
#[test]
fn a_piped_manifest_is_found_in_a_copy_of_its_tree() {
    let s = Sandbox::new();
    let made = s.bash(&format!(
        "mkdir a && cd a && $B/mk-imbalance {DATA} -q --out data && $B/train data {TRAIN} -q --out r && cp -r ../a ../b"
    ));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let checkpoint = |line: &str| manifests(&s.bash(line))[0]["inputs"][0]["path"].clone();
    assert_eq!(checkpoint("cd b && cat r/manifest.json | $B/eval -q --out m"), "../r/manifest.json");

    let retrained = |tree: &str| edit(&s.join(tree).join("r"), |v| v["metrics"]["last_top1"] = json!(-1));
    fs::copy(s.join("a/r/manifest.json"), s.join("old.json")).unwrap();
    retrained("b");
    assert_eq!(checkpoint("cd b && $B/eval -q --out m2 <../old.json"), "../../a/r/manifest.json");
    retrained("a");
    let output = s.bash("cd b && $B/eval -q --out m3 <../old.json");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot be found, or holds another result now"), "{said}");
}

/// Runs `train` with stderr on a terminal and returns what it shows.
fn on_a_terminal(s: &Sandbox, setting: &str, more: &str) -> Option<String> {
    s.terminal(&format!("{setting} {} data {TRAIN} {more} >/dev/null", cargo_bin("train").display()))
}

#[test]
fn a_bar_is_for_terminals_alone() {
    let s = with_data();
    let said = s.said("train", &format!("data {TRAIN} --out plain"), 0);
    assert_eq!(said.lines().count(), 1, "one line an epoch: {said}");
    assert!(!said.contains(['\r', '\x1b']), "{said:?}");
    assert_eq!(s.said("train", &format!("data {TRAIN} --out quiet -q"), 0), "");

    let Some(bar) = on_a_terminal(&s, "TERM=xterm", "--out bar") else { return };
    assert!(bar.contains("seed 0 epoch 1/1 step 1/") && bar.contains('\r'), "a bar: {bar:?}");
    assert!(bar.contains("ETA 0") && bar.contains("seed 0 done: test"), "and what it came to: {bar:?}");
    let dumb = on_a_terminal(&s, "TERM=dumb", "--out dumb").unwrap();
    assert!(dumb.contains("epoch 1/1") && !dumb.contains('\x1b'), "lines: {dumb:?}");
    let colourless = on_a_terminal(&s, "NO_COLOR=1 TERM=xterm", "--out colourless").unwrap();
    assert!(!colourless.contains("\x1b[3") && !colourless.contains("\x1b[1m"), "no colours: {colourless:?}");
    assert_eq!(on_a_terminal(&s, "TERM=xterm", "--out silent -q").unwrap(), "");
}

#[test]
fn a_key_does_not_depend_on_places_threads_or_devices() {
    let s = with_data();
    s.one("mk-imbalance", &format!("{DATA} -q --out deep/er/copy --threads 1"));
    let key = |args: &str| s.one("train", &format!("--dry-run {TRAIN} {args}"))["key"].clone();
    let base = key("data");
    for same in
        ["deep/er/copy", "data --threads 1", "data --device cpu", "data --device auto", "data --out x -v"]
    {
        assert_eq!(key(same), base, "{same}");
    }
    assert_ne!(key("data --seed 1"), base);
    let done = s.one("train", &format!("data {TRAIN} -q --out run"));
    assert_eq!(s.one("train", &format!("deep/er/copy {TRAIN} -q --out run --threads 1 --device cpu")), done);
}

#[test]
fn both_forms_of_the_official_files_are_one_data_set_to_train() {
    let [Some(binary), Some(python)] = ["binary", "python"].map(|form| official("cifar10", form)) else {
        return;
    };
    let s = Sandbox::new();
    let keys = [("binary", binary), ("python", python)].map(|(form, data)| {
        s.one(
            "mk-imbalance",
            &format!("--dataset cifar10 --data {} --imb-ratio 100 -q --out {form}", data.display()),
        );
        s.one("train", &format!("{form} --dry-run"))["key"].clone()
    });
    assert_eq!(keys[0], keys[1]);
}

/// A single step: after several, rounding has flipped ReLUs and the runs diverge.
const ONE_STEP: &str = "--arch resnet20 --epochs 1 --batch-size 65536 --milestones none --lr 0.01";

/// Returns all f32 tensors of a file whose names contain `name`, one after another.
fn floats(bytes: &[u8], name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let mut tensors: Vec<_> = tensors.iter().filter(|(n, _)| n.contains(name)).collect();
    tensors.sort_by_key(|(n, _)| n.to_string());
    assert!(!tensors.is_empty(), "no tensor {name}");
    let data = tensors.iter().filter(|(_, t)| t.dtype() == safetensors::Dtype::F32);
    data.flat_map(|(_, t)| t.data().chunks_exact(4))
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Returns the relative distance (in the L2 norm) of all values from what they should be.
fn distance(found: &[f32], truth: &[f32]) -> f64 {
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    assert_eq!(found.len(), truth.len());
    norm(&mut found.iter().zip(truth).map(|(a, b)| a - b)) / norm(&mut truth.iter().copied())
}

/// Returns the embedding's bytes, the logits of the test images and the weights after one step, all with one
/// instruction set.
fn logits(s: &Sandbox, isa: Isa, precision: &str, threads: u32) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let name = format!("{}-{precision}-{threads}", isa.name());
    for (tool, args) in [
        ("train", format!("data {ONE_STEP} --precision {precision} -q --out {name} --threads {threads}")),
        ("embed", format!("{name} -q --out {name}-e --threads {threads}")),
    ] {
        s.tool(tool, &args).env("REMIX_ISA", isa.name()).assert().success();
    }
    let used = if precision == "bf16" { isa.for_pairs() } else { isa.for_floats() };
    for (dir, used) in [(name.clone(), used), (format!("{name}-e"), isa.for_floats())] {
        let said: Value =
            serde_json::from_slice(&fs::read(s.join(dir).join("manifest.json")).unwrap()).unwrap();
        assert_eq!(said["run"]["instruction_set"], used.name());
    }
    let bytes = fs::read(s.join(format!("{name}-e/features.safetensors"))).unwrap();
    let weights = fs::read(s.join(format!("{name}/last.safetensors"))).unwrap();
    let (values, weights) = (floats(&bytes, "logits"), floats(&weights, ""));
    (bytes, values, weights)
}

#[test]
fn instruction_sets_agree() {
    let s = with_data();
    let sets = Isa::available();
    // In bf16 a value may round to the other side, and Winograd rounds values that the other kernels do not.
    for (precision, bound, all) in [("f32", 1e-4, 1e-5), ("bf16", 1e-2, 1e-3)] {
        let (_, best, weights) = logits(&s, sets[0], precision, 1);
        let scale = best.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        for &isa in &sets {
            let (bytes, values, found) = logits(&s, isa, precision, 2);
            let far = distance(&found, &weights);
            assert!(far < all, "{isa:?} {precision}: all weights are {far:.1e} off");
            let apart = values.iter().zip(&best).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            println!("{isa:?} {precision}: {:.1e}", apart / scale);
            assert!(apart <= bound * scale, "{isa:?} {precision}: {apart} of {scale}");
            let (other, ..) = logits(&s, isa, precision, 4);
            assert!(bytes == other, "{isa:?} {precision}: the same bytes for any number of threads");
        }
    }
    let odd = s.tool("train", &format!("data {TRAIN} -q --out odd")).env("REMIX_ISA", "mmx").assert().code(2);
    let said = String::from_utf8(odd.get_output().stderr.clone()).unwrap();
    assert!(
        said.contains("REMIX_ISA: this machine has no \"mmx\"; use one of ") && said.contains("portable"),
        "{said}"
    );
}
