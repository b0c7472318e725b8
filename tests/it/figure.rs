//! Tests `report figure`: every kind is legible at its size, is the same each time, and reports what is wrong
//! with bad input.

use std::collections::BTreeSet;
use std::fs;

use resvg::usvg::{self, Node};
use serde_json::{Value, json};

use crate::common::{Sandbox, edit, refused};
use crate::fabricate::Evaluation;
use crate::figure_inputs::{COUNTS, checkpoint, dataset, embedding, evaluation, sweep};

/// Makes inputs of every kind for two methods, one of them with two seeds.
fn prepared() -> Sandbox {
    let s = Sandbox::new();
    for (method, seed, top1) in [("mixup", 0, 71.3), ("remix", 0, 75.5), ("remix", 1, 74.9)] {
        evaluation(
            &s.join(format!("m/{method}{seed}")),
            &Evaluation { method, seed, top1, ..Evaluation::default() },
        );
        checkpoint(&s.join(format!("c/{method}{seed}")), method, seed);
    }
    checkpoint(&s.join("c/ldam"), "ldam", 0);
    for method in ["mixup", "remix"] {
        embedding(&s.join(format!("e/{method}")), method, 500, true);
    }
    // A hundred classes; a third of each is predicted as the first.
    evaluation(&s.join("m/many"), &Evaluation::default());
    edit(&s.join("m/many"), |v| {
        let row = |t: usize| (0..100).map(|p| if p == t { 67 } else { 33 * u64::from(p == 0) }).collect();
        let confusion: Vec<Vec<u64>> = (0..100).map(row).collect();
        v["metrics"]["confusion"] = json!(confusion);
        v["metrics"]["per_class"] = json!([67.0; 100].to_vec());
        v["metrics"]["class_names"] = (0..100).map(|k| format!("class {k}")).collect();
        v["metrics"]["cls_num_list"] = (0..100).map(|k| 500 - 4 * k).collect();
    });
    evaluation(&s.join("m/long"), &Evaluation::default());
    edit(&s.join("m/long"), |v| v["metrics"]["class_names"][0] = json!("<&\u{1}".repeat(100)));
    for (name, best) in [("first", 0.0), ("last", 1.0)] {
        evaluation(&s.join(format!("m/{name}")), &Evaluation::default());
        sweep(&s.join(format!("m/{name}")), best);
    }
    dataset(&s.join("d/exp"), "exp", &COUNTS);
    dataset(&s.join("d/step"), "step", &[5000, 5000, 5000, 5000, 5000, 50, 50, 50, 50, 50]);
    dataset(&s.join("d/many"), "exp", &(0..100).map(|k| 500 - 4 * k).collect::<Vec<_>>());
    s
}

/// Draws a figure as `a.svg` in a directory and returns its text.
fn drawn(s: &Sandbox, args: &str, out: &str) -> String {
    s.one("report", &format!("figure {args} -o {out}/a.svg -q"));
    fs::read_to_string(s.join(out).join("a.svg")).unwrap()
}

/// Each kind with its inputs.
const ALL: [(&str, &str); 15] = [
    ("figure1", "e/mixup e/remix"),
    ("figure1", "e/remix"),
    ("confusion", "m/remix0 m/remix1"),
    ("confusion", "m/many"),
    ("confusion", "m/long"),
    ("per-class", "m/many"),
    ("per-class", "m/long"),
    ("per-class", "m/mixup0 m/remix0 m/remix1"),
    ("class-counts", "d/exp"),
    ("class-counts", "d/exp d/step d/many"),
    ("curves", "c/mixup0 c/remix0 c/remix1"),
    ("curves", "c/ldam c/remix0 c/remix1"),
    ("reliability", "m/mixup0 m/remix0 m/remix1"),
    ("sweep", "m/first"),
    ("sweep", "m/last"),
];

fn parse(svg: &str) -> usvg::Tree {
    let mut options = usvg::Options { font_family: "Arimo".into(), ..usvg::Options::default() };
    for font in [remix::report::figure::text::REGULAR, remix::report::figure::text::BOLD] {
        options.fontdb_mut().load_font_data(font.to_vec());
    }
    usvg::Tree::from_str(svg, &options).expect("an SVG")
}

