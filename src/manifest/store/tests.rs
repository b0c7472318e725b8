//! Tests of output directories: what is found again, replaced, removed and waited for.

use serde_json::json;

use super::*;
use crate::manifest::object;

fn plan(dir: &Path, n: i64) -> Plan {
    let params = object(json!({"n": n, "deep": {"m": 1}}));
    Plan::new(Kind::Dataset, 1, params, vec![], |_| dir.to_owned())
}

fn make(plan: &Plan, text: &str) -> Manifest {
    let Claim::Work(w) = plan.claim(false, || ()).expect("claimed") else {
        panic!("the work was already done");
    };
    w.begin(&["a.txt"]).expect("begun");
    w.withdraw().expect("withdrawn");
    write_atomic(&w.dir().join("a.txt"), |f| f.write_all(text.as_bytes())).expect("written");
    let out = Produced { role: "train", name: "a.txt".into(), rows: None };
    w.publish(vec![out], Object::new(), Object::new()).expect("published")
}

#[test]
fn a_result_is_found_again_until_it_is_damaged() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = plan(dir.path(), 1);
    assert!(p.done().is_none());
    let m = make(&p, "hello");
    assert_eq!(p.done().expect("done").key, m.key);
    assert!(plan(dir.path(), 2).done().is_none(), "another key");
    fs::write(dir.path().join("a.txt"), "jello").expect("tampered");
    assert!(p.done().is_none(), "damaged");
    fs::remove_file(dir.path().join("a.txt")).expect("removed");
    assert!(p.done().is_none(), "missing");
}

#[test]
fn manifests_with_outputs_outside_their_directory_are_ignored() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = plan(dir.path(), 1);
    make(&p, "hello");
    let file = dir.path().join(FILE);
    let text = fs::read_to_string(&file).expect("read").replace("a.txt", "../a.txt");
    fs::write(&file, text).expect("written");
    assert!(p.existing().is_none() && p.done().is_none());
}

#[test]
fn explain_names_the_parameter() {
    let dir = tempfile::tempdir().expect("a directory");
    make(&plan(dir.path(), 1), "hello");
    let text = plan(dir.path(), 2).explain();
    assert!(text.contains("params.n: 1 there, 2 requested"), "{text}");
    assert!(!text.contains("deep"), "{text}");
}

#[test]
fn second_process_waits_and_finds_the_result() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = plan(dir.path(), 1);
    let Claim::Work(w) = p.claim(false, || ()).expect("claimed") else {
        panic!("not done yet");
    };
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        let other = s.spawn(|| p.claim(false, || tx.send(()).expect("heard")));
        rx.recv().expect("the other one waits");
        fs::write(dir.path().join("a.txt"), "x").expect("written");
        let out = Produced { role: "train", name: "a.txt".into(), rows: None };
        w.publish(vec![out], Object::new(), Object::new()).expect("published");
        drop(w);
        assert!(matches!(other.join().expect("joined"), Ok(Claim::Done(_))));
    });
}

#[test]
fn results_of_other_tools_are_never_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    make(&plan(dir.path(), 1), "hello");
    let other = Plan { kind: Kind::Metrics, ..plan(dir.path(), 2) };
    for force in [false, true] {
        let e = other.claim(force, || ()).err().expect("refused").to_string();
        assert!(e.contains("holds a data set"), "{e}");
    }
    assert!(plan(dir.path(), 1).done().is_some(), "intact");
}

