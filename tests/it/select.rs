//! Tests `train --select`: which split the best epoch is chosen on, and what is reported about it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{Sandbox, refused};

const TRAIN: &str = "--method mixup --arch resnet20 --batch-size 16 --epochs 6 --lr 0.05 -q";

fn prepared() -> Sandbox {
    let s = Sandbox::new();
    let data = "--dataset synthetic --train-per-class 20 --test-per-class 6 --imb-ratio 4 -q";
    s.one("mk-imbalance", &format!("{data} --val-fraction 0.3 --out data"));
    s.one("mk-imbalance", &format!("{data} --out plain"));
    s
}

/// Reads the lines of a log.
fn log(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("log.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the first epoch, from 1, with the largest value of a field, and its accuracy on the test split.
fn best(log: &[Value], field: &str) -> (u64, f64) {
    let value = |n: usize| log[n][field].as_f64().unwrap();
    let n = (0..log.len()).fold(0, |best, n| if value(n) > value(best) { n } else { best });
    (n as u64 + 1, log[n]["test_top1"].as_f64().unwrap())
}

#[test]
fn the_best_epoch_is_that_of_the_split_that_selects() {
    let s = prepared();
    for (args, by, said) in [
        ("data", "val", None),
        ("data --select val", "val", None),
        ("data --select test", "test", Some("test")),
        ("data --select last", "last", Some("last")),
        ("plain", "test", None),
        ("plain --select test", "test", None),
        ("plain --select last", "last", Some("last")),
    ] {
        let m = s.one("train", &format!("{args} {TRAIN} --out run"));
        assert_eq!(m["metrics"]["selected_on"], by, "{args}");
        // The default is not in the params, so that results of earlier versions are found.
        assert_eq!(m["params"].get("select").and_then(Value::as_str), said, "{args}");
        let log = log(&s.join("run"));
        assert_eq!(log[0].get("val_top1").is_some(), by == "val", "{args}");
        let (epoch, top1) = match by {
            "last" => (6, log[5]["test_top1"].as_f64().unwrap()),
            by => best(&log, &format!("{by}_top1")),
        };
        assert_eq!(
            (m["metrics"]["best_epoch"].as_u64(), m["metrics"]["best_top1"].as_f64()),
            (Some(epoch), Some(top1)),
            "{args}"
        );
        assert_eq!(m["metrics"]["last_top1"], log[5]["test_top1"]);
        // `eval` finds the same in the files.
        let best = s.one("eval", "run --checkpoint best -q");
        assert_eq!(best["metrics"]["top1"].as_f64(), Some(top1), "{args}");
        if by == "val" {
            let val = s.one("eval", "run --checkpoint best --split val -q");
            assert_eq!(val["metrics"]["top1"], log[epoch as usize - 1]["val_top1"], "{args}");
        }
        fs::remove_dir_all(s.join("run")).unwrap();
    }
    refused(
        s.tool("train", &format!("plain {TRAIN} --select val")).assert(),
        "--select val: plain/manifest.json has no validation split; make one with mk-imbalance --val-fraction",
    );
}

#[test]
fn the_key_covers_the_split_that_selects() {
    let s = prepared();
    let data = "--dataset synthetic --train-per-class 20 --test-per-class 6 --imb-ratio 4 -q";
    let key = |args: &str| s.one("train", &format!("{args} {TRAIN} --dry-run"))["key"].clone();
    let all = ["data", "data --select test", "data --select last", "plain"].map(key);
    for (n, one) in all.iter().enumerate() {
        assert!(!all[..n].contains(one), "{n}");
    }
    assert_eq!(key("data --select val"), all[0]);
    // The same data set, made again in another place.
    s.one("mk-imbalance", &format!("{data} --val-fraction 0.3 --out copy"));
    assert_eq!(key("copy"), all[0]);
}

#[test]
fn a_resumed_run_selects_as_a_whole_one() {
    let s = prepared();
    for select in ["val", "test", "last"] {
        let run = format!("data {TRAIN} --select {select}");
        let whole = s.one("train", &format!("{run} --out whole"));
        for point in [9, 9, 9] {
            s.tool("train", &format!("{run} --out run"))
                .env("REMIX_KILL_AT", point.to_string())
                .assert()
                .interrupted();
        }
        let m = s.one("train", &format!("{run} --out run"));
        assert_eq!((&m["key"], &m["metrics"]), (&whole["key"], &whole["metrics"]), "{select}");
        for dir in ["whole", "run"] {
            fs::remove_dir_all(s.join(dir)).unwrap();
        }
    }
}
