//! Tests `eval` and `embed`: their results for a checkpoint, the cache, and bad input.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::refused;
use crate::fabricate::{DATA, checkpoint, manifest, resnet20, untrained};

#[test]
fn metrics_agree_with_the_embedding() {
    let s = untrained();
    let m = s.one("eval", "run -q");
    let e = s.one("embed", "run -q");
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
    let s = untrained();
    let m = s.one("eval", "run -q");
    let c = manifest(s.join("run"));
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
    assert_eq!(key("run --threads 1"), m["key"]);
    assert_ne!(key("run --checkpoint best"), m["key"]);
    assert_ne!(key("run --split train"), m["key"]);
}

#[test]
fn checkpoints_come_from_pipes_and_files_and_answers_from_the_cache() {
    let s = untrained();
    for seed in 0..3 {
        checkpoint(&s.join(format!("runs/{seed}")), &manifest(s.join("data")), seed);
    }
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
    let again = s.printed("eval", "runs/0 runs/1/manifest.json runs/2 -q");
    assert_eq!(first, again.as_bytes(), "the same bytes, start time included: nothing was done again");
}

#[test]
fn bare_weights_need_arch_and_data() {
    let s = untrained();
    fs::write(s.join("mine.safetensors"), resnet20(10, 0)).unwrap();
    refused(
        s.tool("eval", "mine.safetensors").assert(),
        "add --arch (the network, such as resnet32) and --data",
    );
    refused(
        s.tool("eval", "mine.safetensors --arch resnet20").assert(),
        "neither network nor data set; add --data (the manifest of a data set)\n",
    );
    refused(
        s.tool("eval", "other.safetensors --arch resnet20 --data data").assert(),
        "other.safetensors: No such file",
    );
    let m = s.one("eval", "mine.safetensors --arch resnet20 --data data -q");
    assert_eq!(m["params"]["which"], "file");
    // The weights are the same as the checkpoint's.
    assert_eq!(m["metrics"], s.one("eval", "run -q")["metrics"]);
}

#[test]
fn another_data_set_is_never_taken_silently() {
    let s = untrained();
    s.one("mk-imbalance", &format!("{DATA} --rand-number 1 --out other"));
    let output = s.tool("eval", "run --data other").assert().success().get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("was trained on a data set other than"));
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(m["inputs"][1]["params"]["rand_number"], 1);
    assert_eq!(m["inputs"][0]["inputs"][0]["params"]["rand_number"], 0);
    // The directory recorded in the checkpoint now holds another data set.
    fs::remove_dir_all(s.join("data")).unwrap();
    s.one("mk-imbalance", &format!("{DATA} --rand-number 1 --out data"));
    refused(s.tool("eval", "run --checkpoint best").assert(), "is no longer the data set");
    fs::remove_dir_all(s.join("data")).unwrap();
    refused(s.tool("eval", "run --checkpoint best").assert(), "or give its path with --data");
    // The same content in another directory is accepted.
    s.one("mk-imbalance", &format!("{DATA} --out moved"));
    assert!(!s.said("eval", "run --data moved", 0).contains("warning"));
}

#[test]
fn embeddings_are_the_same_bytes_every_time() {
    let s = untrained();
    let read = |out: &str, more: &str| {
        s.one("embed", &format!("run --out {out} -q {more}"));
        fs::read(s.join(out).join("features.safetensors")).unwrap()
    };
    assert_eq!(read("a", "--threads 1"), read("b", "--threads 2"));
    s.one("embed", "run --out a --verify -q");
    fs::File::options().append(true).open(s.join("a/features.safetensors")).unwrap().write_all(b"x").unwrap();
    s.tool("embed", "run --out a --verify -q").assert().code(1);
}

#[test]
fn a_list_of_images_with_a_repeated_line_is_another_list() {
    let s = untrained();
    for (name, grey) in [("a.png", 50), ("b.png", 200)] {
        image::RgbImage::from_pixel(32, 32, image::Rgb([grey; 3])).save(s.join(name)).unwrap();
    }
    let predicted = |list: &str| -> Vec<String> {
        let embed = s.tool("embed", "run --images - -q").write_stdin(list).assert().success();
        let m: Value = serde_json::from_slice(&embed.get_output().stdout).unwrap();
        let table = Path::new(m["path"].as_str().unwrap()).with_file_name("predictions.csv");
        let table = fs::read_to_string(table).unwrap();
        table.lines().skip(1).map(|row| row.split(',').next().unwrap().to_owned()).collect()
    };
    assert_eq!(predicted("a.png\nb.png\n"), ["a.png", "b.png"]);
    assert_eq!(predicted("a.png\na.png\nb.png\n"), ["a.png", "a.png", "b.png"]);
}
