//! Tests `train --init` and `--freeze`: which weights a training starts from, and which it leaves unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::common::{DATA, Sandbox, edit, flip, refused, with_data};

const SHORT: &str = "data --arch resnet20 --batch-size 32 --epochs 2 --device cpu";

/// Makes a data set, and a run to start from.
fn prepared() -> Sandbox {
    let s = with_data();
    s.one("train", &format!("{SHORT} -q --out first"));
    s
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap();
    let all = all.tensors().into_iter().map(|(name, t)| (name, t.data().to_vec()));
    all.filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect()
}

/// Returns the names of the tensors that differ.
fn moved(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (tensors(a), tensors(b));
    assert!(a.keys().eq(b.keys()));
    a.into_iter().filter(|(name, values)| b[name] != *values).map(|(name, _)| name).collect()
}

#[test]
fn a_frozen_backbone_stays_as_it_was() {
    let s = prepared();
    let (first, second) = (s.join("first/last.safetensors"), s.join("second/last.safetensors"));
    let said = s.said("train", &format!("{SHORT} --init first --freeze backbone --out second"), 0);
    assert!(said.contains("starting from these weights, classifier included"), "{said}");
    assert_eq!(moved(&first, &second), ["linear.bias", "linear.weight"]);
    let m = s.one("train", &format!("{SHORT} --init first --freeze backbone --out second -q"));
    assert_eq!(m["params"]["freeze"], "backbone");
    assert_eq!(m["params"]["init"].as_str().unwrap().len(), 12);
    assert_eq!(
        (m["inputs"][1]["role"].as_str(), m["inputs"][1]["inputs"][0]["role"].as_str()),
        (Some("init"), Some("dataset"))
    );
    // With another precision and number of threads, the backbone is still the same.
    s.one(
        "train",
        &format!("{SHORT} --init first --freeze backbone --precision bf16 --threads 1 -q --out third"),
    );
    assert_eq!(moved(&first, &s.join("third/last.safetensors")), ["linear.bias", "linear.weight"]);
    // Without --freeze all weights change, and the params of a run from random weights have no init.
    s.one("train", &format!("{SHORT} --init first -q --out fourth"));
    assert!(moved(&first, &s.join("fourth/last.safetensors")).len() > 60);
    let m = s.one("train", &format!("{SHORT} -q --out first"));
    assert!(m["params"].get("init").is_none() && m["params"].get("freeze").is_none());
}

#[test]
fn the_key_holds_the_weights_not_their_place() {
    let s = prepared();
    fs::copy(s.join("first/last.safetensors"), s.join("copy.safetensors")).unwrap();
    fs::copy(s.join("first/last.safetensors"), s.join("other.safetensors")).unwrap();
    let key = |init: &str| s.one("train", &format!("{SHORT} --init {init} --dry-run -q"))["key"].clone();
    assert_eq!(key("copy.safetensors"), key("other.safetensors"));
    assert_ne!(key("copy.safetensors"), key("first --init-checkpoint best"));
    assert_ne!(key("first"), s.one("train", &format!("{SHORT} --dry-run -q"))["key"]);
}

