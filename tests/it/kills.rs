//! Tests that tools that are killed between any two changes on disk can continue, with the same bytes as if
//! they had not been killed.
//!
//! `$REMIX_KILL_AT` ends a tool at one of its kill points, see `remix::interrupt::kill_point`. A test counts
//! up until the tool runs to its end.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Output;

use remix::simd::Isa;
use serde_json::Value;

use crate::common::{Sandbox, copy_dir, skipped, timeless};

const DATA: &str = "--dataset synthetic --train-per-class 6 --test-per-class 1 --imb-ratio 3 -q";
const TRAIN: &str = "data --method remix-drs --arch resnet20 --batch-size 16 --epochs 2 -q --device cpu";

/// Returns the outputs that a manifest lists, with their bytes; logs without their times.
fn outputs(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let text = fs::read_to_string(dir.join("manifest.json")).unwrap();
    let m: Value = serde_json::from_str(&text).unwrap();
    let mut all = BTreeMap::new();
    for output in m["outputs"].as_array().unwrap() {
        let name = output["path"].as_str().unwrap();
        let mut bytes = fs::read(dir.join(name)).unwrap();
        if name == "log.jsonl" {
            bytes = timeless(&String::from_utf8(bytes).unwrap()).into();
        }
        all.insert(name.to_owned(), bytes);
    }
    all.insert("metrics".into(), m["metrics"].to_string().into());
    all
}