/// Collects the texts of a drawing, each with its bounding box and whether it is rotated.
fn texts(group: &usvg::Group, all: &mut Vec<(String, usvg::Rect, bool)>) {
    for node in group.children() {
        match node {
            Node::Group(g) => texts(g, all),
            Node::Text(t) => {
                let said: String = t.chunks().iter().map(|c| c.text()).collect();
                all.push((said, t.abs_bounding_box(), t.abs_transform().has_skew()));
            }
            _ => {}
        }
    }
}

#[test]
fn every_kind_can_be_read_at_its_size() {
    let s = prepared();
    for (n, (kind, inputs)) in ALL.into_iter().enumerate() {
        let made =
            s.run("report", &format!("figure --kind {kind} {inputs} -o f/{n}/a.svg -o f/{n}/a.png -q"));
        for (m, format) in made.iter().zip(["svg", "png"]) {
            let is = [&m["kind"], &m["params"]["kind"], &m["params"]["format"]];
            assert_eq!(is, [&json!("report"), &json!(kind), &json!(format)]);
        }
        let svg = fs::read_to_string(s.join(format!("f/{n}/a.svg"))).unwrap();
        assert!(svg.contains("width=\"237.6pt\"") && svg.contains("<title>"), "{kind}");
        let small =
            svg.split("font-size=\"").skip(1).map(|t| t[..t.find('"').unwrap()].parse::<f64>().unwrap());
        assert!(
            small.clone().count() > 4 && small.fold(9.0, f64::min) >= 6.0,
            "{kind}: no text under 6 points"
        );

        let tree = parse(&svg);
        let (w, h) = (tree.size().width(), tree.size().height());
        let mut all = vec![];
        texts(tree.root(), &mut all);
        for (i, (text, a, turned)) in all.iter().enumerate() {
            let inside = a.left() >= -0.5 && a.top() >= -0.5 && a.right() <= w + 0.5 && a.bottom() <= h + 0.5;
            assert!(inside, "{kind}: {text} leaves the page: {a:?} of {w} × {h}");
            for (other, b, also) in &all[..i] {
                let apart = a.left() >= b.right()
                    || b.left() >= a.right()
                    || a.top() >= b.bottom()
                    || b.top() >= a.bottom();
                assert!(apart || *turned || *also, "{kind}: {text} and {other} overlap");
            }
        }

        let png = fs::read(s.join(format!("f/{n}/a.png"))).unwrap();
        let decoded = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let info = decoded.info();
        assert_eq!((info.width, info.pixel_dims.map(|d| d.xppu)), (990, Some(11811)), "3.3 in at 300 dpi");
    }
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let s = prepared();
    for (n, (kind, inputs)) in ALL.into_iter().enumerate() {
        let files = |d: &str| ["svg", "png"].map(|e| fs::read(s.join(format!("{d}/{n}/a.{e}"))).unwrap());
        let run = |d: &str, inputs: &str, more: &str| {
            s.run(
                "report",
                &format!("figure --kind {kind} {inputs} -o {d}/{n}/a.svg -o {d}/{n}/a.png -q {more}"),
            )
        };
        let backwards: Vec<&str> = inputs.split(' ').rev().collect();
        let (a, b) = (run("a", inputs, "--threads 1"), run("b", &backwards.join(" "), "--threads 2"));
        assert_eq!((a.len(), b.len()), (2, 2));
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((&a["key"], &a["outputs"]), (&b["key"], &b["outputs"]), "{kind}");
        }
        assert_eq!(files("a"), files("b"), "{kind}");
        assert_eq!(run("a", inputs, "")[1]["run"], a[1]["run"], "from the cache");
    }
}

