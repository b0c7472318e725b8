//! Tests what a new user meets: output on a terminal, directory names, lists of runs, completion part by
//! part, and helpful advice.

use std::fs;

use assert_cmd::cargo::cargo_bin;
use serde_json::Value;

use crate::common::{DATA, Sandbox, refused, skipped, with_data};
use crate::fabricate::{checkpoint, manifest};

const TRAIN: &str = "data --arch resnet20 --batch-size 32";

/// Returns what a terminal shows after a command, with both streams on it.
fn terminal(s: &Sandbox, tool: &str, args: &str) -> Option<String> {
    s.terminal(&format!("{} {args}", cargo_bin(tool).display()))
}

#[test]
fn a_terminal_gets_a_line_and_a_pipe_the_manifest() {
    let s = Sandbox::new();
    let Some(said) = terminal(&s, "mk-imbalance", &format!("{DATA} --out data")) else { return };
    assert_eq!(
        said.trim(),
        "40 training, 20 test images of 10 classes (8 to 2 training images per class): data"
    );
    let said = |tool: &str, args: &str| terminal(&s, tool, args).unwrap();
    let trained = said("train", &format!("{TRAIN} --method remix --tau 0.3 --epochs 2 --out run"));
    assert!(!trained.contains("remix.manifest/1"), "{trained}");
    assert!(trained.contains("remix(tau=0.3) resnet20 seed 0 epoch 1/2 step 1/2 ETA 0"), "{trained:?}");
    assert!(trained.contains(" % after epoch 2, best "), "{trained:?}");
    let again = said("train", &format!("{TRAIN} --method remix --tau 0.3 --epochs 2 --out run"));
    assert_eq!(again.lines().count(), 1, "{again:?}");
    let evaluated = said("eval", "run --out m");
    assert!(
        evaluated.contains("top-1 ") && evaluated.trim_end().ends_with(" (test, last epoch): m"),
        "{evaluated:?}"
    );
    assert!(said("eval", "run --out m --verify").contains("m: intact; the result is the manifest alone"));
    assert!(said("embed", "run --out e").contains("20 test images, 64 features each: e"));
    assert!(said("report", "figure --kind curves run -o curves.svg").starts_with("curves.svg, "));
    // The plan was requested, so it is printed in full.
    assert!(said("eval", "run --out n --dry-run").contains("\"schema\": \"remix.manifest/1\""));
    // A reader of a pipe or a file still gets the manifest.
    assert_eq!(s.one("eval", "run --out m -q")["kind"], "metrics");
}

#[test]
fn a_resumed_run_says_where_it_is() {
    let s = with_data();
    let args = format!("{TRAIN} --epochs 3");
    s.killed_with(&["state.safetensors"], &args, "run", 1);
    let Some(said) = terminal(&s, "train", &format!("{args} --out run")) else { return };
    assert!(said.contains("epoch 2/3 step 1/2 ETA") && !said.contains("epoch 1/3"), "{said:?}");
}

#[test]
fn directories_are_named_by_what_departs_and_old_names_are_found() {
    let s = with_data();
    let run = |more: &str| {
        let m = s.one("train", &format!("{TRAIN} --epochs 1 --method remix -q {more}"));
        m["path"].as_str().unwrap().to_owned()
    };
    let path = run("--tau 0.3");
    assert!(
        path.contains("/runs/remix-resnet20-synthetic-exp-4-s0-tau-0.3-epochs-1-batch-size-32-train-per-class-8-test-per-class-2-"),
        "{path}"
    );
    // The directory name that an earlier version used.
    let key = manifest(s.join(path.trim_end_matches("/manifest.json"))).key;
    let old = s.join(format!("runs/remix-resnet20-s0-{}", &key[..12]));
    fs::rename(path.trim_end_matches("/manifest.json"), &old).unwrap();
    assert_eq!(run("--tau 0.3"), old.join("manifest.json").display().to_string());
}

