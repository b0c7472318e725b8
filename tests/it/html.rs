//! Tests `report html`: the content of the page, that it is self-contained, and that a real browser shows it
//! without errors.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Sandbox, edit, refused, skipped};
use crate::fabricate::{Evaluation, paper};
use crate::figure_inputs::{COUNTS, checkpoint, dataset, embedding, evaluation, sweep};

/// Makes a small Table 1: two methods, two columns and three seeds, one run of them with both epochs.
fn prepared() -> Sandbox {
    let s = Sandbox::new();
    let mut n = 0;
    for (method, imb_type, top1s) in [
        ("erm", "exp", [70.1, 71.0, 70.6]),
        ("remix", "exp", [74.0, 76.0, 75.3]),
        ("erm", "step", [63.0, 63.4, 65.1]),
        ("remix", "step", [70.9, 70.7, 71.0]),
    ] {
        for (seed, top1) in (0..).zip(top1s) {
            evaluation(
                &s.join(format!("m/{n}")),
                &Evaluation { method, imb_type, seed, top1, with: paper(), ..Evaluation::default() },
            );
            n += 1;
        }
    }
    let best = Evaluation { which: "best", top1: 76.5, with: paper(), ..Evaluation::default() };
    evaluation(&s.join(format!("m/{n}")), &best);
    for method in ["mixup", "remix"] {
        embedding(&s.join(format!("e/{method}")), method, 300, true);
        checkpoint(&s.join(format!("c/{method}")), method, 0);
    }
    dataset(&s.join("d/exp"), "exp", &COUNTS);
    s
}

const INPUTS: &str =
    "m/0 m/1 m/2 m/3 m/4 m/5 m/6 m/7 m/8 m/9 m/10 m/11 m/12 c/mixup c/remix e/mixup e/remix d/exp";

fn page(s: &Sandbox) -> String {
    s.one("report", &format!("html {INPUTS} --title Rebuttal -o page/report.html -q"));
    fs::read_to_string(s.join("page/report.html")).unwrap()
}

/// Returns all values of an attribute on the page.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let open = format!(" {name}=\"");
    page.split(open.as_str()).skip(1).map(|rest| &rest[..rest.find('"').unwrap()]).collect()
}

#[test]
fn numbers_and_what_is_far_from_the_paper() {
    let s = prepared();
    let page = page(&s);
    for text in [
        "<h1>Rebuttal</h1>",
        "13 evaluations of 12 runs on 2 training sets",
        "<h2>CIFAR-10, last epoch (Table 1 of the reproduction report)</h2>",
        "<h2>CIFAR-10, best epoch (Table 1 of the reproduction report)</h2>",
        // statistics.mean and stdev of [74, 76, 75.3]; the paper has 75.36, the reproduction report 75.05.
        ">75.10 ± 1.01</a></td>",
        "mean ± sample standard deviation over 3 seeds",
        "data-v=\"75.3600\">75.36</td><td data-v=\"-0.2600\">−0.26</td><td data-v=\"75.0500\">75.05</td>",
        // ERM on exp: 70.57 ± 0.45, s/√3 = 0.26, 1.29 below 71.86: 5.0 standard errors. Remix on step: 70.87
        // ± 0.15, 1.89 above 68.98.
        "<p>2 of the 4 cells that can be judged.",
        "<li><b>ERM</b>, exp 100: 70.57 ± 0.45 (n = 3) is 1.29 below 71.86: 5.0 standard errors.</li>",
        "<li><b>Remix</b>, step 100: 70.87 ± 0.15 (n = 3) is 1.89 above 68.98:",
        "Without a standard error, for lack of two networks with different accuracies: 1.",
        "All rows: recipe paper.</p>",
        "Training images of each class.",
        "(d) Remix, predicted",
        "Remix, mean of 3 seeds",
        "with a bar for each method; lines show standard deviations over seeds.",
        "<figcaption>Confusion matrix of Remix after the last epoch.",
    ] {
        assert!(page.contains(text), "{text}");
    }
    assert!(!page.contains("exp 10<"), "columns without runs are left out");
    assert!(!page.contains(">NaN") && !page.contains("\"NaN"), "no number is missing");
}