#[test]
fn what_the_figures_say() {
    let s = prepared();
    let svg = |kind: &str, inputs: &str| drawn(&s, &format!("--kind {kind} {inputs}"), &format!("x-{kind}"));
    let figure1 = svg("figure1", "e/remix e/mixup");
    for text in ["(a) Mixup, true class", "(d) Remix, predicted", "t-SNE 1", ">90.0 % correct<", ">truck<"] {
        assert!(figure1.contains(text), "{text}");
    }
    // The first class has the mean of 75.5 + 15 and 74.9 + 15 + 1.
    assert!(svg("confusion", "m/remix0 m/remix1").contains("Remix, mean of 2 seeds"));
    let many = svg("confusion", "m/many");
    assert!(many.contains("true class (index)") && many.contains(">80</text>") && many.len() < 20_000);
    let counts = svg("class-counts", "d/exp");
    assert!(counts.contains("CIFAR-10, exp 100: 12,406 images") && counts.contains(">2997<"), "{counts}");
    assert!(svg("reliability", "m/remix0 m/mixup0 m/remix1").contains("Remix (ECE 0.100 ± 0.000)"));
    assert!(svg("per-class", "m/remix0").contains("test accuracy (%)"));
    edit(&s.join("m/remix0"), |v| v["params"]["split"] = json!("train"));
    assert!(svg("per-class", "m/remix0").contains("train accuracy (%)"));
    assert!(svg("per-class", "m/remix0 m/remix1").contains(">accuracy (%)"));
    assert!(svg("curves", "c/remix0").contains("lr ÷ 10"));
}

#[test]
fn legends_state_the_schedule_that_each_run_had() {
    let s = prepared();
    for (name, with) in [
        ("custom", json!({"epochs": 4, "recipe": "custom", "milestones": [1, 2]})),
        ("paper", json!({"epochs": 8, "recipe": "paper", "milestones": [4, 7]})),
    ] {
        checkpoint(&s.join(name), "remix", 0);
        edit(&s.join(name), |v| {
            v["params"].as_object_mut().unwrap().extend(with.as_object().unwrap().clone())
        });
    }
    let svg = drawn(&s, "--kind curves custom paper --width 6.9", "f");
    let wanted = "Remix (4 epochs, milestones 1 and 2), Remix (8 epochs, recipe paper)";
    assert!(svg.contains(wanted), "{:?}", said(&svg));
}

#[test]
fn classifiers_and_corrections_are_named() {
    let s = prepared();
    edit(&s.join("m/remix0"), |v| v["params"]["adjust"] = json!(1.0));
    let svg = drawn(&s, "--kind confusion m/remix0", "f");
    assert!(svg.contains(">Remix (adjust 1)<"), "{:?}", said(&svg));
    edit(&s.join("c/remix0"), |v| v["params"]["classifier"] = json!({"name": "ncm"}));
    let svg = drawn(&s, "--kind curves c/remix0", "g");
    assert!(svg.contains(">Remix (NCM)<"), "{:?}", said(&svg));
}

#[test]
fn sweeps_state_a_split_other_than_the_test_images() {
    let s = prepared();
    assert!(drawn(&s, "--kind sweep m/first", "f").contains(">accuracy (%)<"));
    edit(&s.join("m/first"), |v| v["params"]["split"] = json!("val"));
    assert!(drawn(&s, "--kind sweep m/first", "g").contains(">val accuracy (%)<"));
}

