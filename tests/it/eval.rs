//! Tests `eval` and `embed`: their results for a checkpoint, the cache, and bad input.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::{Sandbox, edit, refused};
use crate::fabricate::{checkpoint, manifest, resnet20};

const DATA: &str = "--dataset synthetic --train-per-class 30 --test-per-class 4 --imb-ratio 10 -q";

/// Makes a data set in `data` and checkpoints in `runs/0`, `runs/1`, ….
fn prepared(checkpoints: u64) -> Sandbox {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    for seed in 0..checkpoints {
        checkpoint(&s.join(format!("runs/{seed}")), &manifest(s.join("data")), seed);
    }
    s
}

#[test]
fn metrics_agree_with_the_embedding() {
    let s = prepared(1);
    let m = s.one("eval", "runs/0 -q");
    let e = s.one("embed", "runs/0 -q");
    let dir = Path::new(e["path"].as_str().unwrap()).parent().unwrap();
    let bytes = fs::read(dir.join("features.safetensors")).unwrap();
    let t = SafeTensors::deserialize(&bytes).unwrap();
    let ints = |name: &str| -> Vec<i64> {
        t.tensor(name)
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|w| i64::from_le_bytes(w.try_into().unwrap()))
            .collect()
    };
    let (labels, predictions) = (ints("labels"), ints("predictions"));
    assert_eq!((labels.len(), t.tensor("features").unwrap().shape()), (40, &[40, 64][..]));
    assert_eq!(t.tensor("logits").unwrap().shape(), [40, 10]);
    assert_eq!(t.tensor("source_index").unwrap().shape(), [40]);
    let hits = labels.iter().zip(&predictions).filter(|(l, p)| l == p).count();
    assert_eq!(m["metrics"]["top1"].as_f64().unwrap(), 100.0 * hits as f64 / 40.0);
    let mut confusion = vec![vec![0; 10]; 10];
    for (l, p) in labels.iter().zip(&predictions) {
        confusion[*l as usize][*p as usize] += 1;
    }
    assert_eq!(m["metrics"]["confusion"], json!(confusion));
    // The classes have 30 down to 3 training images, so none is many-shot.
    assert_eq!(m["metrics"]["many"], Value::Null);
    assert!(m["metrics"]["medium"].is_number() && m["metrics"]["few"].is_number());
    let data = manifest(s.join("data"));
    assert_eq!(m["metrics"]["cls_num_list"], data.metrics["cls_num_list"]);
    assert_eq!(m["metrics"]["class_names"], data.metrics["class_names"]);
}

#[test]
fn lineage_and_key_name_only_what_was_used() {
    let s = prepared(1);
    let m = s.one("eval", "runs/0 -q");
    let c = manifest(s.join("runs/0"));
    let last = c.as_input("checkpoint", &["last"]).unwrap();
    assert_eq!(m["inputs"][0]["blake3"], json!(last.blake3));
    assert_eq!(m["inputs"][0]["params"]["mix"]["name"], "remix");
    assert_eq!(m["inputs"][0]["inputs"][0]["params"]["dataset"], "synthetic");
    assert_eq!(
        m["inputs"][1]["blake3"],
        json!(manifest(s.join("data")).as_input("dataset", &["test"]).unwrap().blake3)
    );
    // Paths in the written manifest are relative to it and lead to existing files.
    let file = PathBuf::from(m["path"].as_str().unwrap());
    let written: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for path in [
        &written["inputs"][0]["path"],
        &written["inputs"][0]["inputs"][0]["path"],
        &written["inputs"][1]["path"],
    ] {
        let path = path.as_str().unwrap();
        assert!(Path::new(path).is_relative() && file.parent().unwrap().join(path).exists(), "{path}");
    }
    let key = |args: &str| s.one("eval", &format!("--dry-run {args}"))["key"].clone();
    assert_eq!(key("runs/0 --batch-size 3 --threads 1"), m["key"]);
    assert_ne!(key("runs/0 --checkpoint best"), m["key"]);
    assert_ne!(key("runs/0 --split train"), m["key"]);
}

#[test]
fn checkpoints_come_from_pipes_and_files_and_answers_from_the_cache() {
    let s = prepared(3);
    let cat: Vec<u8> =
        (0..3).flat_map(|n| fs::read(s.join(format!("runs/{n}/manifest.json"))).unwrap()).collect();
    // A manifest printed by `cat` does not say where it was, so add the path, as the tools do on stdout.
    let piped: String = serde_json::Deserializer::from_slice(&cat)
        .into_iter::<Value>()
        .enumerate()
        .map(|(n, v)| {
            let mut v = v.unwrap();
            v["path"] = json!(s.join(format!("runs/{n}/manifest.json")));
            format!("{v}\n")
        })
        .collect();
    let first = s.tool("eval", "-q").write_stdin(piped).assert().success().get_output().stdout.clone();
    assert_eq!(first.iter().filter(|b| **b == b'\n').count(), 3);
    let again = s
        .tool("eval", "runs/0 runs/1/manifest.json runs/2 -q")
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    assert_eq!(first, again, "the same bytes, start time included: nothing was done again");
}