#[test]
fn runs_are_listed() {
    let s = with_data();
    let run = |more: &str| s.one("train", &format!("{TRAIN} -q {more}"));
    run("--epochs 1 --method remix --tau 0.3 --out runs/a");
    run("--epochs 1 --method remix --out runs/b");
    s.run("train", &format!("{TRAIN} -q --epochs 1 --method erm --seeds 0-1 --out runs/deep"));
    s.killed_with(&["state.safetensors"], &format!("{TRAIN} --epochs 4 -q --method drw"), "runs/stopped", 1);
    let list = |args: &str| s.printed("report", &format!("runs {args}"));
    let text = list("");
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert!(text.starts_with("All runs: resnet20, batch-size 32"), "{text}");
    let row = |start: &[&str]| rows.iter().find(|r| r.starts_with(start)).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(row(&["remix", "tau", "0.3,"]).last(), Some(&"runs/a"));
    assert!(row(&["drw"]).contains(&"1/4") && row(&["drw"]).contains(&"stopped"), "{text}");
    assert_eq!(rows.iter().filter(|r| r.first() == Some(&"erm")).count(), 2, "{text}");
    assert_eq!(list("runs/a --format csv").lines().count(), 2);
    let all: Value = serde_json::from_str(&list("runs --format json")).unwrap();
    let of = |dir: &str| all.as_array().unwrap().iter().find(|r| r["directory"] == dir).unwrap();
    let (m, a) = (manifest(s.join("runs/a")), of("runs/a"));
    assert_eq!((&a["last_top1"], &a["state"]), (&m.metrics["last_top1"], &"done".into()));
    assert_eq!((&of("runs/stopped")["epochs_done"], &of("runs/stopped")["epochs"]), (&1.into(), &4.into()));

    // A running training holds its lock.
    let lock = fs::File::open(s.join("runs/stopped/.lock")).unwrap();
    lock.lock().unwrap();
    assert!(list("runs").contains("running"));
    drop(lock);
    // A damaged run does not hide the others.
    fs::write(s.join("runs/b/manifest.json"), "{}").unwrap();
    let out = s.tool("report", "runs").assert().success().get_output().clone();
    assert!(String::from_utf8_lossy(&out.stdout).contains("runs/a"));
    assert!(
        String::from_utf8_lossy(&out.stderr)
            .contains("warning: skipped: runs/b/manifest.json: not a manifest")
    );

    fs::create_dir(s.join("empty")).unwrap();
    refused(s.tool("report", "runs empty").assert(), "empty: there are no training runs");
    refused(s.tool("report", "runs nowhere").assert(), "nowhere: No such file");
    refused(s.tool("eval", "runs/stopped").assert(), "runs/stopped: is not finished; repeat the command");
    // Flags that do nothing here are refused, and not in the help.
    let help = s.printed("report", "runs --help");
    assert!(help.contains("--format") && help.contains("--quiet"), "{help}");
    for (flag, value) in [("out", "x"), ("force", ""), ("dry-run", ""), ("explain", ""), ("verify", "")] {
        assert!(!help.contains(&format!("--{flag}")), "{help}");
        let asked = s.tool("report", &format!("runs --{flag} {value}")).assert();
        refused(asked, &format!("--{flag}: does nothing here"));
    }
}

#[test]
fn directories_that_may_not_be_searched_are_named() {
    let s = with_data();
    for (seed, dir) in (0..).zip(["open", "closed", "outer/inner"]) {
        checkpoint(&s.join("runs").join(dir), &manifest(s.join("data")), seed);
    }
    // Root may search all directories unless it gives up this capability.
    let out = s.bash(
        "chmod 0 runs/closed; chmod 111 runs/outer
         [ ! -r runs/closed ] || as='setpriv --bounding-set=-dac_override,-dac_read_search'
         $as $B/report runs --format csv; code=$?; chmod 755 runs/closed runs/outer; exit $code",
    );
    let [listed, said] = [out.stdout, out.stderr].map(|text| String::from_utf8(text).unwrap());
    if said.contains("setpriv") {
        return skipped("root cannot give up capabilities here");
    }
    assert_eq!((out.status.code(), listed.lines().count()), (Some(0), 2), "{listed}{said}");
    assert!(listed.contains("runs/open"), "{listed}");
    for place in ["runs/closed/manifest.json", "runs/outer"] {
        let warning = format!("warning: skipped: {place}: Permission denied");
        assert_eq!(said.matches(&warning).count(), 1, "{place}: {said}");
    }
}

