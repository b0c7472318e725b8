//! Tests `report table`: the numbers in its files, what it refuses to average, and bad input.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Sandbox, edit, refused, seal};
use crate::fabricate::{Evaluation, evaluations, paper, resnet20, three_seeds, untrained};
use crate::figure_inputs::evaluation;

#[test]
fn the_four_files() {
    let mut all = three_seeds();
    all.push(Evaluation {
        method: "erm",
        dataset: "cifar100",
        imb_type: "step",
        imb_ratio: 10.0,
        with: paper(),
        ..Evaluation::default()
    });
    all.push(Evaluation { method: "remix-rs", imb_ratio: 10.0, with: paper(), ..Evaluation::default() });
    let s = evaluations(&all);
    let output =
        s.tool("report", "table m/0 m/1 m/2 m/3 m/4 --out t").assert().success().get_output().clone();
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(m["kind"], "report");
    let roles: Vec<_> =
        m["outputs"].as_array().unwrap().iter().map(|o| o["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["markdown", "csv", "latex", "json"]);
    let inputs = m["inputs"].as_array().unwrap();
    assert!(inputs.len() == 5 && inputs.iter().all(|i| i["role"] == "metrics"));
    let read = |name: &str| fs::read_to_string(s.join("t").join(name)).unwrap();

    let md = read("table.md");
    assert!(String::from_utf8(output.stderr).unwrap().contains(&md), "shown on stderr");
    assert!(
        md.contains("## CIFAR-10, last epoch (Table 1 of the reproduction report)\n")
            && md.contains("## CIFAR-100, last epoch (Table 2 of the reproduction report)\n"),
        "{md}"
    );
    // Only the rows and the line above them state settings.
    let usual = "Unless the table says otherwise, runs have resnet32, 300 epochs, batch size 128 and the recipe report.";
    assert!(md.contains(usual), "{md}");
    let above =
        "mean ± standard deviation over seeds (number of seeds). All rows: recipe paper.\n\n| Method |";
    assert!(md.contains(above), "{md}");
    let row = "| Remix | 75.10 ± 1.01 (3) | 75.36 | -0.26 | 75.05 | — | 88.15 | — | 89.16 |\n";
    assert!(md.contains(row) && md.contains("- —: no run of this method on this data was given."), "{md}");
    assert!(md.contains("| Method | step 10 | paper | Δ |\n"), "columns without runs are left out: {md}");
    assert!(md.contains("| ERM | 75.00 (1) | 54.74 | +20.26 |\n"), "{md}");

    let csv = read("table.csv");
    assert!(
        csv.contains(
            "1,cifar10,last,remix,recipe paper,exp,100,3,3,75.10,1.01,75.36,paper,same,-0.26,75.05,,,,,,,,\n"
        ),
        "{csv}"
    );
    let missing = "1,cifar10,last,remix,recipe paper,exp,10,0,0,,,88.15,paper,same,,89.16,,,,,,,,\n";
    assert!(csv.contains(missing), "{csv}");
    assert_eq!(csv.lines().count(), 1 + 4 + 1);

    let tex = read("table.tex");
    assert!(tex.contains("Remix & $75.10 \\pm 1.01$ (3) & 75.36 & $-0.26$ & 75.05 & -- & 88.15"), "{tex}");
    assert_eq!(tex.matches('{').count(), tex.matches('}').count(), "{tex}");
    assert!(tex.contains("\nMethod & reproduced & paper & "), "{tex}");
    // A row has as many fields as there are columns declared.
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
    let s = evaluations(&three_seeds());
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
    let s = evaluations(&[
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
    for variant in ["10 epochs", "resnet20", "tau 0.3", "recipe paper", "milestone 100", "future-option 7"] {
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
    let s = evaluations(&three_seeds());
    // Pretend that the official file of the third run had another pixel.
    edit(&s.join("m/2"), |v| {
        for i in [json!("/inputs/0/inputs/0"), json!("/inputs/1")] {
            let dataset = v.pointer_mut(i.as_str().unwrap()).unwrap();
            dataset["blake3"] = json!("0123456789abcdef");
            dataset["inputs"] = json!([{"role": "file", "path": "a", "blake3": "f00"}]);
        }
    });
    s.one("report", "table m/0 m/1 m/2 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains(") | 75.30 (1) |\n"), "{md}");
    assert!(
        !md.contains("paper |") && md.contains("Published values are not shown beside runs with images "),
        "{md}"
    );
    assert!(md.contains(" (2) |") && md.matches("| Remix (images ").count() == 2, "{md}");

    // Images that were chosen by other params are distinguished by those params alone.
    edit(&s.join("m/2"), |v| {
        for dataset in ["/inputs/0/inputs/0", "/inputs/1"] {
            v.pointer_mut(dataset).unwrap()["params"]["rand_number"] = json!(1);
        }
    });
    s.one("report", "table m/0 m/1 m/2 --out other -q");
    let md = fs::read_to_string(s.join("other/table.md")).unwrap();
    assert!(
        md.contains("| Remix | 75.00 ± 1.41 (2) | 75.36 |")
            && md.contains("| Remix (rand-number 1) | 75.30 (1) |"),
        "{md}"
    );

    // Unpublished images have no published value beside them, even alone. The same images in other shards and
    // files count as the same.
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
    for (args, row) in
        [("m/0", "| Remix | 74.00 (1) |\n"), ("m/1 m/2", "| Remix | 75.65 ± 0.49 (2) | 75.36 |")]
    {
        s.one("report", &format!("table {args} --out {} -q", &args[2..3]));
        let md = fs::read_to_string(s.join(&args[2..3]).join("table.md")).unwrap();
        assert!(md.contains(row), "{row} in {md}");
        assert_eq!(
            md.contains("All rows: images not the published ones, recipe paper."),
            args == "m/0",
            "{md}"
        );
    }
}

#[test]
fn our_own_four_runs_stand_in_one_cell() {
    // The evaluation of the run on a GPU, and what the same tool gives for the three others.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results/table1-gpu/eval-last.jsonl");
    let text = fs::read_to_string(file).unwrap();
    let is_it = |v: &Value| v["inputs"][0]["key"].as_str().unwrap().starts_with("8aba99a50e1a");
    let gpu: Value = text.lines().map(|l| serde_json::from_str(l).unwrap()).find(is_it).unwrap();
    let run = |seed: u64, top1: f64, weights: &str, by: Option<&str>, version: u64| {
        let mut v = gpu.clone();
        let checkpoint = &mut v["inputs"][0];
        checkpoint["params"]["seed"] = json!(seed);
        checkpoint["blake3"] = json!(weights);
        if let Some(by) = by {
            checkpoint["facts"] = json!({"computed_by": by});
        }
        if version > 1 {
            checkpoint["facts"]["semantics"] = json!(version);
        }
        v["metrics"]["top1"] = json!(top1);
        seal(&mut v);
        format!("{v}\n")
    };
    let s = Sandbox::new();
    let own = gpu["inputs"][0]["blake3"].as_str().unwrap();
    let all = [
        format!("{gpu}\n"),
        run(0, 74.82, "aaaa", Some("amx"), 1),
        run(1, 67.33, "bbbb", Some("avx512"), 1),
        run(0, 73.27, "cccc", None, 1),
    ];
    fs::write(s.join("all.json"), all.concat()).unwrap();
    s.one("report", "table all.json --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    // statistics.mean and stdev of [74.82, 67.33, 66.80, 73.27].
    assert!(md.contains("| Remix-RW | 70.55 ± 4.09 (4 runs of 2 seeds) | 75.10‡ | 74.56 |"), "{md}");
    assert!(md.contains("All rows: bf16.") && md.contains("over runs (number of runs"), "{md}");
    assert!(!md.contains("by version 1 of train"), "{md}");
    let json: Value = serde_json::from_str(&fs::read_to_string(s.join("t/table.json")).unwrap()).unwrap();
    let values = json["cells"][0]["values"].as_array().unwrap();
    let told: Vec<_> =
        values.iter().map(|v| json!([v["seed"], v["computed_by"], v["top1"], v["semantics"]])).collect();
    let wanted = [
        json!([0, null, 66.8, 1]),
        json!([0, null, 73.27, 1]),
        json!([0, "amx", 74.82, 1]),
        json!([1, "avx512", 67.33, 1]),
    ];
    assert!(told.len() == 4 && wanted.iter().all(|w| told.contains(w)), "{told:?}");
    assert!(values.iter().any(|v| v["weights"] == own));
    assert!(fs::read_to_string(s.join("t/table.csv")).unwrap().contains(",exp,100,4,2,70.5"));
    assert!(fs::read_to_string(s.join("t/table.tex")).unwrap().contains("$ (4 runs of 2 seeds)"));
    s.one("report", "html all.json -o h/a.html -q");
    let page = fs::read_to_string(s.join("h/a.html")).unwrap();
    for part in [
        "4 evaluations of 4 runs on 1 training set",
        "n = 4 runs of 2 seeds",
        "<td>avx512</td>",
        "All rows: bf16.",
    ] {
        assert!(page.contains(part), "{part}");
    }
    s.one("report", "figure --kind confusion all.json -o f/a.svg -q");
    assert!(fs::read_to_string(s.join("f/a.svg")).unwrap().contains("mean of 4 runs of 2 seeds"));

    // Another evaluation of the first run, by a later version that records what computed it, does not count
    // as another run.
    let again = run(0, 66.81, own, Some("cuda:0 NVIDIA H200"), 1);
    let newer = run(1, 70.0, "dddd", Some("avx512"), 2);
    fs::write(s.join("more.json"), all.concat() + &again + &newer).unwrap();
    s.one("report", "table more.json --out more -q");
    let md = fs::read_to_string(s.join("more/table.md")).unwrap();
    assert!(md.contains("(5 runs of 2 seeds)"), "{md}");
    assert!(
        md.contains("- 4 of these 5 runs were trained by version 1 of train, the others by a later one. "),
        "{md}"
    );
    assert!(md.contains("though some differ: by up to 0.01 percentage points"), "{md}");
    let json = fs::read_to_string(s.join("more/table.json")).unwrap();
    assert!(json.contains("cuda:0 NVIDIA H200") && json.contains("66.81"), "the one that says most");
    s.one("report", "html more.json -o hm/a.html -q");
    assert!(fs::read_to_string(s.join("hm/a.html")).unwrap().contains("5 evaluations of 5 runs"));
}

/// Publishes an evaluation of a bare file, as `eval` would, with the file's path and hash and its top-1
/// accuracy.
fn bare(dir: &Path, file: &Path, hash: &str, top1: f64) {
    evaluation(dir, &Evaluation { which: "file", top1, ..Evaluation::default() });
    edit(dir, |v| {
        v["inputs"][0] = json!({"role": "checkpoint", "path": file, "blake3": hash});
    });
}

#[test]
fn bare_files_of_one_name_are_rows_of_their_own() {
    for (other, out) in [(75.0, "equal"), (60.0, "unequal")] {
        let s = Sandbox::new();
        bare(&s.join("m/0"), Path::new("../../a/ckpt.best.safetensors"), "0123456789abcdef", 75.0);
        bare(&s.join("m/1"), Path::new("../../b/ckpt.best.safetensors"), "fedcba9876543210", other);
        let m = s.one("report", &format!("table m/0 m/1 --out {out} -q"));
        let names = json!({"0123456789abcdef": "weights a/ckpt.best.safetensors", "fedcba9876543210": "weights b/ckpt.best.safetensors"});
        assert_eq!(m["params"]["names"], names, "names follow from paths, so the key has them");
        let md = fs::read_to_string(s.join(out).join("table.md")).unwrap();
        assert!(md.contains("| weights a/ckpt.best.safetensors | 75.00 (1) |"), "{md}");
        assert!(md.contains(&format!("| weights b/ckpt.best.safetensors | {other:.2} (1) |")), "{md}");
        s.one("report", &format!("figure --kind per-class m/0 m/1 -o {out}-f/a.svg -q"));
        let svg = fs::read_to_string(s.join(format!("{out}-f/a.svg"))).unwrap();
        assert!(
            svg.contains(">weights a/ckpt.best.safetensors<")
                && svg.contains(">weights b/ckpt.best.safetensors<")
        );
        s.one("report", &format!("html m/0 m/1 -o {out}-h/a.html -q"));
        let page = fs::read_to_string(s.join(format!("{out}-h/a.html"))).unwrap();
        for part in [
            "2 evaluations of 2 runs",
            "<td>weights a/ckpt.best.safetensors</td>",
            "<figcaption>Confusion matrix of weights b/ckpt.best.safetensors.",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }
    // The same file twice is one row.
    let s = Sandbox::new();
    bare(&s.join("m/0"), Path::new("../../a/ckpt.best.safetensors"), "0123456789abcdef", 75.0);
    bare(&s.join("m/1"), Path::new("../../b/ckpt.best.safetensors"), "0123456789abcdef", 75.0);
    let m = s.one("report", "table m/0 m/1 --out t -q");
    assert!(m["params"]["names"].is_null());
    assert!(
        fs::read_to_string(s.join("t/table.md"))
            .unwrap()
            .contains("| weights ckpt.best.safetensors | 75.00 (1) |")
    );
}

#[test]
fn bare_files_of_one_name_from_eval_to_the_table() {
    let s = Sandbox::new();
    s.one(
        "mk-imbalance",
        "--dataset synthetic --train-per-class 4 --test-per-class 2 --imb-ratio 2 --out data -q",
    );
    for (n, dir) in ["a", "b"].into_iter().enumerate() {
        fs::create_dir(s.join(dir)).unwrap();
        fs::write(s.join(dir).join("ckpt.best.safetensors"), resnet20(10, n as u64)).unwrap();
    }
    let found =
        s.run("eval", "a/ckpt.best.safetensors b/ckpt.best.safetensors --arch resnet20 --data data -q");
    let paths: Vec<&str> = found.iter().map(|m| m["path"].as_str().unwrap()).collect();
    s.one("report", &format!("table {} --out t -q", paths.join(" ")));
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    for row in ["| weights a/ckpt.best.safetensors |", "| weights b/ckpt.best.safetensors |"] {
        assert!(md.contains(row), "{md}");
    }
}

#[test]
fn what_computed_a_checkpoint_is_a_fact_of_its_evaluation() {
    let s = untrained();
    let mut keys = vec![];
    for (run, version, facts) in [
        (json!({}), 1, json!(null)),
        (json!({"device": "cuda:0 NVIDIA H200"}), 1, json!({"computed_by": "cuda:0 NVIDIA H200"})),
        (
            json!({"device": "cpu", "instruction_set": "amx"}),
            2,
            json!({"computed_by": "amx", "semantics": 2}),
        ),
    ] {
        edit(&s.join("run"), |v| {
            v["run"] = run;
            v["semantics"] = json!(version);
        });
        let m = s.one("eval", "run --force --out m -q");
        assert_eq!(m["inputs"][0]["facts"], facts);
        keys.push(m["key"].clone());
    }
    assert!(keys.iter().all(|k| *k == keys[0]), "facts are in no key: {keys:?}");
    // Without the fact it is the same evaluation, so the cache answers.
    edit(&s.join("run"), |v| v["run"] = json!({}));
    assert_eq!(s.one("eval", "run --out m -q")["inputs"][0]["facts"]["computed_by"], "amx");
}

#[test]
fn old_and_new_manifests_share_a_row() {
    let s = evaluations(&three_seeds());
    edit(&s.join("m/1"), |v| v["inputs"][0]["facts"] = json!({"computed_by": "avx512"}));
    edit(&s.join("m/2"), |v| v["inputs"][0]["facts"] = json!({"computed_by": "avx512", "semantics": 2}));
    s.one("report", "table m/0 m/1 m/2 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains("| Remix | 75.10 ± 1.01 (3) | 75.36 | -0.26 |"), "{md}");
    assert!(md.contains("- 2 of these 3 runs were trained by version 1 of train"), "{md}");
}

#[test]
fn names_from_outside_cannot_become_markup() {
    let s = Sandbox::new();
    let name = "<img src=x>\n|x|\u{1b}[31m [a](http:b) \\input{c}.safetensors";
    bare(&s.join("m/0"), &Path::new("..").join(name), "0123", 75.0);
    edit(&s.join("m/0"), |v| {
        let params = &mut v["inputs"][1]["params"];
        params["dataset"] = json!("<b>da\nta</b>_$x$");
        params["imb_type"] = json!("e\n|<i>");
    });
    let said = s.said("report", "table m/0 --out t", 0);
    assert!(!said.contains('\x1b'), "no control characters reach the terminal");
    let read = |name: &str| fs::read_to_string(s.join("t").join(name)).unwrap();
    let md = read("table.md");
    assert!(
        !md.contains("<img") && !md.contains("<b>") && !md.contains("<i>") && md.contains("[a\\](http"),
        "{md}"
    );
    // Three separators: the row has as many fields as the table's two columns.
    let rows: Vec<&str> = md.lines().filter(|l| l.starts_with("| weights")).collect();
    assert!(!rows.is_empty() && rows[0].replace("\\|", "").matches('|').count() == 3, "{md}");
    assert!(md.lines().next().unwrap().starts_with("## &lt;b>da ta&lt;/b>\\_\\$x\\$, weights"), "{md}");
    let csv = read("table.csv");
    assert_eq!(csv.lines().count(), 2, "{csv}");
    let tex = read("table.tex");
    assert!(!tex.contains("\\input{") && tex.contains("\\textbackslash{}input\\{c\\}"), "{tex}");
    let label = tex.lines().find(|l| l.starts_with("\\label")).unwrap();
    assert_eq!(label, "\\label{tab:-b-da-ta--b---x--file}");
    s.one("report", "html m/0 -o h/a.html -q");
    let page = fs::read_to_string(s.join("h/a.html")).unwrap();
    assert!(!page.contains("<img") && !page.contains("<b>da ta") && !page.contains("<i>"), "escaped");
    s.one("report", "figure --kind per-class m/0 -o f/a.svg -q");
    let svg = fs::read_to_string(s.join("f/a.svg")).unwrap();
    assert!(!svg.contains("<img") && !svg.contains('\u{1b}'), "{svg}");
}

#[test]
fn numbers_that_were_edited_are_refused() {
    let s = evaluations(&[Evaluation::default()]);
    let file = s.join("m/0/manifest.json");
    let good = fs::read_to_string(&file).unwrap();
    for (from, to, why) in [
        ("\"epochs\": 300", "\"epochs\": 3", "its params, lineage, outputs or metrics do not match"),
        ("75.0", "99.9", "its params, lineage, outputs or metrics do not match its digest"),
        ("\"last\"", "\"best\"", "its key does not match its params and inputs"),
    ] {
        fs::write(&file, good.replace(from, to)).unwrap();
        refused(s.tool("report", "table m/0 --out t").assert(), &format!("m/0/manifest.json: {why}"));
    }
}

#[test]
fn other_data_sets_have_no_paper_columns() {
    let s = evaluations(&[Evaluation { dataset: "synthetic", imb_ratio: 20.0, ..Evaluation::default() }]);
    s.one("report", "table m/0 --out t -q");
    let md = fs::read_to_string(s.join("t/table.md")).unwrap();
    assert!(md.contains("## Synthetic, last epoch") && md.contains("| Method | exp 20 |\n"), "{md}");
    assert!(!md.contains("paper"), "{md}");
}

#[test]
fn copies_count_once_and_other_weights_of_a_seed_are_another_run() {
    let s = evaluations(&[
        Evaluation::default(),
        Evaluation::default(),
        Evaluation { top1: 76.0, ..Evaluation::default() },
    ]);
    s.one("report", "table m/0 m/1 --out t -q");
    assert!(fs::read_to_string(s.join("t/table.md")).unwrap().contains("75.00 (1)"));
    edit(&s.join("m/2"), |v| v["inputs"][0]["blake3"] = json!("others"));
    s.one("report", "table m/0 m/1 m/2 --out two -q");
    let md = fs::read_to_string(s.join("two/table.md")).unwrap();
    assert!(md.contains("| Remix | 75.50 ± 0.71 (2 runs of 1 seed) |"), "{md}");
}

#[test]
fn copied_manifests_are_enough() {
    let s = evaluations(&three_seeds());
    // One file with three manifests, whose directories are gone.
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
    let s = evaluations(&three_seeds());
    let made = s.one("report", "table m/0 m/1 --out t -q");
    assert_eq!(s.one("report", "table m/0 m/1 --out t -q"), made);
    s.one("report", "table m/0 m/1 --out t -q --verify");
    fs::write(s.join("t/table.csv"), "forged").unwrap();
    s.tool("report", "table m/0 m/1 --out t -q --verify").assert().code(1);
    assert_ne!(s.one("report", "table m/0 m/1 m/2 --out t -q")["key"], made["key"]);
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let s = evaluations(&[Evaluation::default()]);
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
        (good[..good.len() / 2].into(), "not a manifest: it ends early (line "),
        (with(&|v| v["schema"] = json!("remix.manifest/9")), "has schema remix.manifest/9, not"),
        (with(&|v| v["kind"] = json!("checkpoint")), "is a checkpoint manifest, but report takes metrics"),
        (with(&|v| v["metrics"] = json!({})), "metrics.top1 is not a percentage"),
        (with(&|v| v["metrics"]["top1"] = json!(1e9)), "metrics.top1 is not a percentage"),
        (with(&|v| v["inputs"] = json!([])), "no checkpoint in its lineage"),
        (with(&|v| v["inputs"][0]["params"] = json!({})), "params name no method"),
        (
            with(&|v| v["inputs"][0]["inputs"][0]["params"] = json!({})),
            "have no `dataset`, or an imb_type without imb_ratio",
        ),
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
