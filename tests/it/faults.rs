//! Tests how `train`, `eval` and `embed` handle bad input: tables of what was tried and what the tool says.
//! The tables for `mk-imbalance` and `report` are with the tests of those tools.
//!
//! Each case must give exit code 2, one line on stderr and nothing on stdout, and must leave all earlier
//! results intact.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{DATA, Disk, Sandbox, TRAIN, copy_dir, edit, flip, refused, trained};

fn cut(path: &Path) {
    fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
}

/// Returns all files under a directory with their contents, except locks, the memo of hashes, and plans of
/// failed runs.
fn snapshot(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().and_then(|n| n.to_str()) {
            Some(".lock" | "plan.json" | "memo") => {}
            _ if path.is_dir() => all.extend(snapshot(&path)),
            _ => all.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    all.sort();
    all
}

fn names(files: &[(std::path::PathBuf, Vec<u8>)]) -> Vec<String> {
    files.iter().map(|(path, bytes)| format!("{} {}", path.display(), blake3::hash(bytes).to_hex())).collect()
}

/// The tool, its arguments, and a part of its message.
type Row = (&'static str, &'static str, &'static str);

/// Runs each row in one sandbox, which must remain unchanged.
fn all_refused(s: &Sandbox, rows: &[Row]) {
    for &(tool, args, why) in rows {
        let before = snapshot(s.path());
        let output = s.tool(tool, args).write_stdin("").assert().get_output().clone();
        let said = String::from_utf8(output.stderr).unwrap();
        let what = format!("{tool} {args}: {said}");
        assert_eq!(output.status.code(), Some(2), "{what}");
        assert!(output.stdout.is_empty(), "{what}");
        assert_eq!(said.lines().count(), 1, "{what}");
        assert!(said.starts_with(&format!("{tool}: ")) && said.contains(why), "`{why}` is not in: {what}");
        assert!(!said.contains("panicked"), "{what}");
        let after = snapshot(s.path());
        // There is no manifest, temporary file or partial result, and no existing file has changed.
        assert!(before == after, "{what}: before {:?}, after {:?}", names(&before), names(&after));
    }
}

#[test]
fn manifests_that_are_none_or_others() {
    let s = trained();
    fs::write(s.join("foreign.json"), r#"{"name": "left-pad", "version": "1.3.0"}"#).unwrap();
    fs::write(s.join("empty.json"), "").unwrap();
    fs::write(s.join("binary.json"), b"\x7fELF\xff\xfe").unwrap();
    let text = fs::read_to_string(s.join("run/manifest.json")).unwrap();
    fs::write(s.join("half.json"), &text[..text.len() / 2]).unwrap();
    for name in ["data", "run"] {
        copy_dir(&s.join(name), &s.join(format!("{name}-v2")));
        edit(&s.join(format!("{name}-v2/manifest.json")), |v| v["schema"] = json!("remix.manifest/2"));
        copy_dir(&s.join(name), &s.join(format!("{name}-up")));
        edit(&s.join(format!("{name}-up/manifest.json")), |v| v["outputs"][0]["path"] = json!("../x"));
    }
    copy_dir(&s.join("data"), &s.join("plan"));
    edit(&s.join("plan/manifest.json"), |v| v["outputs"] = json!([]));
    copy_dir(&s.join("run"), &s.join("no-files"));
    edit(&s.join("no-files"), |v| v["outputs"] = json!([]));
    copy_dir(&s.join("run"), &s.join("no-data"));
    edit(&s.join("no-data"), |v| v["inputs"] = json!([]));
    copy_dir(&s.join("run"), &s.join("arch"));
    edit(&s.join("arch/manifest.json"), |v| v["params"]["arch"] = json!("vgg16"));
    copy_dir(&s.join("run"), &s.join("deeper"));
    edit(&s.join("deeper/manifest.json"), |v| v["params"]["arch"] = json!("resnet32"));

    for tool in ["train", "eval", "embed"] {
        let rows = [
            (tool, "foreign.json", "foreign.json: not a manifest: it has no \"schema\""),
            (tool, "empty.json", "empty.json: no manifests"),
            (tool, "binary.json", "binary.json: not a manifest: it is not text"),
            (tool, "half.json", "half.json: not a manifest: it ends early"),
        ];
        all_refused(&s, &rows);
    }
    fs::write(s.join("gone"), "gone.png\n").unwrap();
    all_refused(
        &s,
        &[
            (
                "train",
                "nowhere",
                "nowhere: there is no such file; pass the manifest.json of a finished result, or its directory\n",
            ),
            (
                "mk-imbalance",
                "--dataset synthetic --data x",
                "--data: does nothing here; it needs another --dataset",
            ),
            // A name that looks like the number of a frame of a backtrace.
            ("train", "0", "train: 0: there is no such file; pass the manifest.json of a finished result"),
            ("train", "", "stdin: no manifests; pipe mk-imbalance into this tool"),
            ("train", "run", "run/manifest.json: is a checkpoint manifest, but train takes dataset"),
            ("train", "data-v2", "use the version of the tools that wrote it"),
            ("train", "data-up", "lists the output ../x, which is outside its directory"),
            ("train", "plan", "this dataset lists no train or test file"),
            ("eval", "", "stdin: no manifests; pipe train into this tool"),
            (
                "eval",
                "nowhere",
                "nowhere: there is no such file; pass the manifest.json of a finished result",
            ),
            (
                "eval",
                ".",
                ".: is a directory of results, not a result; pass the results themselves, such as ./*",
            ),
            ("eval", "data", "data/manifest.json: is a dataset manifest, but eval takes checkpoint"),
            ("eval", "run --data run", "run/manifest.json: is a checkpoint manifest, but eval takes dataset"),
            ("eval", "no-files", "this checkpoint lists no last file; make it again with train"),
            ("eval", "no-data", "no-data/manifest.json: does not say what it was trained on"),
            ("eval", "run-v2", "use the version of the tools that wrote it"),
            ("eval", "run-up", "lists the output ../x, which is outside its directory"),
            ("eval", "arch", "params.arch"),
            ("eval", "deeper", "check the architecture (--arch)"),
            ("eval", "run --arch resnet44", "is a resnet20, not the resnet44 of --arch"),
            (
                "eval",
                "run --split val",
                "this dataset lists no val file; make a validation split with mk-imbalance --val-fraction",
            ),
            (
                "embed",
                "nowhere",
                "nowhere: there is no such file; pass the manifest.json of a finished result",
            ),
            (
                "embed",
                "run --data run",
                "run/manifest.json: is a checkpoint manifest, but embed takes dataset",
            ),
            ("embed", "run --arch resnet44", "is a resnet20, not the resnet44 of --arch"),
            ("embed", "run-v2", "use the version of the tools that wrote it"),
            ("embed", "data", "data/manifest.json: is a dataset manifest, but embed takes checkpoint"),
            ("embed", "no-files", "this checkpoint lists no last file; make it again with train"),
            ("embed", "no-data", "no-data/manifest.json: does not say what it was trained on"),
            ("embed", "run --split val", "make a validation split with mk-imbalance --val-fraction"),
            ("embed", "run-up", "lists the output ../x, which is outside its directory"),
            ("embed", "deeper", "check the architecture (--arch)"),
            ("embed", "run/last.safetensors", "add --arch (the network, such as resnet32) and --data"),
            (
                "embed",
                "run/last.safetensors --data data",
                "neither network nor data set; add --arch (the network, such as resnet32)\n",
            ),
            (
                "embed",
                "run --images nowhere",
                "--images nowhere: there is no such file or directory; pass an image",
            ),
            ("embed", "run --images empty.json", "--images empty.json: there are no images"),
            (
                "embed",
                "run --images run/log.jsonl",
                "--images run/log.jsonl: is not a list of images: there is no file",
            ),
            ("embed", "run --images gone", "gone.png: No such file or directory"),
            ("report", "runs nowhere", "nowhere: No such file or directory (os error 2); check the path\n"),
            ("embed", "run/last.safetensors --arch resnet32 --data data", "check the architecture (--arch)"),
            ("embed", "run/log.jsonl", "run/log.jsonl: not a manifest"),
        ],
    );
}

/// A manifest in the output directory that lists a file outside it is not taken for an earlier result.
#[test]
fn files_outside_the_output_directory_are_not_replaced() {
    let s = trained();
    s.one("embed", "run -q --out e");
    edit(&s.join("e"), |v| v["outputs"][0]["path"] = json!("../x"));
    fs::write(s.join("x"), "not ours").unwrap();
    let said = s.said("embed", "run -q --out e --verify", 1);
    assert!(said.contains("e/manifest.json: lists the output ../x, which is outside"), "{said}");
    for force in ["", "--force"] {
        let embed = s.tool("embed", &format!("run -q --out e {force}")).assert();
        refused(embed, "e/features.safetensors: no readable manifest.json or plan.json lists it");
    }
    assert_eq!(fs::read_to_string(s.join("x")).unwrap(), "not ours");
}

#[test]
fn files_that_are_damaged() {
    type Spoil = fn(&Path);
    let gone: Spoil = |p| fs::remove_file(p).unwrap();
    let s = trained();
    for (file, rows) in [
        ("data/train-00000.safetensors", &[("train", "data --arch resnet20 -q --out new")][..]),
        (
            "data/test-00000.safetensors",
            &[
                ("train", "data --arch resnet20 -q --out new"),
                ("eval", "run -q --out new"),
                ("embed", "run -q --out new"),
            ][..],
        ),
        ("run/last.safetensors", &[("eval", "run -q --out new"), ("embed", "run -q --out new")][..]),
        ("run/best.safetensors", &[("eval", "run -q --out new --checkpoint best")][..]),
    ] {
        let name: &'static str = Path::new(file).file_name().unwrap().to_str().unwrap();
        let sound = fs::read(s.join(file)).unwrap();
        let spoils: [(Spoil, &str); 3] = [
            (gone, "missing, although"),
            (cut, "size differs from its manifest"),
            (flip, "blake3 differs from its manifest"),
        ];
        for (spoil, why) in spoils {
            spoil(&s.join(file));
            for &(tool, args) in rows {
                all_refused(&s, &[(tool, args, why), (tool, args, name)]);
            }
            fs::write(s.join(file), &sound).unwrap();
        }
    }
    // Bare weights, which no manifest lists with a hash.
    fs::write(s.join("cut.safetensors"), &fs::read(s.join("run/last.safetensors")).unwrap()[..5000]).unwrap();
    fs::write(s.join("text.safetensors"), "PK").unwrap();
    all_refused(
        &s,
        &[
            (
                "eval",
                "cut.safetensors --arch resnet20 --data data",
                "cut.safetensors: not an intact safetensors file",
            ),
            (
                "eval",
                "text.safetensors --arch resnet20 --data data",
                "text.safetensors: not an intact safetensors file",
            ),
        ],
    );
}

#[test]
fn counts_that_were_edited_by_hand() {
    let s = trained();
    for (name, change) in [
        ("zero", (|v| v["metrics"]["cls_num_list"][9] = json!(0)) as fn(&mut Value)),
        ("other", |v| v["metrics"]["cls_num_list"][0] = json!(7)),
        ("few", |v| v["metrics"]["cls_num_list"] = json!([1, 2])),
        ("none", |v| v["metrics"] = json!({})),
        ("text", |v| v["metrics"]["cls_num_list"] = json!("many")),
        ("one", |v| {
            let images = v["metrics"]["images"].take();
            v["metrics"] = json!({"classes": 1, "class_names": ["a"], "cls_num_list": [8], "mean": [0, 0, 0], "std": [1, 1, 1], "images": images});
        }),
    ] {
        copy_dir(&s.join("data"), &s.join(name));
        edit(&s.join(name).join("manifest.json"), change);
    }
    all_refused(
        &s,
        &[
            (
                "train",
                "zero --arch resnet20 -q --out new",
                "class 9 has 2 training images, but its manifest says 0",
            ),
            (
                "train",
                "other --arch resnet20 -q --out new",
                "class 0 has 8 training images, but its manifest says 7",
            ),
            ("train", "few --arch resnet20 -q --out new", "classes, class_names and cls_num_list disagree"),
            ("train", "none --arch resnet20 -q --out new", "metrics: missing field"),
            ("train", "text --arch resnet20 -q --out new", "metrics: invalid type"),
            ("train", "one --arch resnet20 -q --out new", "labels must be from 0 to 0"),
            ("eval", "run --data few -q", "classes, class_names and cls_num_list disagree"),
            ("eval", "run --data one -q", "labels must be from 0 to 0"),
        ],
    );
}

#[test]
fn flags_that_are_absurd() {
    let s = trained();
    all_refused(
        &s,
        &[
            ("train", "data --lr NaN", "--lr NaN: must be a positive number"),
            ("train", "data --lr inf", "--lr inf: must be a positive number"),
            ("train", "data --method remixx", "did you mean remix"),
            // No machine has this many GPUs.
            ("train", "data --device cuda:999", "--device cuda:999: "),
            ("embed", "run --device cuda:999", "--device cuda:999: "),
            ("eval", "run run --out x", "is for one checkpoint, but 2 were given"),
            ("embed", "run run --out x", "is for one checkpoint, but 2 were given"),
            (
                "train",
                "data --arch resnet20 --lr 1e38 --epochs 4 --batch-size 8 --milestones none -q --out nan",
                "the loss is ",
            ),
            (
                "train",
                "data --arch resnet20 --lr 1e38 --weight-decay 1e10 --epochs 1 --milestones none -q --out nan2",
                "finite after epoch 1; try a smaller --lr",
            ),
        ],
    );
    // The failed run stored no epoch, so its directory accepts another experiment.
    s.one("train", &format!("{TRAIN} -q --out nan"));
    for (args, why) in [
        ("data --seeds 5-2", "runs backwards; write 2-5"),
        ("data --threads 0", "expected a whole number from 1 to 1024"),
        ("data --epochs 0", "expected a whole number of at least 1"),
        ("data --epochs x", "expected a whole number of at least 1"),
        ("data --epochs 5000000000", "the number is too large"),
        ("data --epochs 123456789012345678901234567890", "the number is too large"),
        ("data --epochs not-a-number-at-all-here", "expected a whole number of at least 1"),
        ("data --verify --force", "'--verify' cannot be used with '--force'"),
        ("data --batch-size 0", "expected a whole number from 1 to 65536"),
        ("data --seed x", "for '--seed <N>': expected a whole number of at least 0; see train --help\n"),
        ("data --sweep threads=1:2:1", "--sweep threads: --threads is not a numeric setting of the training"),
        ("data --gamma x --loss focal", "for '--gamma <G>': expected a number; see train --help\n"),
        ("data --device nonsense", "expected auto, cpu, cuda or cuda:N"),
        ("data --device cuda:x", "expected auto, cpu, cuda or cuda:N"),
        ("data --arch vgg", "resnet32"),
        ("data other", "other: there is no such file"),
    ] {
        let said = s.said("train", args, 2);
        assert!(
            said.contains(why) && said.starts_with("train: ") && said.lines().count() == 1,
            "{args}: {said}"
        );
    }
    assert_eq!(s.run("train", &format!("{TRAIN} -q --seeds 1,1,1-1")).len(), 1, "a seed is trained once");
}

#[test]
fn directories_that_cannot_be_written() {
    let s = trained();
    fs::write(s.join("file"), "").unwrap();
    for (tool, args) in [("mk-imbalance", DATA), ("train", TRAIN), ("eval", "run"), ("embed", "run")] {
        for (out, why, system) in
            [("file/d", "file: is a file, but a directory is needed there", 0), ("/proc/d", "/proc/d: ", 1)]
        {
            let said = s.said(tool, &format!("{args} -q --out {out}"), 2);
            assert!(said.starts_with(&format!("{tool}: {why}")) && said.lines().count() == 1, "{said}");
            // The cause is given once.
            assert_eq!(said.matches("os error").count(), system, "{said}");
        }
    }
}

#[test]
fn a_disk_that_is_full() {
    let s = trained();
    let dir = s.join("disk");
    // It has room for the best weights but not for the state, and later not for an embedding.
    let Some(disk) = Disk::mount(dir.clone(), "1600k") else { return };
    refused(
        s.tool("train", &format!("{TRAIN} -q --out disk/run")).assert(),
        "state.safetensors: No space left on device",
    );
    let mut left: Vec<_> = fs::read_dir(dir.join("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".lock", "best.next.safetensors", "log.jsonl", "plan.json"], "nothing half-written");
    fs::write(dir.join("fill"), vec![0; 1 << 20]).unwrap_err();
    for (tool, file) in [("eval", "manifest.json"), ("embed", "features.safetensors")] {
        let full = s.tool(tool, &format!("run -q --out disk/{tool} --force")).assert();
        refused(full, "No space left on device");
        assert!(!dir.join(tool).join(file).exists());
    }
    // With free space again, the same command succeeds.
    fs::remove_file(dir.join("fill")).unwrap();
    disk.resize("8m");
    s.one("train", &format!("{TRAIN} -q --out disk/run"));
}