#[test]
fn forty_thousand_points_stay_small() {
    let s = Sandbox::new();
    for method in ["mixup", "remix"] {
        embedding(&s.join(method), method, 10_000, true);
    }
    let m = s.one("report", "figure --kind figure1 mixup remix -o f/a.svg -q");
    let bytes = m["outputs"][0]["bytes"].as_u64().unwrap();
    assert!((100_000..1_500_000).contains(&bytes), "{bytes}");
    let svg = fs::read_to_string(s.join("f/a.svg")).unwrap();
    assert_eq!(svg.matches("h0").count(), 4 * 10_000, "every image is a point of every panel");
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let s = prepared();
    embedding(&s.join("e/plain"), "erm", 20, false);
    evaluation(&s.join("m/erm"), &Evaluation { method: "erm", ..Evaluation::default() });
    edit(&s.join("m/erm"), |v| v["metrics"]["cls_num_list"][3] = json!(7));
    Evaluation { method: "rs", ..Evaluation::default() }.publish(&s.join("m/bare"));
    for (name, change) in [
        ("split", (|v| v["outputs"][0]["role"] = json!("test")) as fn(&mut Value)),
        ("images", |v| v["inputs"][1]["role"] = json!("images")),
    ] {
        embedding(&s.join(format!("e/{name}")), "erm", 20, true);
        edit(&s.join(format!("e/{name}")), change);
    }
    embedding(&s.join("e/one"), "rw", 20, true);
    edit(&s.join("e/one"), |v| v["metrics"]["class_names"] = json!(["cat"]));
    embedding(&s.join("e/other"), "rw", 20, true);
    edit(&s.join("e/other"), |v| v["metrics"]["class_names"][0] = json!("boat"));
    checkpoint(&s.join("c/empty"), "drw", 0);
    fs::write(s.join("c/empty/log.jsonl"), "").unwrap();
    let bad = [
        ("--kind figure1 e/plain", "has no projection; make one with embed --project tsne"),
        ("--kind tsne e/split", "has no projection; make one with embed --project tsne"),
        ("--kind tsne e/images", "is of images without true classes; make one of a data set"),
        (
            "--kind figure1 m/remix0",
            "is a metrics manifest, but tsne takes embedding manifests, which embed writes",
        ),
        ("--kind figure1 e/one", "does not name at least two classes"),
        ("--kind figure1 e/mixup e/other", "its classes differ from those of the embeddings before it"),
        ("--kind confusion m/remix0 m/mixup0", "shows one method, but these are 2 (Mixup, Remix)"),
        ("--kind per-class m/remix0 m/erm", "its classes or class counts differ from those of"),
        ("--kind per-class m/bare", "metrics lack class_names or cls_num_list; make it again with eval"),
        (
            "--kind reliability m/bare",
            "metrics.reliability is missing (older versions did not write it); make it again with eval",
        ),
        ("--kind curves c/empty", "log.jsonl: size differs from its manifest"),
        ("--kind curves d/exp", "is a dataset manifest, but curves takes checkpoint"),
        ("--kind class-counts nowhere", "nowhere: there is no such file; pass the manifest.json"),
        (
            "--kind class-counts d/exp -o a.pdf",
            "a.pdf: the extension determines the format, and must be one of .svg, .png",
        ),
        (
            "--kind class-counts d/exp -o a.svg --dpi 600",
            "--dpi: does nothing here, because no PNG is written",
        ),
        ("--kind class-counts d/exp -o a.svg --out y", "--out y and -o a.svg: --out names a directory"),
        ("--kind class-counts d/exp -o a.svg -o ./a.svg", "a.svg: is given twice"),
    ];
    for (args, why) in bad {
        refused(s.tool("report", &format!("figure {args}")).assert(), why);
    }
    refused(
        s.tool("report", "figure --kind figure1").write_stdin("").assert(),
        "pipe embed --project tsne into this tool",
    );

    s.one("report", "figure --kind class-counts d/exp --out fig -q");
    let other = s.tool("report", "figure --kind curves c/remix0 --out fig").assert();
    refused(
        other,
        "fig: holds another report (class-counts.svg), which this one would replace; choose another directory",
    );
    s.one("report", "figure --kind class-counts d/step --out fig -q");
}