#[test]
fn the_page_stands_alone_and_every_link_arrives() {
    let s = prepared();
    let page = page(&s);
    let ids: Vec<_> = attributes(&page, "id");
    let unique: BTreeSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), unique.len(), "ids are unique");
    for href in attributes(&page, "href") {
        let arrives = href.strip_prefix('#').is_some_and(|id| unique.contains(&id)) || href == "data:,";
        assert!(arrives, "{href}");
    }
    assert!(attributes(&page, "src").is_empty() && !page.contains("@import"));
    // The page contains nothing specific to this machine.
    assert!(!page.contains(s.path().to_str().unwrap()), "no paths");
    // The page contains each hash of the lineage in full.
    let m: Value =
        serde_json::from_str(&fs::read_to_string(s.join("page/report.html.manifest.json")).unwrap()).unwrap();
    fn hashes(inputs: &Value, all: &mut BTreeSet<String>) {
        for i in inputs.as_array().into_iter().flatten() {
            all.insert(i["blake3"].as_str().unwrap().to_owned());
            hashes(&i["inputs"], all);
        }
    }
    let mut all = BTreeSet::new();
    hashes(&m["inputs"], &mut all);
    assert!(all.len() > 20);
    assert!(all.iter().all(|h| page.contains(h.as_str())), "every hash is on the page");
}

#[test]
fn mistakes_are_under_the_names_of_their_runs() {
    let s = Sandbox::new();
    let data = "--dataset synthetic --train-per-class 8 --test-per-class 2 --imb-ratio 4";
    s.one("mk-imbalance", &format!("{data} -q --out data"));
    for epochs in [1, 2] {
        let train = format!("data --arch resnet20 --epochs {epochs} --batch-size 64 -q --out run{epochs}");
        s.one("train", &train);
        s.one("eval", &format!("run{epochs} -q --out m{epochs}"));
    }
    s.one("eval", "run1 --checkpoint best -q --out best1");
    s.one("report", "html m1 m2 best1 data -o page.html -q");
    let page = fs::read_to_string(s.join("page.html")).unwrap();
    for heading in
        [": ERM (1 epoch), seed 0, last and best epoch</h3>", ": ERM (2 epochs), seed 0, last epoch</h3>"]
    {
        assert_eq!(page.matches(heading).count(), 1, "{heading}");
    }
}

#[test]
fn order_and_time_do_not_matter() {
    let s = prepared();
    let first = page(&s);
    let backwards: Vec<&str> = INPUTS.split(' ').rev().collect();
    s.one("report", &format!("html {} --title Rebuttal --out other -q", backwards.join(" ")));
    assert!(first == fs::read_to_string(s.join("other/report.html")).unwrap(), "the same bytes");
    s.one("report", &format!("html {INPUTS} --title Rebuttal -o page/report.html -q --verify"));
}

#[test]
fn captions_state_the_epoch_and_no_deviations_of_a_single_seed() {
    let s = prepared();
    s.one("report", "html m/12 -o p/best.html -q");
    let page = fs::read_to_string(s.join("p/best.html")).unwrap();
    let wanted = "Accuracy of each class after the best epoch, with a bar for each method.";
    assert!(page.contains(wanted) && !page.contains("standard deviations over seeds"), "{wanted}");
}

#[test]
fn trainings_count_once_however_they_are_evaluated() {
    let s = Sandbox::new();
    for seed in [0, 1] {
        for (name, which) in [("last", "last"), ("val", "last"), ("adjusted", "last"), ("best", "best")] {
            let dir = s.join(format!("{name}{seed}"));
            evaluation(&dir, &Evaluation { seed, which, ..Evaluation::default() });
            edit(&dir, |v| match name {
                "val" => v["params"]["split"] = json!("val"),
                "adjusted" => v["params"]["adjust"] = json!(1.0),
                _ => {}
            });
        }
    }
    s.one("report", "html last0 last1 val0 val1 adjusted0 adjusted1 best0 best1 -o all.html -q");
    let page = fs::read_to_string(s.join("all.html")).unwrap();
    assert!(page.contains("8 evaluations of 2 runs on 1 training set"));
    // The correction is in the table and in the lineage also where it is that of all evaluations.
    s.one("report", "html adjusted0 adjusted1 -o adjusted.html -q");
    let page = fs::read_to_string(s.join("adjusted.html")).unwrap();
    let (before, lineage) = page.split_once("<h3>Numbers</h3>").unwrap();
    let name = "<td>Remix (adjust 1)</td>";
    assert!(before.contains(name) && lineage.contains(name) && !before.contains("All rows: adjust"));
}