/// Runs a tool up to a kill point and returns whether it reached its end first.
fn killed_at(s: &Sandbox, tool: &str, args: &str, point: u32) -> bool {
    let output: Output = s.tool(tool, args).env("REMIX_KILL_AT", point.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A missing exit code means that a signal ended the process.
    assert!(output.status.code().is_none_or(|code| code == 0), "{tool} {args} at {point}: {said}");
    output.status.success()
}

/// Kills a tool at each of its kill points, in a directory that starts empty or as a copy of another one, and
/// lets it continue. Returns the number of points.
fn at_every_point(
    s: &Sandbox,
    tool: &str,
    args: &str,
    from: Option<&Path>,
    truth: &BTreeMap<String, Vec<u8>>,
) -> u32 {
    for point in 1.. {
        let dir = s.join("killed");
        if let Some(from) = from {
            copy_dir(from, &dir);
        }
        let run = format!("{args} --out killed");
        let through = killed_at(s, tool, &run, point);
        // Kill it once more, at an early point, because a continued run can be killed as well.
        killed_at(s, tool, &run, 1 + point % 3);
        s.tool(tool, &run).assert().success();
        assert!(&outputs(&dir) == truth, "{tool} {args}: other bytes after a kill at point {point}");
        s.tool(tool, &format!("{run} --verify").replace("--force ", "")).assert().success();
        let left: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        let plan = tool != "train" && left.iter().any(|name| name == "plan.json");
        assert!(!left.iter().any(|name| name.contains("next")) && !plan, "{tool} at {point}: {left:?}");
        // If the result was complete before the kill, later calls do not look for temporary files.
        let temporary = left.iter().any(|name| name.starts_with(".remix-tmp-"));
        assert!(!temporary || from.is_some(), "{tool} at {point}: {left:?}");
        fs::remove_dir_all(&dir).unwrap();
        if through {
            return point;
        }
    }
    unreachable!("a tool has an end")
}

/// A file given by `-o`, in a directory with unrelated files.
#[test]
fn a_single_file_is_whole_wherever_it_is_killed() {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    let run = "figure --kind class-counts data -o fig/a.svg -q";
    for point in 1.. {
        fs::create_dir(s.join("fig")).unwrap();
        fs::write(s.join("fig/a.txt"), "mine").unwrap();
        let through = killed_at(&s, "report", run, point);
        killed_at(&s, "report", run, 1 + point % 3);
        s.one("report", run);
        s.one("report", &format!("{run} --verify"));
        let left =
            fs::read_dir(s.join("fig")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["a.svg", "a.svg.manifest.json", "a.txt"], "at {point}");
        fs::remove_dir_all(s.join("fig")).unwrap();
        if through {
            assert!(point > 5, "{point} points");
            return;
        }
    }
}

#[test]
fn a_training_ends_with_the_same_bytes_wherever_it_is_killed() {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    s.one("train", &format!("{TRAIN} --out whole"));
    let whole = outputs(&s.join("whole"));
    let points = at_every_point(&s, "train", TRAIN, None, &whole);
    assert!(points > 15, "plan, log, best, state of each epoch, last, manifest: {points}");
    // Continue from the end of the first epoch.
    s.killed_with(&["state.safetensors"], TRAIN, "half", 1);
    let resumed = at_every_point(&s, "train", TRAIN, Some(&s.join("half")), &whole);
    assert!(resumed > 10 && resumed < points, "{resumed} of {points}");
    // Continue from a finished run that has lost its last weights.
    copy_dir(&s.join("whole"), &s.join("lost"));
    fs::remove_file(s.join("lost/last.safetensors")).unwrap();
    at_every_point(&s, "train", TRAIN, Some(&s.join("lost")), &whole);
}

#[test]
fn the_other_tools_end_with_the_same_bytes_wherever_they_are_killed() {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    s.one("train", &format!("{TRAIN} --out run"));
    s.one("eval", "run -q --out m");
    let shards = format!("{DATA} --shard-bytes 64K");
    for (tool, args) in [
        ("mk-imbalance", &*shards),
        ("eval", "run -q"),
        ("embed", "run -q"),
        ("embed", "run -q --project pca"),
        ("report", "table m -q"),
        ("report", "figure --kind per-class m -q"),
        ("report", "html m -q"),
    ] {
        s.one(tool, &format!("{args} --out whole"));
        let whole = outputs(&s.join("whole"));
        let points = at_every_point(&s, tool, args, None, &whole);
        assert!(points > 4, "{tool}: {points}");
        fs::remove_dir_all(s.join("whole")).unwrap();
    }
    // Replace another data set, which has other shards.
    s.one("mk-imbalance", &format!("{DATA} --val-fraction 0.34 --out other"));
    s.one("mk-imbalance", &format!("{DATA} --out whole"));
    at_every_point(
        &s,
        "mk-imbalance",
        &format!("{DATA} --force"),
        Some(&s.join("other")),
        &outputs(&s.join("whole")),
    );
    // Without --force, the same command after a kill either finds the old data set intact and refuses to replace
    // it, or makes the new one.
    let (old, new) = (outputs(&s.join("other")), outputs(&s.join("whole")));
    let mut refusals = 0;
    for point in 1.. {
        copy_dir(&s.join("other"), &s.join("half"));
        let through = killed_at(&s, "mk-imbalance", &format!("{DATA} --out half --force"), point);
        let again = s.tool("mk-imbalance", &format!("{DATA} --out half")).output().unwrap();
        let is_refused = String::from_utf8_lossy(&again.stderr).contains("holds another data set");
        assert!(again.status.success() || is_refused, "{again:?}");
        refusals += u32::from(is_refused);
        assert!(outputs(&s.join("half")) == *if is_refused { &old } else { &new }, "at {point}");
        fs::remove_dir_all(s.join("half")).unwrap();
        if through {
            break;
        }
    }
    assert!(refusals > 0, "a kill before the replacement keeps the old data set");
}

/// After a kill between writing the best weights and the state, a training could once not be continued with
/// another instruction set, whose best weights differ.
#[test]
fn a_training_goes_on_by_other_instructions_wherever_it_is_killed() {
    let sets: Vec<_> = Isa::available().iter().map(|isa| isa.for_floats().name()).collect();
    let (best, other) = (sets[0], sets[sets.len() - 1]);
    if best == other {
        return skipped(format!("this machine has {best} alone"));
    }
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    for point in 1.. {
        let run = s
            .tool("train", &format!("{TRAIN} --out run"))
            .env("REMIX_ISA", other)
            .env("REMIX_KILL_AT", point.to_string())
            .output();
        s.tool("train", &format!("{TRAIN} --out run")).env("REMIX_ISA", best).assert().success();
        s.tool("train", &format!("{TRAIN} --out run --verify")).assert().success();
        fs::remove_dir_all(s.join("run")).unwrap();
        if run.unwrap().status.success() {
            break;
        }
    }
}

#[test]
fn best_weights_that_are_not_the_states_are_found_before_training_goes_on() {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    let train = TRAIN.replace("--epochs 2", "--epochs 40");
    s.killed_with(&["best.safetensors"], &train, "run", 9);
    let run = format!("{train} --out run");
    let sound = fs::read(s.join("run/best.safetensors")).unwrap();
    for spoil in ["gone", "another"] {
        match spoil {
            "gone" => fs::remove_file(s.join("run/best.safetensors")).unwrap(),
            _ => fs::copy(s.join("run/state.safetensors"), s.join("run/best.safetensors")).map(drop).unwrap(),
        }
        let before = fs::read_to_string(s.join("run/log.jsonl")).unwrap();
        let said = s.said("train", &run, 2);
        assert!(
            said.contains("best.safetensors: ") && said.contains("--force trains again from the start"),
            "{said}"
        );
        assert_eq!(
            fs::read_to_string(s.join("run/log.jsonl")).unwrap(),
            before,
            "{spoil}: no epoch was trained"
        );
        fs::write(s.join("run/best.safetensors"), &sound).unwrap();
    }
    s.tool("train", &run).env("REMIX_KILL_AT", "9").assert().interrupted();
}

/// Image files, whose finished shards survive a kill.
#[test]
fn a_data_set_of_files_is_the_same_wherever_it_is_killed() {
    let s = Sandbox::new();
    for n in 0..24u8 {
        let dir = s.join(format!("photos/{}", ["a", "b"][usize::from(n % 2)]));
        fs::create_dir_all(&dir).unwrap();
        let image = image::RgbImage::from_fn(12, 12, |x, y| image::Rgb([n, x as u8, y as u8]));
        image.save(dir.join(format!("{n}.png"))).unwrap();
    }
    // The limit allows a few images per shard.
    let run = "--dataset folder --data photos --size 8 --shard-bytes 1500 -q";
    s.one("mk-imbalance", &format!("{run} --out whole"));
    let whole = outputs(&s.join("whole"));
    assert!(whole.len() > 7, "several shards: {:?}", whole.keys());
    let points = at_every_point(&s, "mk-imbalance", run, None, &whole);
    assert!(points > 20, "{points}");
}
