//! Tests the Makefile's graph on a small synthetic grid: what runs again, and what does not.

use std::fs;
use std::path::Path;
use std::process::Output;

use assert_cmd::cargo::cargo_bin;

use super::common::{Sandbox, make};

/// Returns the manifests of the two runs that [`table`] trains.
fn runs(out: &Path) -> Vec<String> {
    let mut found: Vec<_> =
        fs::read_dir(out.join("runs")).expect("runs").flatten().map(|e| e.path()).collect();
    found.sort();
    found.iter().map(|dir| fs::read_to_string(dir.join("manifest.json")).expect("a manifest")).collect()
}

/// Runs `make FLAGS table` for ERM and Remix with one epoch and the tools of this build; returns its whole
/// output.
fn table(sandbox: &Sandbox, flags: &str) -> String {
    let tools = cargo_bin("train").parent().expect("a directory").display().to_string();
    let command = format!(
        "make --no-print-directory table OUT='{}' B='{tools}' CARGO=true CELLS=synthetic-exp-100 METHODS='erm remix' \
         ARCH=resnet20 EPOCHS=1 {flags} 2>&1",
        sandbox.path().display()
    );
    let out: Output = make()
        .args(["-c", &command])
        .env("REMIX_CACHE_DIR", sandbox.join("memo"))
        .env("CUDA_VISIBLE_DEVICES", "")
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said}");
    said
}

/// Returns the number of trainings that were started (or would be, with `make -n`) and the number of epochs
/// trained.
fn trained(said: &str) -> (usize, usize) {
    // Each command is first tried.
    let count = |is: fn(&str) -> bool| said.lines().filter(|l| !l.contains("--dry-run") && is(l)).count();
    (count(|l| l.starts_with("train ") || l.contains("/train\" ")), count(|l| l.contains(": epoch 1/1")))
}

#[test]
fn what_is_there_is_not_made_again() {
    let sandbox = Sandbox::new();
    assert_eq!(trained(&table(&sandbox, "-n")), (2, 0));
    let said = table(&sandbox, "-j2");
    assert_eq!(trained(&said), (2, 2), "{said}");
    assert!(said.contains("| Remix"), "the table is shown: {said}");
    let first = runs(sandbox.path());

    // The second time no training is requested, evaluation answers from its cache, and the table is shown.
    assert_eq!(trained(&table(&sandbox, "-n")), (0, 0));
    let said = table(&sandbox, "");
    assert_eq!(trained(&said), (0, 0));
    assert!(said.contains("| Remix") && !said.contains("top-1 "), "{said}");

    // After a data set is touched, `train` is asked once and nothing changes.
    let touch = |name: &str| {
        let file = fs::File::options().append(true).open(sandbox.join(name)).expect(name);
        file.set_modified(std::time::SystemTime::now()).expect("touched");
    };
    touch("data/synthetic-exp-100/manifest.json");
    touch("data/synthetic-exp-100/train-00000.safetensors");
    assert_eq!(trained(&table(&sandbox, "")), (2, 0));
    assert_eq!(trained(&table(&sandbox, "-n")), (0, 0));
    assert_eq!(runs(sandbox.path()), first);

    // Other settings are other runs.
    for other in ["EPOCHS=2", "RECIPE=paper", "SEEDS=1-2", "FLAGS=batch-size=64", "ARCH=resnet32"] {
        let wanted = if other.starts_with("SEEDS") { 4 } else { 2 };
        assert_eq!(trained(&table(&sandbox, &format!("-n {other}"))), (wanted, 0), "{other}");
    }

    // A deleted data set is made again with the same content; the runs stay.
    fs::remove_dir_all(sandbox.join("data")).expect("removed");
    assert_eq!(trained(&table(&sandbox, "")), (2, 0));
    assert_eq!(runs(sandbox.path()), first);
}

#[test]
fn a_table_of_nothing_is_an_error_before_any_work() {
    let sandbox = Sandbox::new();
    let make = |flags: &str| {
        let out = sandbox.path().display();
        let command =
            format!("make --no-print-directory OUT='{out}' DATA='{out}' B=/nowhere CARGO=true {flags} 2>&1");
        let out = make().args(["-c", &command]).output().expect("bash");
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    for (flags, why) in [
        ("table SEEDS=4-0", "SEEDS=4-0: \"4-0\" is neither a seed nor an ascending range"),
        ("table SEEDS=abc", "\"abc\" is neither a seed"),
        ("table SEEDS=0,1-x", "\"1-x\" is neither a seed"),
        ("table SEEDS=1-2-3", "\"1-2-3\" is neither a seed"),
        ("table SEEDS=-1", "\"-1\" is neither a seed"),
        ("table SEEDS=", "SEEDS is empty"),
        ("page METHODS=", "METHODS is empty"),
        ("tsne CELLS=", "CELLS is empty"),
        ("table CELLS=nonsense", "\"nonsense\" is no data set"),
        ("table CELLS='cifar10-exp-10 cifar10-long-10'", "\"cifar10-long-10\" is no data set"),
        ("demo SEEDS=4-0", "\"4-0\" is neither a seed"),
        ("reproduce-table1 METHOD=erm", "there is no variable METHOD; the variables are METHODS SEEDS"),
        ("demo SPLIT=vall", "SPLIT=vall: write test or val"),
    ] {
        let (success, said) = make(flags);
        assert!(!success && said.contains(why), "{flags}: {said}");
    }
    assert_eq!(fs::read_dir(sandbox.path()).expect("there").count(), 0, "nothing was made");
}

#[test]
fn a_downloaded_archive_is_named_once() {
    let sandbox = Sandbox::new();
    let out = sandbox.path().display();
    // Both downloads are complete, and with this md5sum the checksum of a file is its content.
    let archives = [
        ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ];
    for (name, sum) in archives {
        fs::write(sandbox.join(format!("{name}.part")), sum).expect("written");
    }
    let command = format!(
        "md5sum() {{ cat; }}; export -f md5sum; \
         make --no-print-directory data DATA='{out}' OUT='{out}' CARGO=true"
    );
    let made = make().args(["-c", &command]).output().expect("bash");
    let expected: String = archives.iter().map(|(name, _)| format!("{out}/{name}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&made.stdout), expected);
}