#[test]
fn bare_weights_need_arch_and_data() {
    let s = prepared(1);
    fs::write(s.join("mine.safetensors"), resnet20(10, 0)).unwrap();
    refused(
        s.tool("eval", "mine.safetensors").assert(),
        "add --arch (the network, such as resnet32) and --data",
    );
    refused(s.tool("eval", "mine.safetensors --arch resnet20").assert(), "--data");
    refused(
        s.tool("eval", "other.safetensors --arch resnet20 --data data").assert(),
        "other.safetensors: No such file",
    );
    fs::write(s.join("other.safetensors"), "PK zip").unwrap();
    refused(s.tool("eval", "other.safetensors --arch resnet20 --data data").assert(), "other.safetensors: ");
    let m = s.one("eval", "mine.safetensors --arch resnet20 --data data -q");
    assert_eq!(m["params"]["which"], "file");
    // The weights are the same as the checkpoint's.
    assert_eq!(m["metrics"], s.one("eval", "runs/0 -q")["metrics"]);
}

#[test]
fn another_data_set_is_never_taken_silently() {
    let s = prepared(1);
    s.one("mk-imbalance", &format!("{DATA} --rand-number 1 --out other"));
    let output = s.tool("eval", "runs/0 --data other").assert().success().get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("was trained on a data set other than"));
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(m["inputs"][1]["params"]["rand_number"], 1);
    assert_eq!(m["inputs"][0]["inputs"][0]["params"]["rand_number"], 0);
    // The directory recorded in the checkpoint now holds another data set.
    fs::remove_dir_all(s.join("data")).unwrap();
    s.one("mk-imbalance", &format!("{DATA} --rand-number 1 --out data"));
    refused(s.tool("eval", "runs/0 --checkpoint best").assert(), "is no longer the data set");
    fs::remove_dir_all(s.join("data")).unwrap();
    refused(s.tool("eval", "runs/0 --checkpoint best").assert(), "or give its path with --data");
    // The same content in another directory is accepted.
    s.one("mk-imbalance", &format!("{DATA} --out moved"));
    let output = s.tool("eval", "runs/0 --data moved").assert().success().get_output().clone();
    assert!(!String::from_utf8(output.stderr).unwrap().contains("warning"));
}

/// How the sandbox is damaged, the arguments, and a part of the message.
type Bad = (fn(&Sandbox), &'static str, &'static str);

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let bad: [Bad; 16] = [
        (|_| (), "nowhere.json", "nowhere.json: there is no such file; pass the manifest.json"),
        (|_| (), "data", "is a dataset manifest, but eval takes checkpoint"),
        (|_| (), "runs/0 --data runs/0", "is a checkpoint manifest, but eval takes dataset"),
        (|_| (), "runs/0 --split val", "mk-imbalance --val-fraction"),
        (|_| (), "runs/0 --arch resnet32", "is a resnet20, not the resnet32 of --arch"),
        (|_| (), "runs/0 runs/0 --out x", "is for one checkpoint, but 2 were given"),
        (|s| fs::write(s.join("f.json"), r#"{"name": "left-pad"}"#).unwrap(), "f.json", "not a manifest"),
        (|s| fs::write(s.join("f.json"), "").unwrap(), "f.json", "no manifests"),
        (|s| fs::write(s.join("f.json"), "\u{7f}ELF").unwrap(), "f.json", "not a manifest"),
        (
            |s| {
                let text = fs::read(s.join("runs/0/manifest.json")).unwrap();
                fs::write(s.join("f.json"), &text[..text.len() / 2]).unwrap();
            },
            "f.json",
            "not a manifest: it ends early",
        ),
        (
            |s| edit(&s.join("runs/0/manifest.json"), |v| v["schema"] = json!("remix.manifest/2")),
            "runs/0",
            "use the version of the tools that wrote it",
        ),
        (
            |s| edit(&s.join("runs/0/manifest.json"), |v| v["outputs"] = json!([])),
            "runs/0",
            "lists no last file; make it again with train",
        ),
        (
            |s| edit(&s.join("runs/0/manifest.json"), |v| v["inputs"] = json!([])),
            "runs/0",
            "does not say what it was trained on",
        ),
        (
            |s| fs::remove_file(s.join("runs/0/last.safetensors")).unwrap(),
            "runs/0",
            "last.safetensors: missing",
        ),
        (
            |s| {
                let mut bytes = fs::read(s.join("runs/0/last.safetensors")).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(s.join("runs/0/last.safetensors"), bytes).unwrap();
            },
            "runs/0",
            "blake3 differs",
        ),
        (
            |s| {
                let file =
                    fs::File::options().write(true).open(s.join("data/test-00000.safetensors")).unwrap();
                file.set_len(1000).unwrap();
            },
            "runs/0",
            "size differs",
        ),
    ];
    for (spoil, args, why) in bad {
        let s = prepared(1);
        spoil(&s);
        refused(s.tool("eval", args).assert(), why);
        refused(s.tool("embed", args).assert(), &why.replace("eval takes", "embed takes"));
        assert!(
            !s.join("metrics")
                .read_dir()
                .is_ok_and(|d| d.flatten().any(|e| e.path().join("manifest.json").exists()))
        );
    }
}

#[test]
fn a_closed_stdout_is_no_error() {
    let s = prepared(2);
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("eval"))
        .args(["runs/0", "runs/1", "-q"])
        .current_dir(s.path())
        .env("CUDA_VISIBLE_DEVICES", "")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}

#[test]
fn embeddings_are_the_same_bytes_every_time() {
    let s = prepared(1);
    let read = |out: &str, more: &str| {
        s.one("embed", &format!("runs/0 --out {out} -q {more}"));
        fs::read(s.join(out).join("features.safetensors")).unwrap()
    };
    assert_eq!(read("a", "--threads 1"), read("b", "--threads 2 --batch-size 7"));
    s.one("embed", "runs/0 --out a --verify -q");
    fs::File::options().append(true).open(s.join("a/features.safetensors")).unwrap().write_all(b"x").unwrap();
    s.tool("embed", "runs/0 --out a --verify -q").assert().code(1);
}
