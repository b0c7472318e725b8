//! Tests classifiers on features, adjusted logits and sweeps: `embed --splits`, `train --classifier` and
//! `eval --adjust`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::{Sandbox, edit, flip, refused};

const DATA: &str = "--dataset synthetic --train-per-class 40 --test-per-class 6 --imb-ratio 10 --val-fraction 0.2 -q --out data";

/// Makes a data set, a network and its features.
fn prepared() -> Sandbox {
    let s = Sandbox::new();
    s.one("mk-imbalance", DATA);
    s.one("train", "data --arch resnet20 --batch-size 32 --epochs 2 --lr 0.05 --device cpu -q --out net");
    let m = s.one("embed", "net --splits test,train,val --device cpu -q --out features");
    assert_eq!(m["params"]["splits"], json!(["train", "val", "test"]));
    assert_eq!(m["metrics"]["feature_len"], 64);
    s
}

/// Returns the f32 tensors of a file by name.
fn floats(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let floats = |data: &[u8]| data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let all = all.into_iter().filter(|(_, t)| t.dtype() == safetensors::Dtype::F32);
    all.map(|(name, t)| (name, floats(t.data()))).collect()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn every_classifier_is_the_same_on_features_and_on_images() {
    let s = prepared();
    let backbone = floats(&s.join("net/last.safetensors"));
    for (name, flags) in [
        ("linear", "--classifier linear --rule rs --rs inverse --epochs 3"),
        ("remix", "--classifier linear --mix remix --loss balanced-softmax --epochs 2"),
        ("las", "--classifier linear --loss las --epochs 2"),
        ("ldam", "--classifier linear --loss ldam --rule rw --epochs 2"),
        ("cosine", "--classifier cosine --epochs 2"),
        ("lws", "--classifier lws --rule rs --rs inverse --epochs 2"),
        ("tau-norm", "--classifier tau-norm"),
        ("auto", "--classifier tau-norm --tau-norm auto"),
        ("ncm", "--classifier ncm"),
        ("ncm-cosine", "--classifier ncm-cosine"),
    ] {
        let m = s.one("train", &format!("features {flags} -q --out {name}"));
        assert_eq!(m["inputs"][0]["role"], "dataset");
        assert_eq!(m["inputs"][1]["role"], "init", "the network");
        assert_eq!(
            (&m["semantics"], &m["inputs"][1]["facts"]["semantics"]),
            (&3.into(), &2.into()),
            "{name}"
        );
        let own = floats(&s.join(format!("{name}/last.safetensors")));
        let other = |tensor: &&String| !tensor.starts_with("linear.");
        assert!(own.keys().filter(other).all(|k| own[k] == backbone[k]), "{name}: the network stays");
        // The best exponent may be 0.
        assert!(name == "auto" || own["linear.weight"] != backbone["linear.weight"], "{name}");
        // Evaluate on the features, then on the images through the network with this classifier.
        let quick = s.one("eval", &format!("{name} -q"));
        let whole = s.one("eval", &format!("{name} --data data --device cpu -q"));
        assert_eq!(quick["metrics"]["top1"], whole["metrics"]["top1"], "{name}");
        let near = |field: &str| {
            let [a, b] = [&quick, &whole].map(|m| m["metrics"][field].as_f64().unwrap());
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{name} {field}: {a} {b}");
        };
        near("nll");
        s.one("embed", &format!("{name} --data data --device cpu -q --out {name}-e"));
        let images = floats(&s.join(format!("{name}-e/features.safetensors")));
        s.one("embed", &format!("{name} -q --out {name}-f"));
        let features = floats(&s.join(format!("{name}-f/features.safetensors")));
        assert!(apart(&images["features"], &features["features"]) < 1e-5, "{name}");
        let most = images["logits"].iter().map(|z| z.abs()).fold(1.0, f32::max);
        assert!(apart(&images["logits"], &features["logits"]) < 1e-5 * most, "{name}");
        if name == "auto" {
            assert!(m["metrics"]["tau_norm"].as_f64().is_some_and(|tau| (0.0..=2.0).contains(&tau)));
        }
        // Any number of threads gives the same bytes, and the result is found again.
        s.one("train", &format!("features {flags} -q --threads 1 --out {name}-1"));
        let bytes = |dir: &str| fs::read(s.join(format!("{dir}/last.safetensors"))).unwrap();
        assert!(bytes(name) == bytes(&format!("{name}-1")), "{name}");
        assert_eq!(s.one("train", &format!("features {flags} -q --out {name}"))["run"], m["run"]);
    }
    // Compute tau-norm by hand.
    let (own, first) = (floats(&s.join("tau-norm/last.safetensors")), &backbone["linear.weight"]);
    for (row, of) in own["linear.weight"].chunks(64).zip(first.chunks(64)) {
        let length = of.iter().map(|w| w * w).sum::<f32>().sqrt();
        let expected: Vec<f32> = of.iter().map(|w| w / length.powf(0.7)).collect();
        assert!(apart(row, &expected) < 1e-5);
    }
    assert!(own["linear.bias"].iter().all(|b| *b == 0.0));
    // A table has a row for each.
    let names = "linear remix las ldam cosine lws tau-norm auto ncm ncm-cosine net";
    let metrics: String = s.run("eval", &format!("{names} -q")).iter().map(|m| format!("{m}\n")).collect();
    fs::write(s.join("all.jsonl"), metrics).unwrap();
    let table = s.printed("report", "table all.jsonl --format md");
    assert!(table.matches("not shown beside").count() < 2, "one sentence for all rows: {table}");
    for row in [
        "cRT 3 epochs",
        "linear classifier by remix-balanced-softmax",
        "LWS 2 epochs",
        "tau-norm 0.7",
        "tau-norm auto",
        "NCM",
        "cosine NCM",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
}

#[test]
fn a_killed_second_stage_ends_with_the_same_bytes() {
    let s = prepared();
    for flags in [
        "--classifier linear --epochs 4",
        "--classifier lws --epochs 4",
        "--classifier tau-norm --tau-norm auto",
    ] {
        s.one("train", &format!("features {flags} -q --out whole --force"));
        let whole = fs::read(s.join("whole/last.safetensors")).unwrap();
        let mut kills = 0;
        for at in [3, 5, 7, 9, 17, 25] {
            let out = s.join("cut");
            let _ = fs::remove_dir_all(&out);
            let mut killed = s.tool("train", &format!("features {flags} -q --out cut"));
            let ended = killed.env("REMIX_KILL_AT", at.to_string()).assert();
            kills += u32::from(ended.get_output().status.code().is_none());
            let m = s.one("train", &format!("features {flags} -q --out cut"));
            assert!(fs::read(s.join("cut/last.safetensors")).unwrap() == whole, "{flags}, killed at {at}");
            assert_eq!(m["metrics"].get("tau_norm").is_some(), flags.contains("auto"), "killed at {at}");
        }
        assert!(kills >= 3, "{flags}: killed {kills} times");
    }
}

#[test]
fn a_trained_second_stage_goes_on_from_its_last_epoch() {
    let s = prepared();
    for classifier in ["linear", "cosine", "lws"] {
        let flags = format!("features --classifier {classifier} --epochs 4 --out {classifier}");
        s.tool("train", &flags).env("REMIX_KILL_AT", "25").assert().interrupted();
        let said = s.said("train", &flags, 0);
        assert!(said.contains("continuing after epoch"), "{classifier}: {said}");
    }
}

#[test]
fn nearest_neighbours_classify_features_alone() {
    let s = prepared();
    let m = s.one("train", "features --classifier knn --neighbours 3 -q --out knn");
    assert_eq!(m["params"]["classifier"], json!({"name": "knn", "neighbours": 3}));
    let judged = s.one("eval", "knn -q");
    assert_eq!(judged["metrics"]["top1"], m["metrics"]["last_top1"]);
    // A training image does not vote for itself.
    let own = s.one("eval", "knn --split train -q");
    let [now, then] =
        [&own["metrics"]["top1"], &m["metrics"]["last_train_top1"]].map(|v| v.as_f64().unwrap());
    assert!((now - then).abs() < 1e-9, "{now} {then}");
    // Compute the vote of the 3 largest cosines by hand.
    let unit = |row: &[f32]| {
        let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        row.iter().map(|x| f64::from(*x) / length).collect::<Vec<f64>>()
    };
    let rows = |split: &str| -> Vec<Vec<f64>> {
        let all =
            floats(&s.join(format!("features/{split}-features.safetensors"))).remove("features").unwrap();
        all.chunks(64).map(unit).collect()
    };
    let labels: Vec<usize> = {
        let bytes = fs::read(s.join("features/train-features.safetensors")).unwrap();
        let all = SafeTensors::deserialize(&bytes).unwrap();
        all.tensor("labels").unwrap().data().chunks(8).map(|word| usize::from(word[0])).collect()
    };
    let (train, test) = (rows("train"), rows("test"));
    s.one("embed", "knn -q --out e");
    let logits = floats(&s.join("e/features.safetensors")).remove("logits").unwrap();
    let mut compared = 0;
    for (x, logits) in test.iter().zip(logits.chunks(10)) {
        let cosine = |t: &Vec<f64>| t.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        let mut all: Vec<(f64, usize)> = train.iter().map(cosine).zip(labels.iter().copied()).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        if all[2].0 - all[3].0 < 1e-6 {
            continue; // Rounding decides which of the two votes.
        }
        compared += 1;
        let mut votes = [(-1.0f64 / 0.07).exp(); 10];
        all[..3].iter().for_each(|(cosine, label)| votes[*label] += (cosine / 0.07).exp());
        for (z, votes) in logits.iter().zip(votes) {
            assert!((f64::from(*z) - votes.ln()).abs() < 1e-3, "{z} {}", votes.ln());
        }
    }
    assert!(compared > test.len() / 2, "{compared} of {}", test.len());
    fs::write(s.join("m.json"), judged.to_string()).unwrap();
    assert!(s.printed("report", "table m.json --format md").contains(" (3-NN) |"));
    let alone = "a kNN classifier can only classify features";
    assert!(s.said("eval", "knn --data data --device cpu -q", 2).contains(alone));
    fs::write(s.join("list"), "x.png\n").unwrap();
    refused(s.tool("embed", "knn --images list -q").assert(), alone);
    refused(
        s.tool("train", "features --classifier ncm --neighbours 2 -q").assert(),
        "--neighbours: does nothing",
    );
}

#[test]
fn a_classifier_on_each_of_two_networks_is_two_seeds() {
    let s = prepared();
    s.one(
        "train",
        "data --arch resnet20 --batch-size 32 --epochs 2 --lr 0.05 --seed 1 --device cpu -q --out net1",
    );
    s.one("embed", "net1 --splits train,test --device cpu -q --out features1");
    s.one("embed", "net --splits train,test --device cpu -q --out features0");
    for (n, more) in [("0", ""), ("1", ""), ("0", " --schedule step")] {
        let out = format!("{n}{}", more.trim().replace([' ', '-'], ""));
        s.one("train", &format!("features{n} --classifier linear --epochs 2{more} -q --out c{out}"));
    }
    let found = s.run("eval", "c0 c1 c0schedulestep -q");
    fs::write(s.join("m.jsonl"), found.iter().map(|m| format!("{m}\n")).collect::<String>()).unwrap();
    let table = s.printed("report", "table m.jsonl --format md");
    assert!(table.contains(" (2) |") && !table.contains("runs of 1 seed"), "{table}");
    assert!(table.contains("schedule step"), "another schedule is another row: {table}");
    assert!(!table.contains("Runs of one seed were computed by different"), "{table}");
    // On the images that the network was trained on, there is no warning.
    assert_eq!(s.said("eval", "c0 --data data --device cpu -q", 0), "");
}

#[test]
fn augmented_passes_are_rows_behind_the_images() {
    let s = prepared();
    let m = s.one("embed", "net --splits train,test --passes 2 --device cpu -q --out more");
    assert_eq!(m["params"]["passes"], 2);
    let plain = s.one("embed", "net --splits train,test --device cpu -q --out plain");
    assert_eq!(m["metrics"]["train"], plain["metrics"]["train"]);
    let rows =
        |dir: &str| floats(&s.join(format!("{dir}/train-features.safetensors"))).remove("features").unwrap();
    let (more, once) = (rows("more"), rows("plain"));
    assert_eq!(more.len(), 3 * once.len());
    let passes: Vec<&[f32]> = more.chunks(once.len()).collect();
    assert!(passes[0] == once, "the first pass is of the images as they are");
    assert!(passes[1] != once && passes[1] != passes[2]);
    // With mirroring as the only augmentation, images that are not mirrored have the features of the plain
    // pass, in the same order.
    s.one(
        "train",
        "data --arch resnet20 --epochs 1 --batch-size 32 --crop-padding 0 --device cpu -q --out flips",
    );
    s.one("embed", "flips --splits train --passes 1 --device cpu -q --out flipped");
    let flipped = rows("flipped");
    let (plain_rows, mirrored) = flipped.split_at(flipped.len() / 2);
    let pairs = plain_rows.chunks(64).zip(mirrored.chunks(64));
    let same = pairs.clone().filter(|(a, b)| a == b).count();
    let all = pairs.count();
    assert!(same.abs_diff(all / 2) < all / 5, "{same} of {all} rows are as they were");
    assert_eq!(
        fs::read(s.join("more/test-features.safetensors")).unwrap(),
        fs::read(s.join("plain/test-features.safetensors")).unwrap()
    );
    // Classifiers computed in closed form use only the images as they are; trained ones see the augmented
    // passes.
    for (flags, same) in [("ncm", true), ("linear --epochs 2", false)] {
        let weights = |dir: &str| {
            s.one("train", &format!("{dir} --classifier {flags} -q --out {dir}-c --force"));
            floats(&s.join(format!("{dir}-c/last.safetensors"))).remove("linear.weight").unwrap()
        };
        assert_eq!(weights("more") == weights("plain"), same, "{flags}");
    }
    s.one("eval", "more-c --split train -q");
    // A page can be made of such an evaluation, and a table does not average it with that of the images
    // alone.
    let one = s.one("eval", "more-c -q");
    fs::write(s.join("one.json"), one.to_string()).unwrap();
    s.tool("report", "html one.json -o page.html -q").assert().success();
    let both: String = s.run("eval", "more-c plain-c -q").iter().map(|m| format!("{m}\n")).collect();
    fs::write(s.join("both.jsonl"), both).unwrap();
    let table = s.printed("report", "table both.jsonl --format md");
    assert!(table.contains("passes 2") && !table.contains("(2)"), "{table}");
    s.one("train", "data --arch resnet20 --epochs 1 --batch-size 32 --no-augment --device cpu -q --out bare");
    let alike = s.tool("embed", "bare --splits train,test --passes 1 --device cpu -q").assert();
    refused(alike, "was trained without augmentation");
    refused(s.tool("embed", "net --splits test --passes 1 -q").assert(), "add train to --splits");
}

#[test]
fn logits_are_adjusted_by_the_classes_shares() {
    let s = prepared();
    let plain = s.one("eval", "net --device cpu -q");
    s.one("embed", "net --device cpu -q --out e");
    let logits = floats(&s.join("e/features.safetensors")).remove("logits").unwrap();
    let counts: Vec<f64> =
        plain["metrics"]["cls_num_list"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
    let all: f64 = counts.iter().sum();
    let labels = |i: usize| i / 6;
    let top1 = |tau: f64, prior: &dyn Fn(usize) -> f64| -> f64 {
        let rows = logits.chunks(10).enumerate();
        let right = rows.filter(|(i, row)| {
            let z = |k: usize| f64::from(row[k]) - tau * (counts[k] / all / prior(k)).ln();
            (0..10).all(|k| k == labels(*i) || z(k) < z(labels(*i)))
        });
        100.0 * right.count() as f64 / 60.0
    };
    let found = |flags: &str| s.one("eval", &format!("net --device cpu -q {flags}"));
    assert!((plain["metrics"]["top1"].as_f64().unwrap() - top1(0.0, &|_| 1.0)).abs() < 1e-9);
    for tau in [0.5, 1.0, 2.0] {
        let m = found(&format!("--adjust {tau}"));
        assert!((m["metrics"]["top1"].as_f64().unwrap() - top1(tau, &|_| 1.0)).abs() < 1e-9);
        assert_eq!(m["metrics"]["unadjusted"]["top1"], plain["metrics"]["top1"], "before it");
        assert_eq!(m["params"]["adjust"], json!(tau));
    }
    let same = found("--test-prior train");
    assert_eq!(same["metrics"]["top1"], plain["metrics"]["top1"], "those of the training images");
    fs::write(s.join("prior.txt"), (1..=10).map(|k| format!("{k}\n")).collect::<String>()).unwrap();
    let other = found("--adjust 1 --test-prior prior.txt");
    let expected = top1(1.0, &|k| (k + 1) as f64 / 55.0);
    assert!((other["metrics"]["top1"].as_f64().unwrap() - expected).abs() < 1e-9);
    let recall = |k: usize| other["metrics"]["per_class"][k].as_f64().unwrap();
    let weighted: f64 = (0..10).map(|k| recall(k) * (k + 1) as f64 / 55.0).sum();
    assert!((other["metrics"]["prior_top1"].as_f64().unwrap() - weighted).abs() < 1e-9);
    let piped = s.bash("$B/eval net --device cpu -q --dry-run --adjust 1 --test-prior <(cat prior.txt)");
    let piped: Value = serde_json::from_slice(&piped.stdout).unwrap();
    assert_eq!(piped["key"], other["key"], "the key is that of the content");
    // The best value of a range on the validation split, and its curve.
    let auto = found("--adjust auto");
    assert!(auto["metrics"]["adjust"].as_f64().is_some_and(|tau| (0.0..=3.0).contains(&tau)));
    let swept = found("--sweep adjust=0:2:0.5");
    let rows = swept["metrics"]["sweep"]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let tau = row["value"].as_f64().unwrap();
        assert!((row["top1"].as_f64().unwrap() - top1(tau, &|_| 1.0)).abs() < 1e-9, "{tau}");
        assert!(row["val_score"].is_number());
    }
    assert!(swept["metrics"]["sweep"]["best_on_val"].is_number());
    fs::write(s.join("m.json"), swept.to_string()).unwrap();
    s.tool("report", "figure m.json --kind sweep -o sweep.svg -q").assert().success();
    assert!(fs::read_to_string(s.join("sweep.svg")).unwrap().contains("best on val"));
    fs::write(s.join("plain.json"), plain.to_string()).unwrap();
    refused(
        s.tool("report", "figure plain.json --kind sweep -o x.svg -q").assert(),
        "the runs do not differ in a numeric setting",
    );

    s.one("mk-imbalance", &DATA.replace("--val-fraction 0.2", "").replace("--out data", "--out plain"));
    s.one("embed", "net --splits train,test -q --device cpu --out short");
    s.one("train", "short --classifier ncm -q --out ncm");
    let said = s.said("eval", "ncm --adjust auto -q", 2);
    assert!(
        said.contains("--adjust auto: chooses the value on the validation split, but the data set has none"),
        "{said}"
    );
    let said = s.said("eval", "net --data plain --adjust 1 -q --device cpu", 2);
    assert!(said.contains("needs the class counts that net was trained on"), "{said}");
    fs::write(s.join("short.txt"), "1\n2\n").unwrap();
    let short = s.tool("eval", "net --test-prior short.txt -q --device cpu").assert();
    refused(short, "--test-prior short.txt: has 2 numbers, but there are 10 classes");
}

#[test]
fn a_sweep_trains_a_classifier_for_each_value() {
    let s = prepared();
    let found = s.run("train", "features --classifier tau-norm --sweep tau-norm=0:1:0.5 -q");
    let values: Vec<&Value> = found.iter().map(|m| &m["params"]["classifier"]["tau_norm"]).collect();
    assert_eq!(values, [&json!(0.0), &json!(0.5), &json!(1.0)]);
    let rates = s.run("train", "features --classifier linear --epochs 1 --sweep lr=0.1:0.2:0.1 -q --out lr");
    assert_eq!(rates.len(), 2);
    assert!(s.join("lr/lr-0.1/last.safetensors").exists() && s.join("lr/lr-0.2/last.safetensors").exists());
    // Features are also taken from a pipe.
    let piped = s.bash("cat features/manifest.json | $B/eval lr/lr-0.1 --data - -q");
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    // A figure of their evaluations marks the value that is best on the validation split.
    let judged: String = found.iter().map(|m| format!("{m}\n")).collect();
    fs::write(s.join("runs.jsonl"), judged).unwrap();
    let mut lines = String::new();
    for split in ["test", "val"] {
        let found = s.run("eval", &format!("runs.jsonl --split {split} -q"));
        lines.extend(found.iter().map(|m| format!("{m}\n")));
        fs::write(s.join("m.jsonl"), &lines).unwrap();
        s.tool("report", &format!("figure m.jsonl --kind sweep -o {split}.svg -q")).assert().success();
        let svg = fs::read_to_string(s.join(format!("{split}.svg"))).unwrap();
        assert!(svg.contains("tau-norm") && svg.contains("best on val") == (split == "val"), "{split}");
    }
    s.tool("report", "html m.jsonl -o page.html -q").assert().success();
    let page = fs::read_to_string(s.join("page.html")).unwrap();
    assert!(page.contains("6 evaluations of 3 runs") && page.contains("by --tau-norm,"));
    let on_train = s.run("eval", "runs.jsonl --split train -q");
    lines.extend(on_train.iter().map(|m| format!("{m}\n")));
    fs::write(s.join("m.jsonl"), &lines).unwrap();
    refused(
        s.tool("report", "figure m.jsonl --kind sweep -o x.svg -q").assert(),
        "the evaluations are on the test and on the training split",
    );
    let others = s.run("eval", "lr/lr-0.1 lr/lr-0.1 -q");
    fs::write(s.join("m.jsonl"), others.iter().map(|m| format!("{m}\n")).collect::<String>()).unwrap();
    let same = s.tool("report", "figure m.jsonl --kind sweep -o x.svg -q").assert();
    refused(same, "the runs do not differ in a numeric setting");
    let both = s.tool("train", "features --classifier linear --lr 1 --sweep lr=0.1:0.2:0.1").assert();
    refused(both, "--sweep lr: --lr is given as well");
    let none = s.tool("train", "features --classifier linear --sweep colour=0:1:1").assert();
    refused(none, "--sweep colour: train has no flag --colour");
}

#[test]
fn what_is_wrong_with_features_is_said_in_a_line() {
    let s = prepared();
    let train = |flags: &str| s.tool("train", &format!("{flags} -q")).assert();
    refused(train("data --classifier linear"), "is a dataset manifest");
    refused(train("features"), "features can only train a classifier; add --classifier linear");
    s.one("embed", "net --split test --device cpu -q --out e");
    refused(train("e --classifier linear"), "embed --splits train,test");
    refused(train("features --classifier lws --loss ldam"), "LDAM needs a normalised classifier");
    refused(train("features --classifier linear --mix cutmix"), "only mixup and remix can mix features");
    refused(train("features --classifier ncm --epochs 3"), "--epochs: does nothing with this classifier");
    refused(
        train("features --classifier linear --tau-norm 1"),
        "--tau-norm: does nothing with this classifier",
    );
    refused(train("data --loss las"), "is only for classifiers on features");
    s.one("train", "data --arch resnet20 --epochs 1 --batch-size 32 --loss ldam --device cpu -q --out ldam");
    s.one("embed", "ldam --splits train,test --device cpu -q --out lf");
    refused(train("lf --classifier tau-norm"), "its classifier cannot be used");
    refused(train("lf --classifier tau-norm --tau-norm auto"), "the features have none");
    s.one("train", "lf --classifier ncm -q --out own");
    // A network that has changed since, and damaged features.
    edit(&s.join("features"), |m| m["params"]["arch"] = "resnet32".into());
    refused(train("features --classifier ncm"), "is a resnet20, not the resnet32 of this run");
    edit(&s.join("features"), |m| m["params"]["arch"] = "resnet20".into());
    flip(&s.join("net/last.safetensors"));
    refused(train("features --classifier ncm"), "last.safetensors: blake3 differs from its manifest");
    flip(&s.join("net/last.safetensors"));
    flip(&s.join("features/train-features.safetensors"));
    refused(
        train("features --classifier ncm"),
        "train-features.safetensors: blake3 differs from its manifest",
    );
}

#[test]
fn features_of_another_network_are_refused() {
    let s = prepared();
    s.one("train", "data --arch resnet20 --batch-size 32 --epochs 1 --seed 1 --device cpu -q --out net2");
    s.one("embed", "net2 --splits train,test --device cpu -q --out features2");
    s.one("train", "features --classifier ncm -q --out ncm");
    refused(s.tool("eval", "ncm --data features2 -q").assert(), "features of another network");
    refused(s.tool("embed", "ncm --data features2 -q").assert(), "features of another network");
    refused(s.tool("eval", "net --data features2 -q").assert(), "features of another network");
    // Its own features are not another data set.
    for line in ["net --data features", "ncm --data features", "ncm --data data --device cpu"] {
        let said = s.said("eval", line, 0);
        assert!(!said.contains("a data set other than"), "{line}: {said}");
    }
}