#[test]
fn a_classifier_of_other_classes_is_a_new_one() {
    let s = prepared();
    s.one("mk-imbalance", &format!("{DATA} -q --out renamed"));
    edit(&s.join("renamed/manifest.json"), |m| m["metrics"]["class_names"][3] = "another".into());
    fs::copy(s.join("first/last.safetensors"), s.join("bare.safetensors")).unwrap();
    for (init, said) in [
        ("first", "with a new classifier: they were trained on other classes"),
        ("bare.safetensors", "classifier included"),
    ] {
        let args = SHORT.replace("data", "renamed");
        let text = s.said("train", &format!("{args} --init {init} --out renamed-{init}"), 0);
        assert!(text.contains(said), "{text}");
    }
    // LDAM needs another kind of classifier than these weights have.
    let said = s.said("train", &format!("{SHORT} --method ldam --init first --out ldam"), 0);
    assert!(
        said.contains("with a new classifier: that of the file is of a different kind than the loss needs"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_started_from_is_refused() {
    let s = prepared();
    let train = |args: &str| s.tool("train", &format!("data --epochs 1 {args} --out refused")).assert();
    refused(train("--init nothing.safetensors"), "nothing.safetensors: No such file");
    refused(train("--init data"), "--init data: data/manifest.json: is a dataset manifest");
    refused(train("--init first --arch resnet32"), "is a resnet20, not the resnet32 of this run");
    fs::write(s.join("text.pth"), "no weights").unwrap();
    refused(train("--init text.pth --arch resnet20"), "text.pth: not an intact safetensors file");
    fs::copy(s.join("first/last.safetensors"), s.join("bare.safetensors")).unwrap();
    refused(train("--arch resnet20 --init bare.safetensors --init-checkpoint best"), "is a file of weights");
    for needs_weights in ["--init-checkpoint best", "--freeze backbone"] {
        let said = s.said("train", &format!("data {needs_weights}"), 2);
        assert!(said.contains("--init <MANIFEST|WEIGHTS>"), "{said}");
    }
    let replaced =
        s.tool("train", "data --epochs 1 --arch resnet20 --init first --out first --force").assert();
    refused(replaced, "first: holds the weights of --init");
    flip(&s.join("first/last.safetensors"));
    refused(train("--init first --arch resnet20"), "last.safetensors: blake3 differs from its manifest");
    assert!(!s.join("refused/last.safetensors").exists());
}

/// Networks for large images train and run on small ones, and load their own weights.
#[test]
fn every_family_of_networks_goes_through_the_pipeline() {
    let s = Sandbox::new();
    s.one(
        "mk-imbalance",
        "--dataset synthetic --train-per-class 4 --test-per-class 1 --imb-ratio 2 -q --out data",
    );
    for arch in ["resnet18-cifar", "resnet10", "resnet50"] {
        for precision in ["f32", "bf16"] {
            let out = format!("{arch}-{precision}");
            let args = format!(
                "data --arch {arch} --precision {precision} --epochs 1 --batch-size 16 --lr 0.01 --device cpu -q"
            );
            s.one("train", &format!("{args} --method remix-manifold --out {out}"));
            let metrics = s.one("eval", &format!("{out} --device cpu -q"));
            assert_eq!(metrics["metrics"]["confusion"].as_array().unwrap().len(), 10, "{out}");
        }
    }
    let embedded = s.one("embed", "resnet50-f32 --device cpu -q --out embedded");
    let bytes = fs::read(s.join("embedded/features.safetensors")).unwrap();
    let features = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(features.tensor("features").unwrap().shape()[1], 2048);
    assert_eq!(embedded["metrics"]["feature_len"], 2048);
}

/// Second-stage runs from networks of several seeds share one row.
#[test]
fn runs_from_weights_of_several_seeds_are_averaged() {
    let s = with_data();
    for seed in [0, 1] {
        s.one("train", &format!("{SHORT} --seed {seed} -q --out first-{seed}"));
        let stage = format!("--init first-{seed} --freeze backbone --seed {seed}");
        s.one("train", &format!("{SHORT} {stage} -q --out second-{seed}"));
        s.one("train", &format!("{SHORT} --seed {seed} -q --out plain-{seed}"));
    }
    let mut rows = vec![];
    for name in ["second-0", "second-1", "plain-0", "plain-1"] {
        rows.push(s.one("eval", &format!("{name} --device cpu -q")).to_string());
    }
    let table = s.tool("report", "table --format csv").write_stdin(rows.join("\n")).assert().success();
    let text = String::from_utf8_lossy(&table.get_output().stdout).into_owned();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("init erm")).collect();
    assert!(!told.is_empty() && told.iter().all(|line| line.contains("freeze backbone")), "{text}");
    let names: std::collections::BTreeSet<&str> =
        told.iter().filter_map(|line| line.split("init erm").nth(1)).map(|rest| &rest[..9]).collect();
    assert_eq!(names.len(), 1, "one row for both seeds: {text}");
}
