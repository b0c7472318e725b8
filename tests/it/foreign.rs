//! Tests that files in an output directory that no tool made are neither replaced nor removed, whatever the
//! flags.

use std::fs;
use std::path::Path;

use crate::common::{DATA, TRAIN, refused, trained};

/// Every tool, with arguments that make something in a directory and the names of the files that it makes
/// there.
const TOOLS: [(&str, &str, &[&str]); 7] = [
    ("mk-imbalance", DATA, &["train-00000.safetensors", "test-00000.safetensors"]),
    (
        "train",
        TRAIN,
        &["last.safetensors", "best.safetensors", "best.next.safetensors", "state.safetensors", "log.jsonl"],
    ),
    ("eval", "run", &[]),
    ("embed", "run", &["features.safetensors"]),
    ("report", "table m", &["table.md", "table.csv", "table.tex", "table.json"]),
    ("report", "figure --kind per-class m", &["per-class.svg"]),
    ("report", "html m", &["report.html"]),
];

#[test]
fn a_file_in_the_way_is_named_and_kept() {
    let s = trained();
    for (tool, args, files) in TOOLS {
        for name in files.iter().chain(&["manifest.json", "plan.json"]) {
            for (text, force) in
                [("a thesis", ""), ("a thesis", "--force"), ("{\"name\": \"left-pad\"}", "--force")]
            {
                let dir = s.join("out");
                fs::create_dir(&dir).unwrap();
                fs::write(dir.join(name), text).unwrap();
                let asked = s.tool(tool, &format!("{args} -q --out out {force}"));
                let why = match ["manifest.json", "plan.json"].contains(name) {
                    true => format!("is not a manifest that {tool} can read"),
                    false => "no readable manifest.json or plan.json lists it".into(),
                };
                let what = format!("out/{name}: {why}, so {tool} does not replace it; move it away");
                refused({ asked }.assert(), &what);
                assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "{tool} {name}: nothing beside it");
                assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), text, "{tool} {name}");
                fs::remove_dir_all(&dir).unwrap();
            }
        }
    }
}

#[test]
fn files_beside_a_result_stay() {
    let s = trained();
    for (tool, args, _) in TOOLS {
        let dir = s.join("out");
        let others = [
            ".tmp-thesis/ch1.tex",
            "train-backup.safetensors",
            "test-set.safetensors",
            "best.pth",
            ".gitignore",
            "best.safetensors.bak",
            ".lock",
        ];
        for name in others {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), name).unwrap();
        }
        // Run in the directory itself: made once, made again, and replaced by another result of the tool.
        let inside = format!("{args} -q --out .");
        let inside = inside.replace("data ", "../data ").replace("run ", "../run ").replace(" m ", " ../m ");
        let run = |more: &str| {
            s.tool(tool, &format!("{inside} {more}")).current_dir(&dir).assert().success();
        };
        run("");
        run("--force");
        if tool == "mk-imbalance" {
            s.tool(tool, &format!("{inside} --seed 3 --val-fraction 0.25 --force"))
                .current_dir(&dir)
                .assert()
                .success();
            s.tool(tool, &format!("{inside} --force")).current_dir(&dir).assert().success();
            assert!(!dir.join("val-00000.safetensors").exists(), "what an earlier result listed goes");
        }
        for name in others {
            assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), name, "{tool} {args}");
        }
        assert!(dir.join("manifest.json").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// A link in the place of a file is kept as well, whether or not its target exists.
#[test]
fn links_in_the_way_are_kept() {
    let s = trained();
    for target in ["elsewhere", "data/manifest.json"] {
        fs::create_dir(s.join("out")).unwrap();
        std::os::unix::fs::symlink(s.join(target), s.join("out/last.safetensors")).unwrap();
        refused(
            s.tool("train", &format!("{TRAIN} -q --out out --force")).assert(),
            "last.safetensors: no readable manifest.json or plan.json lists it",
        );
        assert!(fs::symlink_metadata(s.join("out/last.safetensors")).unwrap().is_symlink());
        fs::remove_dir_all(s.join("out")).unwrap();
    }
    assert!(Path::new(&s.join("data/manifest.json")).exists());
}
