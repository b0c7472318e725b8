//! Tests of output directories: their names, and the protection of their content.

use std::fs;
use std::path::PathBuf;

use clap::Parser;

use super::*;
use crate::manifest::store::Claim;
use crate::manifest::{Input, object};

fn flags(line: &str) -> Flags {
    Flags::try_parse_from(std::iter::once("train").chain(line.split_whitespace())).expect("sound flags")
}

fn plan(line: &str, dir: &Path) -> Plan {
    let config = flags(line).configs().expect("sound flags").remove(0);
    Plan::new(Kind::Checkpoint, SEMANTICS, config.params(), vec![], |_| dir.to_owned())
}

/// Takes over a directory and, if `state` is given, leaves it with that state.
fn begin(line: &str, dir: &Path, force: bool, state: Option<&str>) -> Result<()> {
    let Claim::Work(writer) = plan(line, dir).claim(force, || ())? else {
        panic!("nothing is finished here");
    };
    take_over(&writer, force)?;
    if let Some(state) = state {
        fs::write(dir.join(STATE), state)?;
    }
    Ok(())
}

fn claim(line: &str, dir: &Path, force: bool) -> Result<()> {
    begin(line, dir, force, None)
}

/// Returns the manifest of a CIFAR-10 data set, exp 100.
fn dataset() -> Manifest {
    let params = object(serde_json::json!({"dataset": "cifar10", "imb_type": "exp", "imb_ratio": 100}));
    Plan::new(Kind::Dataset, 1, params, vec![], |_| PathBuf::new()).manifest()
}

#[test]
fn directories() {
    let name = |line: &str| {
        let flags = flags(line);
        let configs = flags.configs().expect("sound flags");
        let of = |c: &Config| directory(&flags, c, &dataset(), "0123456789abcdef").display().to_string();
        configs.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(name("--method remix-drw"), "runs/remix-drw-resnet32-cifar10-exp-100-s0-0123456789ab");
    assert_eq!(
        name("--method remix --tau 0.3 --arch resnet20 --seed 4"),
        "runs/remix-resnet20-cifar10-exp-100-s4-tau-0.3-0123456789ab"
    );
    assert_eq!(
        name("--epochs 10 --milestones 5,8 --precision bf16"),
        "runs/erm-resnet32-cifar10-exp-100-s0-epochs-10-precision-bf16-0123456789ab"
    );
    assert_eq!(
        name("--milestones 100,200"),
        "runs/erm-resnet32-cifar10-exp-100-s0-milestones-100+200-0123456789ab"
    );
    assert_eq!(
        name("--recipe paper --method rw --rw-norm batch-size"),
        "runs/rw-resnet32-cifar10-exp-100-s0-rw-norm-batch-size-recipe-paper-0123456789ab"
    );
    assert_eq!(name("--out x/y"), "x/y");
    assert_eq!(name("--out x --seeds 1,3"), "x/seed-1 x/seed-3");
    assert_eq!(name("--out x --seeds 1"), "x/seed-1");
}

#[test]
fn differences_name_params_inputs_and_the_version() {
    let mut old = plan("--method remix", Path::new("run")).manifest();
    old.inputs.push(Input::new("dataset", "data/manifest.json".into(), "first".into()));
    let mut new = old.clone();
    assert_eq!(differences(&old, &new), "");
    new.params.insert("seed".into(), 7.into());
    new.inputs[0].blake3 = "other".into();
    new.semantics += 1;
    assert_eq!(differences(&old, &new), "seed, the input dataset, the version of train");
    new.inputs.clear();
    assert_eq!(differences(&old, &new), "seed, the input dataset, the version of train");
}

#[test]
fn another_unfinished_run_is_kept_unless_forced() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join(STATE);
    begin("--method remix", dir.path(), false, Some("hours of work")).expect("an empty directory");
    claim("--method remix", dir.path(), false).expect("the same run goes on");
    assert!(state.exists());

    let text =
        claim("--method remix --tau 0.3 --seed 1", dir.path(), false).expect_err("another run").to_string();
    assert!(text.contains("unfinished run of another experiment (differs in mix.tau, seed;"), "{text}");
    assert!(text.contains("--force"), "{text}");
    assert!(state.exists());
    claim("--method remix", dir.path(), false).expect("still the first run's");

    claim("--method remix --tau 0.3", dir.path(), true).expect("forced");
    assert!(!state.exists(), "no state of one run beside the plan of another");
    claim("--method remix --tau 0.3", dir.path(), false).expect("now this one's");
}

#[test]
fn a_finished_run_is_kept_unless_forced() {
    let dir = tempfile::tempdir().expect("a directory");
    let Claim::Work(writer) = plan("--method erm", dir.path()).claim(false, || ()).expect("claimed") else {
        panic!("nothing is finished here");
    };
    writer.publish(vec![], Default::default(), Default::default()).expect("published");
    drop(writer);
    let text = claim("--method rw", dir.path(), false).expect_err("another run").to_string();
    assert!(text.contains("a finished run of another experiment (differs in rule.name;"), "{text}");
    assert!(text.contains("--explain"), "{text}");
    assert!(plan("--method erm", dir.path()).done().is_some(), "untouched");
    claim("--method rw", dir.path(), true).expect("forced");
    assert!(plan("--method erm", dir.path()).existing().is_none(), "withdrawn");
}

#[test]
fn files_of_unknown_origin_are_kept_even_if_forced() {
    for name in FILES {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(name);
        fs::write(&file, "hours of work").expect("written");
        for force in [false, true] {
            let e = claim("", dir.path(), force).expect_err("unknown").to_string();
            assert!(e.contains("so train does not replace it") && e.contains(name), "{e}");
            assert_eq!(fs::read_to_string(&file).expect("read"), "hours of work");
        }
    }
}

/// A plan that does not list the run's files, as earlier versions wrote it.
#[test]
fn unfinished_directories_of_earlier_versions_are_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = serde_json::to_string(&plan("--method remix", dir.path()).manifest()).expect("JSON");
    fs::write(dir.path().join(store::PLAN), text).expect("written");
    for name in [STATE, crate::train::BEST, crate::train::LOG] {
        fs::write(dir.path().join(name), "hours of work").expect("written");
    }
    claim("--method remix", dir.path(), false).expect("the same run goes on");
    assert_eq!(fs::read_to_string(dir.path().join(STATE)).expect("read"), "hours of work");
}
