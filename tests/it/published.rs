//! Tests the published values that `report table` shows beside measured ones.

use std::fs;
use std::path::Path;

use remix::methods::presets::preset;
use serde_json::{Value, json};

use crate::common::{Sandbox, edit, refused};
use crate::fabricate::{Evaluation, evaluations, paper, three_seeds};

#[test]
fn other_peoples_values_stand_beside_ours() {
    let s = evaluations(&three_seeds());
    let published = |text: &str| fs::write(s.join("p.json"), text).unwrap();
    let table = |schedule: &str| {
        format!(
            r#"{{"sources": {{"ours": "Doe et al., Table 3"}}, "tables": [{{"source": "ours", "table": "3",
            "arch": "resnet32", "schedule": {schedule}, "rows": {{"remix": {{"cifar10/exp/100": 74.25}}}}}}]}}"#
        )
    };
    published(&table(r#"{"epochs": 300, "milestones": [150, 250]}"#));
    let shown = |flags: &str| s.printed("report", &format!("table m/0 m/1 m/2 --format md {flags}"));
    let md = shown("--published p.json");
    assert!(md.contains("| 74.25* |") && md.contains("*: Doe et al., Table 3."), "{md}");
    assert!(md.contains("Δ"), "the schedule is the same: {md}");
    assert!(!shown("").contains("74.25"));
    let [own, given] = ["", "--published p.json"]
        .map(|flags| s.one("report", &format!("table m/0 m/1 m/2 --dry-run -q {flags}"))["key"].clone());
    assert_ne!(own, given, "they change the result");
    let not_read = |why: &str| {
        refused(s.tool("report", "table m/0 --format md --published p.json").assert(), why);
    };
    published("{");
    not_read("--published p.json: is not in the format of published.json: it ends early (line 1)");
    published("[]");
    not_read("p.json: is not in the format of published.json: expected an object (line 1, column 2)");
    published(&table(r#"{"epochs": 300, "milestones": []}"#).replace(r#""ours": "Doe"#, r#""others": "Doe"#));
    not_read("`sources` has no \"ours\"");
    published(&table(r#"{"epochs": 300, "milestones": []}"#).replace("ours", "paper"));
    not_read("has the name of a built-in source");
    fs::remove_file(s.join("p.json")).unwrap();
    not_read("--published p.json: No such file");
}

#[test]
fn published_values_stand_beside_the_published_setting_alone() {
    let with = |with| Evaluation { with, ..Evaluation::default() };
    let s = evaluations(&[
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
    assert!(!md.contains('‡'), "{md}");
}

#[test]
fn a_difference_stands_beside_runs_of_the_published_schedule_alone() {
    let own = json!({"recipe": "custom", "epochs": 200, "warmup": 5, "milestones": [161, 161, 181, 181]});
    let mut deferred = own.clone();
    deferred["rule_from"] = 161.into();
    let of = |method, with| Evaluation { method, with, ..Evaluation::default() };
    let s = evaluations(&[
        of("ldam-drw", json!({})),
        of("ldam-drw", paper()),
        of("ldam-drw", deferred),
        of("rw", json!({})),
        of("rw", own),
    ]);
    s.one("report", "table m/0 m/1 m/2 m/3 m/4 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    for row in [
        "| LDAM-DRW | 75.00 (1) | 76.57‡ | — |",
        "| LDAM-DRW (recipe paper) | 75.00 (1) | 76.57 | -1.57 |",
        "| LDAM-DRW (200 epochs, milestones 161, 161, 181 and 181, rule-from 161, warmup 5) | 75.00 (1) | 77.03† | -2.03 |",
        "| RW | 75.00 (1) | 72.37†‡ | — |",
        "| RW (200 epochs, milestones 161, 161, 181 and 181, warmup 5) | 75.00 (1) | 72.37† | +2.63 |",
        "- ‡: published for a schedule other than that of these runs (200 epochs, warm-up 5, milestones 161, \
         161, 181 and 181, a deferred rule from 161; 300 epochs, milestones 150 and 250), so there is no Δ.",
    ] {
        assert!(md.contains(row), "{row} in {md}");
    }
    let tex = fs::read_to_string(s.join("t/table.tex")).unwrap();
    assert!(tex.contains("LDAM-DRW & 75.00 (1) & 76.57$^\\ddagger$ & -- \\\\"), "{tex}");
    s.one("report", "html m/0 m/1 m/2 m/3 m/4 -o h/a.html -q");
    let page = fs::read_to_string(s.join("h/a.html")).unwrap();
    assert!(
        page.contains(">76.57‡</td><td>—</td>") && page.contains("published setting is uncertain: 2."),
        "with its mark"
    );
}

/// Returns a method of published.json as its base name and the params of its preset with the options applied,
/// such as those of `focal(gamma=1.0)`.
fn published_method(name: &str) -> (&str, Value) {
    let (base, options) = name.trim_end_matches(')').split_once('(').unwrap_or((name, ""));
    let mut with = json!(preset(base).unwrap());
    for (option, value) in options.split(',').filter_map(|o| o.split_once('=')) {
        let part = with.as_object_mut().unwrap().values_mut().find(|part| part.get(option).is_some());
        part.unwrap()[option] = serde_json::from_str(value).unwrap();
    }
    (base, with)
}

#[test]
fn every_published_value_can_be_shown() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/published.json");
    let published: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let mut shown = 0;
    for table in published["tables"].as_array().unwrap() {
        let s = Sandbox::new();
        let mut all = String::new();
        let mut wanted = vec![];
        let rows = table["rows"].as_object().unwrap();
        for (name, column, value) in rows.iter().flat_map(|(name, row)| {
            row.as_object().unwrap().iter().map(move |(c, v)| (name, c, v.as_f64().unwrap()))
        }) {
            let [dataset, imb_type, ratio] = column.split('/').collect::<Vec<_>>()[..] else {
                panic!("{column}")
            };
            let (method, mut with) = published_method(name);
            let schedule = &table["schedule"];
            with["arch"] = table["arch"].clone();
            with["recipe"] = json!("custom");
            for (setting, value) in [
                ("epochs", &schedule["epochs"]),
                ("milestones", &schedule["milestones"]),
                ("warmup", &schedule["warmup"]),
                ("batch_size", &table["batch_size"]),
                ("rule_from", &schedule["rule_from"]),
            ] {
                let applies = setting != "rule_from" || name.ends_with("drw");
                if applies && !value.is_null() {
                    with[setting] = value.clone();
                }
            }
            let imb_ratio = ratio.parse().unwrap();
            let e = Evaluation {
                method,
                dataset,
                imb_type,
                imb_ratio,
                top1: 50.0,
                with,
                ..Evaluation::default()
            };
            let file = e.publish(&s.join(format!("m/{}", wanted.len())));
            all += &fs::read_to_string(file).unwrap();
            let error = table["unit"] == "error";
            wanted.push((name, column, if error { 100.0 - value } else { value }));
        }
        fs::write(s.join("all.json"), all).unwrap();
        s.one("report", "table all.json --out t -q");
        let json: Value = serde_json::from_str(&fs::read_to_string(s.join("t/table.json")).unwrap()).unwrap();
        let md = fs::read_to_string(s.join("t/table.md")).unwrap();
        let cells: Vec<&Value> = json["cells"].as_array().unwrap().iter().filter(|c| c["n"] == 1).collect();
        assert_eq!(cells.len(), wanted.len(), "a cell each");
        for (name, column, value) in wanted {
            let [dataset, imb_type, ratio] = column.split('/').collect::<Vec<_>>()[..] else {
                panic!("{column}")
            };
            let (method, options) = name.trim_end_matches(')').split_once('(').unwrap_or((name, ""));
            let is_it = |c: &&&Value| {
                c["dataset"] == dataset
                    && c["imb_type"] == imb_type
                    && c["imb_ratio"].as_f64() == ratio.parse().ok()
                    && c["method"] == method
                    && c["variant"].as_str().unwrap().contains(&options.replace('=', " "))
            };
            let found: Vec<_> = cells.iter().filter(is_it).collect();
            let cell =
                found.into_iter().max_by_key(|c| c["variant"].as_str().unwrap().contains(options)).unwrap();
            if table["source"] == "seed" {
                assert_eq!(cell["starting_report"], value, "{name} {column}");
            } else {
                let beside = &cell["paper"];
                assert!((beside["value"].as_f64().unwrap() - value).abs() < 1e-9, "{name} {column}: {cell}");
                assert_eq!(beside["source"], table["source"]);
                let comparable = table["doubt"].is_null();
                assert_eq!(
                    (cell["difference"].is_null(), &beside["same_schedule"]),
                    (!comparable, &json!(true))
                );
            }
            assert!(md.contains(&format!("| {value:.2}")), "{name} {column}: {value} in {md}");
            shown += 1;
        }
    }
    assert!(shown > 250, "{shown}");
}

#[test]
fn focal_as_the_guide_has_it_shows_the_papers_values() {
    let (method, with) = published_method("focal(gamma=1.0)");
    let s = evaluations(&[Evaluation { method, with, ..Evaluation::default() }]);
    s.one("report", "table m/0 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains("| Focal (gamma 1.0) | 75.00 (1) | 70.18‡§ |\n"), "{md}");
}
