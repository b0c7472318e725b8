//! `report table`: the numbers in its files, what it refuses to average, and bad input.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Sandbox, edit, refused, seal};
use crate::fabricate::Evaluation;

/// Publishes evaluations as `m/0`, `m/1`, ….
fn prepared(all: &[Evaluation]) -> Sandbox {
    let s = Sandbox::new();
    for (n, e) in all.iter().enumerate() {
        e.publish(&s.join(format!("m/{n}")));
    }
    s
}

fn three_seeds() -> Vec<Evaluation<'static>> {
    let seed = |(seed, top1)| Evaluation { seed, top1, ..Evaluation::default() };
    [(0, 74.0), (1, 76.0), (2, 75.3)].into_iter().map(seed).collect()
}

#[test]
fn the_four_files() {
    let mut all = three_seeds();
    all.push(Evaluation {
        method: "erm",
        dataset: "cifar100",
        imb_type: "step",
        imb_ratio: 10.0,
        ..Evaluation::default()
    });
    let s = prepared(&all);
    let output = s.tool("report", "table m/0 m/1 m/2 m/3 --out t").assert().success().get_output().clone();
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(m["kind"], "report");
    let roles: Vec<_> =
        m["outputs"].as_array().unwrap().iter().map(|o| o["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["markdown", "csv", "latex", "json"]);
    let inputs = m["inputs"].as_array().unwrap();
    assert!(inputs.len() == 4 && inputs.iter().all(|i| i["role"] == "metrics"));
    let read = |name: &str| fs::read_to_string(s.join("t").join(name)).unwrap();

    let md = read("table.md");
    assert!(String::from_utf8(output.stderr).unwrap().contains(&md), "shown on stderr");
    assert!(
        md.contains("## Table 1. CIFAR-10, last epoch") && md.contains("## Table 2. CIFAR-100, last epoch"),
        "{md}"
    );
    let row = "| Remix | 75.10 ± 1.01 (3) | 75.36 | -0.26 | 75.05 | — | 88.15 | — | 89.16 | — | 68.98 | — | 69.04 |";
    assert!(md.contains(row), "{md}");
    assert!(
        md.contains("| ERM | — | 40.12 | — | — | 56.77 | — | — | 40.13 | — | 75.00 (1) | 54.74 | +20.26 |"),
        "{md}"
    );

    let csv = read("table.csv");
    assert!(
        csv.contains("1,cifar10,last,remix,,exp,100,3,75.10,1.01,75.36,paper,-0.26,75.05,,,,,,,\n"),
        "{csv}"
    );
    assert!(csv.contains("1,cifar10,last,remix,,exp,10,0,,,88.15,paper,,89.16,,,,,,,\n"), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 8);

    let tex = read("table.tex");
    assert!(tex.contains("Remix & $75.10 \\pm 1.01$ (3) & 75.36 & $-0.26$ & 75.05 & -- & 88.15"), "{tex}");
    assert_eq!(tex.matches('{').count(), tex.matches('}').count(), "{tex}");
    // As many fields in a row as the columns that are declared.
    let fields = tex.lines().find(|l| l.starts_with("Remix")).unwrap().matches(" & ").count();
    assert!(tex.contains(&format!("\\begin{{tabular}}{{l{}}}", "r".repeat(fields))), "{tex}");

    let json: Value = serde_json::from_str(&read("table.json")).unwrap();
    let cell = &json["cells"][0];
    assert_eq!((&cell["n"], &cell["values"][2]["top1"]), (&json!(3), &json!(75.3)));
    let key =
        serde_json::from_str::<Value>(&fs::read_to_string(s.join("m/0/manifest.json")).unwrap()).unwrap();
    assert_eq!(cell["values"][0]["metrics"], key["key"]);
    assert!((cell["std"].as_f64().unwrap() - 1.0148891565092215).abs() < 1e-9);
    assert_eq!(json["cells"][1]["mean"], Value::Null);
}

#[test]
fn the_order_of_arguments_does_not_matter() {
    let s = prepared(&three_seeds());
    let a = s.one("report", "table m/0 m/1 m/2 --out a -q");
    let b = s.one("report", "table m/2 m/0 m/1 m/0 --out b -q");
    assert_eq!((&a["key"], &a["outputs"]), (&b["key"], &b["outputs"]));
    let text = |d: &str| fs::read_to_string(s.join(d).join("manifest.json")).unwrap();
    let inputs = |d| serde_json::from_str::<Value>(&text(d)).unwrap()["inputs"].clone();
    assert_eq!(inputs("a"), inputs("b"));
}

#[test]
fn what_differs_is_not_averaged() {
    let with = |with| Evaluation { with, seed: 1, top1: 50.0, ..Evaluation::default() };
    let s = prepared(&[
        Evaluation::default(),
        with(json!({"epochs": 10, "milestones": [5, 8]})),
        with(json!({"arch": "resnet20"})),
        with(
            json!({"mix": {"name": "remix", "alpha": 1.0, "kappa": 3.0, "tau": 0.3, "lambda_per": "batch"}}),
        ),
        with(json!({"recipe": "paper", "milestones": [150, 250]})),
        with(json!({"recipe": "custom", "milestones": [100]})),
        with(json!({"future_option": 7})),
        Evaluation { which: "best", ..Evaluation::default() },
    ]);
    s.one("report", "table m/0 m/1 m/2 m/3 m/4 m/5 m/6 m/7 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    for variant in ["10 epochs", "resnet20", "tau 0.3", "recipe paper", "milestones [100]", "future_option 7"]
    {
        assert!(md.contains(&format!("| Remix ({variant}) | 50.00 (1) |")), "{variant} in {md}");
    }
    assert!(!md.contains("(2)"), "{md}");
    assert!(md.contains("CIFAR-10, best epoch") && md.contains("CIFAR-10, last epoch"), "{md}");
    let only = s.one("report", "table m/0 m/7 --checkpoint best --out b -q");
    assert_eq!(only["inputs"].as_array().unwrap().len(), 1);
    assert!(!fs::read_to_string(s.join("b/table.md")).unwrap().contains("CIFAR-10, last epoch"));
}

#[test]
fn other_images_are_not_averaged() {
    let s = prepared(&three_seeds());
    // As if another pixel had been in the official file of the third.
    edit(&s.join("m/2"), |v| {
        for i in [json!("/inputs/0/inputs/0"), json!("/inputs/1")] {
            let dataset = v.pointer_mut(i.as_str().unwrap()).unwrap();
            dataset["blake3"] = json!("0123456789abcdef");
            dataset["inputs"] = json!([{"role": "file", "path": "a", "blake3": "f00"}]);
        }
    });
    s.one("report", "table m/0 m/1 m/2 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains(") | 75.30 (1) | — | — |"), "{md}");
    assert!(md.contains(" (2) |") && md.matches("| Remix (images ").count() == 2, "{md}");

    // Images that were chosen otherwise are told by that alone.
    edit(&s.join("m/2"), |v| {
        for dataset in ["/inputs/0/inputs/0", "/inputs/1"] {
            v.pointer_mut(dataset).unwrap()["params"]["rand_number"] = json!(1);
        }
    });
    s.one("report", "table m/0 m/1 m/2 --out other -q");
    let md = fs::read_to_string(s.join("other/table.md")).unwrap();
    assert!(
        md.contains("| Remix | 75.00 ± 1.41 (2) | 75.36 |")
            && md.contains("| Remix (rand_number 1) | 75.30 (1) |"),
        "{md}"
    );

    // Alone, what is not the published images has no published value beside it; other shards and files of the same images are the same.
    let images = |v: &mut Value, official: bool, hash: &str| {
        for dataset in ["/inputs/0/inputs/0", "/inputs/1"] {
            v.pointer_mut(dataset).unwrap()["facts"] =
                json!({"official": official, "images": {"train": hash}});
        }
    };
    edit(&s.join("m/2"), |v| {
        images(v, true, "f00");
        for dataset in ["/inputs/0/inputs/0", "/inputs/1"] {
            v.pointer_mut(dataset).unwrap()["params"]["rand_number"] = json!(0);
        }
    });
    edit(&s.join("m/1"), |v| images(v, true, "f00"));
    edit(&s.join("m/0"), |v| images(v, false, "bad"));
    for (args, row) in [
        ("m/0", "| Remix (images not the published ones) | 74.00 (1) | — | — |"),
        ("m/1 m/2", "| Remix | 75.65 ± 0.49 (2) | 75.36 |"),
    ] {
        s.one("report", &format!("table {args} --out {} -q", &args[2..3]));
        let md = fs::read_to_string(s.join(&args[2..3]).join("table.md")).unwrap();
        assert!(md.contains(row), "{row} in {md}");
    }
}

#[test]
fn published_values_stand_beside_the_published_setting_alone() {
    let with = |with| Evaluation { with, ..Evaluation::default() };
    let s = prepared(&[
        with(json!({"precision": "bf16"})),
        with(json!({"recipe": "paper", "milestones": [150, 250]})),
        with(json!({"epochs": 10, "milestones": [5, 8]})),
        with(json!({"arch": "resnet20"})),
    ]);
    edit(&s.join("m/0"), |v| v["params"]["split"] = json!("train"));
    s.one("report", "table m/0 m/1 m/2 m/3 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains("| Remix (recipe paper) | 75.00 (1) | 75.36 | -0.36 | 75.05 |"), "{md}");
    for other in ["10 epochs", "resnet20", "bf16, split train"] {
        assert!(md.contains(&format!("| Remix ({other}) | 75.00 (1) | — | — | — |")), "{other} in {md}");
    }
}

#[test]
fn numbers_that_were_edited_are_refused() {
    let s = prepared(&[Evaluation::default()]);
    let file = s.join("m/0/manifest.json");
    let good = fs::read_to_string(&file).unwrap();
    for (from, to, why) in [
        ("\"epochs\": 300", "\"epochs\": 3", "its params, lineage, outputs or metrics are not"),
        ("75.0", "99.9", "its params, lineage, outputs or metrics are not those that were published"),
        ("\"last\"", "\"best\"", "its key is not that of its params and inputs"),
    ] {
        fs::write(&file, good.replace(from, to)).unwrap();
        refused(s.tool("report", "table m/0 --out t").assert(), &format!("m/0/manifest.json: {why}"));
    }
}

#[test]
fn other_data_sets_have_no_paper_columns() {
    let s = prepared(&[Evaluation { dataset: "synthetic", imb_ratio: 20.0, ..Evaluation::default() }]);
    s.one("report", "table m/0 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains("## Synthetic, last epoch") && md.contains("| Method | exp 20 |\n"), "{md}");
    assert!(!md.contains("paper"), "{md}");
}

#[test]
fn copies_count_once_and_contradictions_are_errors() {
    let s = prepared(&[Evaluation::default(), Evaluation::default()]);
    s.one("report", "table m/0 m/1 --out t -q");
    assert!(fs::read_to_string(s.join("t/table.md")).unwrap().contains("75.00 (1)"));
    Evaluation { top1: 76.0, ..Evaluation::default() }.publish(&s.join("m/2"));
    let why = "remix on cifar10/exp/100, seed 0, last has top-1";
    refused(s.tool("report", "table m/0 m/2").assert(), why);
}

#[test]
fn copied_manifests_are_enough() {
    let s = prepared(&three_seeds());
    // One file of three manifests, whose directories are gone.
    let all: String =
        (0..3).map(|n| fs::read_to_string(s.join(format!("m/{n}/manifest.json"))).unwrap()).collect();
    let m = s.one("report", "table m/0 m/1 m/2 --out a -q");
    fs::remove_dir_all(s.join("m")).unwrap();
    fs::write(s.join("all.json"), &all).unwrap();
    let from_file = s.one("report", "table all.json --out b -q");
    assert_eq!((&m["key"], &m["outputs"]), (&from_file["key"], &from_file["outputs"]));
    let piped =
        s.tool("report", "table - --out c -q").write_stdin(all).assert().success().get_output().clone();
    assert_eq!(serde_json::from_slice::<Value>(&piped.stdout).unwrap()["key"], m["key"]);
}

#[test]
fn the_cache_answers_and_verifies() {
    let s = prepared(&three_seeds());
    let made = s.one("report", "table m/0 m/1 --out t -q");
    assert_eq!(s.one("report", "table m/0 m/1 --out t -q"), made);
    s.one("report", "table m/0 m/1 --out t -q --verify");
    fs::write(s.join("t/table.csv"), "forged").unwrap();
    s.tool("report", "table m/0 m/1 --out t -q --verify").assert().code(1);
    assert_ne!(s.one("report", "table m/0 m/1 m/2 --out t -q")["key"], made["key"]);
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let s = prepared(&[Evaluation::default()]);
    let good = fs::read_to_string(s.join("m/0/manifest.json")).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut v: Value = serde_json::from_str(&good).unwrap();
        change(&mut v);
        seal(&mut v);
        v.to_string()
    };
    let bad = [
        (String::new(), "stdin: no manifests; pipe eval into this tool"),
        ("{}".into(), "not a manifest"),
        ("[1, 2".into(), "not a manifest"),
        (good[..good.len() / 2].into(), "not a manifest: EOF"),
        (with(&|v| v["schema"] = json!("remix.manifest/9")), "schema remix.manifest/9 is not"),
        (with(&|v| v["kind"] = json!("checkpoint")), "is a checkpoint manifest, report takes metrics"),
        (with(&|v| v["metrics"] = json!({})), "metrics.top1 is no percentage"),
        (with(&|v| v["metrics"]["top1"] = json!(1e9)), "metrics.top1 is no percentage"),
        (with(&|v| v["inputs"] = json!([])), "no checkpoint in its lineage"),
        (with(&|v| v["inputs"][0]["params"] = json!({})), "params name no method"),
        (with(&|v| v["inputs"][0]["inputs"][0]["params"] = json!({})), "lack dataset, imb_type or imb_ratio"),
        (with(&|v| v["params"] = json!({})), "params.which is missing"),
    ];
    for (text, why) in bad {
        refused(s.tool("report", "table").write_stdin(text).assert(), why);
    }
    refused(
        s.tool("report", "table nowhere").assert(),
        "nowhere: there is no such file; pass the manifest.json",
    );
    refused(s.tool("report", "table m/0 --checkpoint best").assert(), "run eval --checkpoint best");
    assert!(!s.join("reports").exists(), "nothing was made");
}

#[test]
fn a_closed_stdout_is_no_error() {
    let s = prepared(&[Evaluation::default()]);
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("report"))
        .args(["table", "m/0", "-q"])
        .current_dir(s.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()));
}