#[test]
fn sweeps_are_drawn() {
    let s = Sandbox::new();
    for (name, lr) in [("a", 0.05), ("b", 0.1), ("c", 0.2), ("swept", 0.1)] {
        evaluation(&s.join(name), &Evaluation { with: json!({"lr": lr}), ..Evaluation::default() });
    }
    sweep(&s.join("swept"), 0.5);
    let page = |inputs: &str| {
        s.one("report", &format!("html {inputs} -o page.html -q"));
        fs::read_to_string(s.join("page.html")).unwrap()
    };
    let [by_lr, by_tau] = ["lr", "adjust"].map(|flag| format!("Accuracy after the last epoch by --{flag},"));
    let all = page("a b c swept");
    assert!(all.contains(&by_lr) && all.contains(&by_tau));
    assert!(all.contains("3 evaluations of 3 runs"), "the sweep has the weights of another evaluation");
    let two = page("a b swept");
    assert!(!two.contains(&by_lr) && two.contains(&by_tau), "two values are no sweep");
}

#[test]
fn titles_are_text() {
    let s = prepared();
    let mut tool = s.tool("report", "html m/0 -o p/a.html -q --title");
    tool.arg("<script>alert(1)</script>").assert().success();
    let page = fs::read_to_string(s.join("p/a.html")).unwrap();
    assert!(page.contains("&lt;script&gt;alert") && !page.contains("<script>alert"));
    for title in ["", " "] {
        let mut tool = s.tool("report", "html m/0 -o p/b.html -q --title");
        refused(tool.arg(title).assert(), &format!("--title {title:?}: is empty; give a heading"));
    }
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let s = prepared();
    refused(
        s.tool("report", "html d/exp c/remix").assert(),
        "html: none of the 2 manifests is an evaluation",
    );
    refused(s.tool("report", "html m/0 -o a.htm").assert(), "a.htm: must end in .html");
    refused(s.tool("report", "html").write_stdin("").assert(), "pipe eval into this tool");
    s.one("report", "table m/0 --out t -q");
    refused(s.tool("report", "html t").assert(), "is a report manifest, but report html takes metrics");
    refused(s.tool("report", "html m/0 --out t").assert(), "t: holds another report (table.md)");
    edit(&s.join("m/0"), |v| v["metrics"]["per_class"] = json!("x"));
    refused(
        s.tool("report", "html m/0").assert(),
        "metrics.per_class does not have one number for each class",
    );
}

/// Returns the page's title, into which a script added by the test writes its findings, and the browser's
/// console.
fn browse(chromium: &str, s: &Sandbox, page: &str, width: u32, script: &str) -> (String, String) {
    let file = s.join("probe.html");
    let probe = format!("<script>window.addEventListener('load', () => {{ {script} }});</script></body>");
    fs::write(&file, page.replace("</body>", &probe)).unwrap();
    let out = Command::new(chromium)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", s.join("profile").display()))
        .arg(format!("--window-size={width},900"))
        .arg(format!("file://{}", file.display()))
        .output()
        .expect("Chromium starts");
    let dom = String::from_utf8_lossy(&out.stdout).into_owned();
    let title = dom.split("<title>").nth(1).and_then(|t| t.split("</title>").next()).unwrap_or_default();
    let console = String::from_utf8_lossy(&out.stderr)
        .lines()
        .filter(|l| l.contains("CONSOLE"))
        .collect::<Vec<_>>()
        .join("\n");
    (title.to_owned(), console)
}

#[test]
fn a_real_browser_shows_and_sorts_it() {
    let found =
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/chromium")).output().expect("bash");
    if !found.status.success() {
        return skipped("no Chromium; scripts/chromium --install gets one");
    }
    let chromium = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    let s = prepared();
    let page = page(&s);
    // Click the head of the first numeric column twice: sort in descending, then in ascending order.
    let script = "const t = document.querySelector('table.sort'); const names = () => [...t.tBodies[0].rows].map(r => r.cells[0].textContent).join(); \
        const h = t.querySelector('th[data-c=\"1\"] button'); h.click(); const down = names(); h.click(); \
        document.title = [down, names(), t.querySelector('[aria-sort]').getAttribute('aria-sort'), \
        document.documentElement.scrollWidth <= innerWidth, document.querySelectorAll('figure svg').length].join(' ');";
    for width in [1300, 500] {
        let (title, console) = browse(&chromium, &s, &page, width, script);
        assert_eq!(console, "", "no complaint at {width}");
        assert_eq!(title, "Remix,ERM ERM,Remix ascending true 11", "at {width}");
    }
}

/// What is asked about a directory is answered, whatever report it holds.
#[test]
fn another_report_is_explained_and_verified() {
    let s = prepared();
    s.one("report", "table m/0 --out t -q");
    let said = s.said("report", "html m/0 --out t --explain", 0);
    assert!(said.contains("t: holds a result with a different key"), "{said}");
    let said = s.said("report", "html m/0 --out t --verify", 1);
    assert!(said.contains("t: holds another result; --explain shows what differs"), "{said}");
    s.one("report", "html m/0 --out t --dry-run");
}