#[test]
fn foreign_files_are_never_replaced_or_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let begin = |files: &[&str]| {
        let Ok(Claim::Work(w)) = plan(dir.path(), 3).claim(true, || ()) else { panic!("forced") };
        w.begin(files).map(|()| w)
    };
    let unreadable = "is not a manifest that mk-imbalance can read";
    for (foreign, why) in
        [("a.txt", "no readable manifest.json or plan.json lists it"), (FILE, unreadable), (PLAN, unreadable)]
    {
        fs::write(at(foreign), "a thesis").expect("written");
        let e = begin(&["a.txt"]).err().expect("refused").to_string();
        assert!(e.contains(&format!("{foreign}: {why}, so mk-imbalance does not replace it")), "{e}");
        assert_eq!(fs::read_to_string(at(foreign)).expect("read"), "a thesis");
        fs::remove_file(at(foreign)).expect("removed");
    }
    fs::write(at("train-backup.safetensors"), "weights").expect("written");
    fs::write(at(".lock"), "somebody's").expect("written");
    fs::create_dir(at(".tmp-thesis")).expect("made");
    fs::create_dir(at(&format!("{TEMPORARY}killed"))).expect("made");
    make(&plan(dir.path(), 1), "hello");
    assert!(!at(PLAN).exists() && !at(&format!("{TEMPORARY}killed")).exists());
    // Files that the first result had and the second does not have are removed, and so are those that a
    // killed process had listed.
    let w = begin(&["b.txt"]).expect("begun");
    fs::write(at("b.txt"), "half").expect("written");
    drop(w);
    let w = begin(&["c.txt"]).expect("begun");
    w.withdraw().expect("withdrawn");
    fs::write(at("c.txt"), "whole").expect("written");
    let out = Produced { role: "train", name: "c.txt".into(), rows: None };
    w.publish(vec![out], Object::new(), Object::new()).expect("published");
    drop(w);
    let mut left: Vec<_> = fs::read_dir(dir.path()).expect("read").flatten().map(|e| e.file_name()).collect();
    left.sort();
    assert_eq!(left, [".lock", ".tmp-thesis", "c.txt", FILE, "train-backup.safetensors"]);
    assert_eq!(fs::read_to_string(at(".lock")).expect("read"), "somebody's");
}

#[test]
fn files_of_a_result_with_a_damaged_manifest_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = plan(dir.path(), 1);
    make(&p, "hello");
    let manifest = fs::read_to_string(dir.path().join(FILE)).expect("read");
    fs::write(dir.path().join(FILE), &manifest[..100]).expect("written");
    let Ok(Claim::Work(w)) = p.claim(true, || ()) else { panic!("forced") };
    let e = w.begin(&["a.txt"]).expect_err("nothing lists the file").to_string();
    let why = "a.txt: no readable manifest.json or plan.json lists it, so mk-imbalance does not replace it";
    assert!(e.contains(why), "{e}");
    assert_eq!(fs::read_to_string(dir.path().join("a.txt")).expect("read"), "hello");
}

#[test]
fn plan_of_a_killed_process_is_removed_and_a_foreign_one_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let p = plan(dir.path(), 1);
    make(&p, "hello");
    let found = || matches!(p.claim(false, || ()), Ok(Claim::Done(_)));
    for (text, stays) in
        [(serde_json::to_string(&p.manifest()).expect("JSON"), false), ("a thesis".into(), true)]
    {
        fs::write(dir.path().join(PLAN), text).expect("written");
        assert!(found() && dir.path().join(PLAN).exists() == stays);
    }
}

#[test]
fn plan_cannot_remove_files_outside_its_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let (inner, outer) = (dir.path().join("d"), dir.path().join("thesis.tex"));
    fs::write(&outer, "a thesis").expect("written");
    let p = plan(&inner, 1);
    let Ok(Claim::Work(w)) = p.claim(false, || ()) else { panic!("nothing is there yet") };
    w.begin(&["b.txt"]).expect("begun");
    fs::write(inner.join("b.txt"), "half").expect("written");
    drop(w);
    let text = fs::read_to_string(inner.join(PLAN)).expect("read");
    fs::write(inner.join(PLAN), text.replace("b.txt", "../thesis.tex")).expect("written");
    make(&p, "hello");
    assert_eq!(fs::read_to_string(&outer).expect("read"), "a thesis");
}

#[test]
fn bare_file_name_is_in_the_current_directory() {
    let parents = ["manifest.json", "./m.json", "runs/m.json", "/m.json"].map(|p| parent(Path::new(p)));
    assert_eq!(parents, [".", ".", "runs", "/"].map(Path::new));
}

#[test]
fn relative_paths() {
    let r = |a: &str, b: &str| file::relative(Path::new(a), Path::new(b)).display().to_string();
    assert_eq!(r("/x/data/m.json", "/x/runs/a"), "../../data/m.json");
    assert_eq!(r("/x/runs/a/m.json", "/x/runs/a"), "m.json");
}
