//! Tests `train --tensorboard`: the event file is read back by the tensorboard package.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::common::{Sandbox, skipped};

const EVENTS: &str = "events.out.tfevents.remix";

/// Returns `$REMIX_PYTHON`, or else `python3`, if it has the tensorboard package. Otherwise it prints that
/// the test is skipped and returns `None`.
fn python() -> Option<String> {
    let python = std::env::var("REMIX_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&python).args(["-c", "import tensorboard"]).output();
    if found.is_ok_and(|o| o.status.success()) {
        return Some(python);
    }
    skipped(format!("{python} has no tensorboard package; set REMIX_PYTHON to a Python that has"));
    None
}

/// Prints what TensorBoard finds in a directory: a list of [step, value, wall time] for each tag.
const READ: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1])
found.Reload()
print(json.dumps({t: [[e.step, e.value, e.wall_time] for e in found.Scalars(t)] for t in found.Tags()['scalars']}))
";

#[test]
fn tensorboard_reads_what_the_log_says() {
    let s = Sandbox::new();
    s.one(
        "mk-imbalance",
        "--dataset synthetic --train-per-class 12 --test-per-class 2 --imb-ratio 6 -q --out data",
    );
    let short = "data --arch resnet20 --batch-size 32 --epochs 3 -q";
    let with = s.one("train", &format!("{short} --tensorboard --out with"));
    let without = s.one("train", &format!("{short} --out without"));
    assert_eq!(with["key"], without["key"], "no part of the experiment");
    assert_eq!(with["outputs"].as_array().unwrap().len(), without["outputs"].as_array().unwrap().len());
    assert!(!s.join("without").join(EVENTS).exists());
    // A finished run gets its event file as well, without any training.
    let again = s.one("train", &format!("{short} --tensorboard --out without"));
    assert_eq!(again["run"]["started_unix"], without["run"]["started_unix"]);
    let size = |dir: &str| fs::metadata(s.join(dir).join(EVENTS)).unwrap().len();
    assert_eq!(size("with"), size("without"));

    // A file of that name that was not made by train.
    fs::write(s.join("without").join(EVENTS), "a thesis").unwrap();
    for more in ["", "--force"] {
        let args = format!("{short} --tensorboard --out without {more}");
        assert!(s.said("train", &args, 2).contains("was not made by train"));
        assert_eq!(fs::read_to_string(s.join("without").join(EVENTS)).unwrap(), "a thesis");
    }
    fs::remove_file(s.join("without").join(EVENTS)).unwrap();
    s.one("train", &format!("{short} --tensorboard --out without"));
    // Nothing of a discarded run is left: the events are those of the log.
    s.one("train", &format!("{short} --lr 0.01 --force --out with"));
    assert!(!s.join("with").join(EVENTS).exists(), "not asked for");
    s.one("train", &format!("{short} --force --tensorboard --out with"));
    s.one("train", &format!("{short} --lr 0.01 --force --tensorboard --out with"));

    let Some(python) = python() else { return };
    for dir in ["with", "without"] {
        let out = Command::new(&python).args(["-c", READ]).arg(s.join(dir)).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let found: Value = serde_json::from_slice(&out.stdout).unwrap();
        let log = fs::read_to_string(s.join(dir).join("log.jsonl")).unwrap();
        for (n, line) in log.lines().enumerate() {
            let line: Value = serde_json::from_str(line).unwrap();
            for tag in ["loss", "train_top1", "test_top1", "lr", "images_per_second"] {
                let [step, value, time] = &found[tag][n].as_array().unwrap()[..] else { panic!("three") };
                assert_eq!(*step, line["epoch"], "{tag}");
                assert_eq!(value.as_f64().unwrap() as f32, line[tag].as_f64().unwrap() as f32, "{tag}");
                assert!(time.as_f64().unwrap() > 1.7e9, "{tag} at {time}");
            }
        }
        assert_eq!(found["loss"].as_array().unwrap().len(), 3);
    }
}