/// `-o FILE` owns only FILE: figures, tables and pages share a directory with each other and with unrelated
/// files.
#[test]
fn files_share_a_directory() {
    let s = prepared();
    fs::create_dir(s.join("fig")).unwrap();
    fs::write(s.join("fig/notes.txt"), "mine").unwrap();
    let counts = s.one("report", "figure --kind class-counts d/exp -o fig/counts.svg -q");
    s.one("report", "figure --kind tsne e/mixup -o fig/map.svg -q");
    s.run("report", "table m/remix0 -o fig/t.md -o fig/t.csv -o fig/t.tex -o fig/t.json -q");
    s.one("report", "html m/remix0 -o fig/page.html -q");
    let names = || {
        let all = fs::read_dir(s.join("fig")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        all.collect::<BTreeSet<_>>()
    };
    let files = ["counts.svg", "map.svg", "t.md", "t.csv", "t.tex", "t.json", "page.html"];
    let manifests = files.iter().map(|f| format!("{f}.manifest.json"));
    let all: BTreeSet<String> =
        manifests.chain(files.map(str::to_owned)).chain(["notes.txt".to_owned()]).collect();
    assert_eq!(names(), all);

    // The same file through another path is the same result.
    let again = s.one("report", "figure --kind class-counts d/exp -o ./fig/counts.svg -q");
    assert_eq!(again["run"], counts["run"]);
    let mut inside = s.tool("report", "figure --kind class-counts ../d/exp -o counts.svg -q");
    let inside = inside.current_dir(s.join("fig")).output().unwrap();
    let inside: Value = serde_json::from_slice(&inside.stdout).unwrap();
    assert_eq!(inside["run"], counts["run"]);
    s.one("report", "figure --kind class-counts d/exp -o fig/counts.svg -q --verify");
    // Another figure under the same name replaces it, and a changed file is made again.
    s.one("report", "figure --kind class-counts d/step -o fig/counts.svg -q");
    s.tool("report", "figure --kind class-counts d/exp -o fig/counts.svg -q --verify").assert().code(1);
    s.one("report", "figure --kind class-counts d/exp -o fig/counts.svg -q");
    let sound = fs::read(s.join("fig/counts.svg")).unwrap();
    fs::write(s.join("fig/counts.svg"), "damaged").unwrap();
    let said = s.said("report", "figure --kind class-counts d/exp -o fig/counts.svg -q", 0);
    assert!(said.contains("changed or damaged; restoring the result") && !said.contains("run "), "{said}");
    assert!(fs::read(s.join("fig/counts.svg")).unwrap() == sound);
    // Files that were not made by report are kept.
    fs::write(s.join("fig/mine.svg"), "mine").unwrap();
    for more in ["", "--force"] {
        let asked = s.tool("report", &format!("figure --kind class-counts d/exp -o fig/mine.svg {more}"));
        let why = "fig/mine.svg: no readable mine.svg.manifest.json or mine.svg.plan.json lists it, so report \
                   does not replace it; move it away, or choose another --out or -o";
        refused({ asked }.assert(), why);
    }
    assert_eq!(fs::read_to_string(s.join("fig/mine.svg")).unwrap(), "mine");
    assert_eq!(names().len(), all.len() + 1, "no litter");
}

/// Returns the drawn texts of a figure, line by line.
fn said(svg: &str) -> Vec<&str> {
    svg.split("<text ").skip(1).map(|t| &t[t.find('>').unwrap() + 1..t.find("</text>").unwrap()]).collect()
}

#[test]
fn labels_that_carry_several_settings_are_whole() {
    let s = prepared();
    let settings = [
        json!({"epochs": 3, "milestones": [2, 3], "warmup": 1, "weight_decay": 0.0001, "lr": 0.05, "batch_size": 64}),
        json!({"epochs": 3, "milestones": [2, 3], "warmup": 1, "weight_decay": 0.0005, "lr": 0.05, "batch_size": 64}),
    ];
    for (n, with) in settings.into_iter().enumerate() {
        checkpoint(&s.join(format!("q/{n}")), "remix", n as u64);
        edit(&s.join(format!("q/{n}")), |v| {
            v["params"].as_object_mut().unwrap().extend(with.as_object().unwrap().clone())
        });
    }
    let svg = drawn(&s, "--kind curves q/0 q/1 c/remix0 --width 2", "f");
    let all = said(&svg).join(" ");
    assert!(!all.contains('…'), "{all}");
    for decay in ["0.0001", "0.0005", "0.0002"] {
        assert!(all.contains(&format!("weight-decay {decay}")), "{decay} in {all}");
    }
}

#[test]
fn a_title_keeps_what_its_panel_is_coloured_by() {
    let s = prepared();
    for (n, tau) in [0.125, 0.375].into_iter().enumerate() {
        embedding(&s.join(format!("long/{n}")), "remix-ldam-drw", 100, true);
        edit(&s.join(format!("long/{n}")), |v| {
            v["inputs"][0]["params"]["mix"]["tau"] = json!(tau);
            v["inputs"][0]["params"]["warmup"] = json!(n);
            v["inputs"][0]["blake3"] = json!(format!("w{n}"));
        });
    }
    let svg = drawn(&s, "--kind figure1 long/0 long/1 e/mixup e/remix", "f");
    let all = said(&svg).join(" ");
    assert_eq!((all.matches("true class").count(), all.matches("predicted").count()), (4, 4), "{all}");
    assert!(all.contains("tau 0.125") && all.contains("tau 0.375") && !all.contains('…'), "{all}");

    // Two runs of one method are distinguished by what differs.
    embedding(&s.join("e/again"), "remix", 100, true);
    edit(&s.join("e/again"), |v| v["inputs"][0]["params"]["seed"] = json!(7));
    let svg = drawn(&s, "--kind figure1 e/again e/remix", "g");
    let all = said(&svg).join(" ");
    assert!(
        all.contains("(a) Remix, seed 0, true class") && all.contains("(d) Remix, seed 7, predicted"),
        "{all}"
    );
}

#[test]
fn losses_of_different_functions_share_no_axis() {
    let s = prepared();
    let svg = drawn(&s, "--kind curves c/ldam c/remix0 c/mixup0", "f");
    let count = |text: &str| said(&svg).iter().filter(|t| **t == text).count();
    assert_eq!((count("training loss"), count("test accuracy (%)")), (2, 1), "{:?}", said(&svg));
    // The text is in the legend and in its panel.
    assert_eq!((count("LDAM"), count("cross-entropy")), (2, 1), "{:?}", said(&svg));
    let svg = drawn(&s, "--kind curves c/remix0 c/mixup0", "g");
    assert!(
        said(&svg).iter().filter(|t| **t == "training loss").count() == 1 && !svg.contains("cross-entropy")
    );
}

#[test]
fn a_byte_identical_run_counts_once() {
    let s = prepared();
    // The same weights, evaluated by a version that records what computed them.
    evaluation(&s.join("m/copy"), &Evaluation { method: "remix", top1: 75.5, ..Evaluation::default() });
    edit(&s.join("m/copy"), |v| v["inputs"][0]["facts"] = json!({"computed_by": "avx2"}));
    let svg = |inputs: &str, out: &str| drawn(&s, &format!("--kind per-class {inputs}"), out);
    assert_eq!(svg("m/remix0 m/remix1", "once"), svg("m/remix0 m/copy m/remix1", "twice"));
    s.one("report", "html m/remix0 m/copy m/remix1 -o page/a.html -q");
    let page = fs::read_to_string(s.join("page/a.html")).unwrap();
    assert!(page.contains("2 evaluations of 2 runs on 1 training set"));
    // Other weights with the same seed are another run.
    edit(&s.join("m/copy"), |v| v["inputs"][0]["blake3"] = json!("others"));
    assert_ne!(svg("m/remix0 m/remix1", "once"), svg("m/remix0 m/copy m/remix1", "three"));
    let both = drawn(&s, "--kind confusion m/remix0 m/copy", "c1");
    assert!(both.contains("Remix, mean of 2 runs of 1 seed"));
    // A data set that is given twice is drawn once.
    dataset(&s.join("d/same"), "exp", &COUNTS);
    edit(&s.join("d/same"), |v| v["params"]["shard_bytes"] = json!(1));
    let svg = drawn(&s, "--kind class-counts d/exp d/same", "cc");
    assert_eq!(said(&svg).iter().filter(|t| t.contains("12,406 images")).count(), 1);
}

#[test]
fn classes_whose_names_are_cut_still_differ() {
    let s = prepared();
    let names: Vec<String> =
        (0..10).map(|k| format!("a common beginning of some length {k} and a common end of it")).collect();
    edit(&s.join("m/remix0"), |v| v["metrics"]["class_names"] = json!(names));
    for kind in ["per-class", "confusion"] {
        let svg = drawn(&s, &format!("--kind {kind} m/remix0"), kind);
        let mut cut: Vec<&str> = said(&svg).into_iter().filter(|t| t.contains('…')).collect();
        // The matrix has the names at two edges.
        let n = if kind == "confusion" { 20 } else { 10 };
        assert_eq!(cut.len(), n, "{kind}: {cut:?}");
        cut.sort_unstable();
        cut.dedup();
        assert!(cut.len() >= 10, "{kind}: {cut:?}");
    }
}

#[test]
fn characters_that_a_png_has_no_picture_of_are_told() {
    let s = prepared();
    edit(&s.join("m/remix0"), |v| {
        v["metrics"]["class_names"][3] = json!("猫");
        v["metrics"]["class_names"][5] = json!("犬 b");
    });
    let run = |args: &str| s.said("report", args, 0);
    let warned = run("figure --kind per-class m/remix0 -o a/a.png");
    let why = "a.png: the bundled font cannot draw 犬, 猫 of the classes 犬 b, 猫, so the PNG shows boxes; write an SVG to keep the text";
    assert!(warned.contains(why) && warned.matches("boxes").count() == 1, "{warned}");
    let silent = run("figure --kind per-class m/remix0 -o b/a.svg")
        + &run("figure --kind per-class m/remix1 -o c/a.png");
    assert!(!silent.contains("boxes"), "{silent}");
    assert!(fs::read_to_string(s.join("b/a.svg")).unwrap().contains(">猫<"));
}