#[test]
fn a_table_is_printed_where_it_is_asked_for() {
    let s = with_data();
    s.one("train", &format!("{TRAIN} --epochs 1 -q --out run"));
    s.one("eval", "run --out m -q");
    s.one("report", "table m --out t -q");
    for format in ["md", "csv", "tex", "json"] {
        let out =
            s.tool("report", &format!("table m --format {format}")).assert().success().get_output().clone();
        let file = fs::read_to_string(s.join(format!("t/table.{format}"))).unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap().trim_end(), file.trim_end());
        assert!(out.stderr.is_empty(), "nothing but the table");
    }
    assert!(!s.join("reports").exists(), "nothing is written");
    refused(s.tool("report", "table m --format md --out x").assert(), "prints the table and writes no files");
}

#[test]
fn completions_go_part_by_part() {
    let s = Sandbox::new();
    let complete = |words: &[&str]| {
        let mut tool = s.tool("train", "--");
        tool.arg("train").args(words).env("REMIX_COMPLETE", "bash");
        tool.env("_CLAP_COMPLETE_INDEX", words.len().to_string()).env("_CLAP_IFS", " ");
        String::from_utf8(tool.assert().success().get_output().stdout.clone()).unwrap()
    };
    assert_eq!(complete(&["--method", "re"]), "remix remix-cutmix remix-manifold");
    assert_eq!(complete(&["--method", "remix-dr"]), "remix-drs remix-drw");
    assert_eq!(
        complete(&["--arch", ""]),
        "resnet20 resnet32 resnet44 resnet56 resnet110 resnet18-cifar resnet34-cifar resnet10 resnet18 resnet34 resnet50"
    );
    assert_eq!(complete(&["--device", "c"]), "cpu cuda");
}

#[test]
fn advice_helps() {
    let s = with_data();
    let said = |tool: &str, args: &str| {
        let out = s.tool(tool, args).env("RUST_BACKTRACE", "1").output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{tool} {args}");
        String::from_utf8(out.stderr).unwrap()
    };
    for (args, no) in [("--pretrained", "'-- --pretrained'"), ("--patience 3", "--parallel")] {
        let said = said("train", &format!("data {args}"));
        assert!(said.contains("unexpected argument") && !said.contains("tip"), "{said}");
        assert!(!said.contains(no), "{said}");
    }
    assert!(said("train", "data --weight-decy 1").contains("'--weight-decay'"), "a slip is understood");
    s.one("train", &format!("{TRAIN} --epochs 1 -q --out run"));
    s.one("eval", "run --out m -q");
    for (tool, args, reader, reads, kind) in [
        ("mk-imbalance", format!("{DATA} --out planned"), "train", "-", "dataset"),
        ("mk-imbalance", format!("{DATA} --out planned"), "report", "figure --kind class-counts", "dataset"),
        ("eval", "run --split train".into(), "report", "table", "metrics"),
        ("embed", "run --project pca".into(), "report", "figure --kind tsne", "embedding"),
    ] {
        let plan = s.tool(tool, &format!("{args} --dry-run")).output().unwrap().stdout;
        let said = s.tool(reader, reads).write_stdin(plan).assert().code(2).get_output().stderr.clone();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(&format!("this {kind} is only a plan, as printed by --dry-run")), "{said}");
    }
    // The user must not see the backtrace that candle adds to its errors.
    let mut bytes = fs::read(s.join("run/last.safetensors")).unwrap();
    bytes.truncate(5000);
    fs::write(s.join("cut.safetensors"), bytes).unwrap();
    let cut = said("eval", "cut.safetensors --arch resnet20 --data data");
    assert!(cut.lines().count() == 1 && !cut.contains("0: ") && cut.len() < 400, "{cut}");
}
