//! Tests real photographs in folders, and a part of Tiny-ImageNet in its own layout, end to end.
//!
//! The archives are not in the repository: one has 91 classes of Caltech-101 and lists of its training and
//! test images, the other 20 classes of Tiny-ImageNet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Sandbox, skipped};

/// Unpacks `NAME/ARCHIVE` of `$FOLDERS_DIR` into the sandbox. If the variable is not set, it prints that the
/// test is skipped and returns `None`.
fn unpacked(s: &Sandbox, name: &str, archive: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("FOLDERS_DIR").filter(|root| !root.is_empty()) else {
        skipped(format!("set FOLDERS_DIR to a directory that has {name}/{archive}"));
        return None;
    };
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(root).join(name).join(archive);
    let done = Command::new("tar").arg("xf").arg(&archive).current_dir(s.path()).status();
    assert!(done.is_ok_and(|status| status.success()), "{} unpacks", archive.display());
    Some(s.join(name))
}

fn text(m: &Value, name: &str) -> String {
    fs::read_to_string(Path::new(m["path"].as_str().unwrap()).with_file_name(name)).unwrap()
}

#[test]
fn photographs_train_well_above_the_largest_class() {
    let s = Sandbox::new();
    let Some(root) = unpacked(&s, "caltech-91", "caltech-91.tar") else { return };
    let images = root.join("101_ObjectCategories");
    let m = s.one(
        "mk-imbalance",
        &format!(
            "-q --dataset list --data {} --train-list {}/train.txt --test-list {1}/test.txt --size 32",
            images.display(),
            root.display()
        ),
    );
    assert_eq!((&m["metrics"]["train"], &m["metrics"]["test"]), (&json!(1963), &json!(989)));
    let counts: Vec<u64> =
        m["metrics"]["cls_num_list"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!((counts.len(), *counts.iter().max().unwrap(), *counts.iter().min().unwrap()), (91, 214, 8));
    // The same images in folders have the same classes in the same order.
    let folders =
        s.one("mk-imbalance", &format!("-q --dataset folder --data {} --size 32", images.display()));
    assert_eq!(folders["metrics"]["class_names"], m["metrics"]["class_names"]);
    let total = ["train", "test"].map(|split| folders["metrics"][split].as_u64().unwrap());
    assert_eq!(total[0] + total[1], 2952);

    let data = m["path"].as_str().unwrap();
    let run = s.one(
        "train",
        &format!(
            "-q {data} --arch resnet20 --epochs 8 --batch-size 32 --lr 0.05 --method erm --precision bf16"
        ),
    );
    let run = run["path"].as_str().unwrap();
    let metrics = s.one("eval", &format!("-q {run}"));
    // The largest class has 106 of the 989 images.
    let top1 = metrics["metrics"]["top1"].as_f64().unwrap();
    assert!(top1 > 20.0, "{top1} %");
    assert_eq!(metrics["metrics"]["mistakes"].as_array().unwrap().len(), 50);

    // Predictions for the files equal those for the data set, with any instruction set.
    let listed = fs::read_to_string(root.join("test.txt")).unwrap();
    let paths: String = listed.lines().map(|line| format!("{}/{line}\n", images.display())).collect();
    fs::write(s.join("test.list"), paths).unwrap();
    let labels: BTreeMap<&str, usize> = m["metrics"]["class_names"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(label, name)| (name.as_str().unwrap(), label))
        .collect();
    for isa in ["", "portable"] {
        let tool = |name: &str, args: &str| -> Value {
            let mut command = s.tool(name, args);
            if !isa.is_empty() {
                command.env("REMIX_ISA", isa);
            }
            let output = command.assert().success().get_output().clone();
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let metrics = tool("eval", &format!("-q {run} --out judged{isa}"));
        let new = tool("embed", &format!("-q {run} --images test.list --out predicted{isa}"));
        let table = text(&new, "predictions.csv");
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        let right = reader.records().map(Result::unwrap).filter(|record| {
            let class = Path::new(&record[0]).parent().unwrap().file_name().unwrap().to_str().unwrap();
            labels[&record[1]] == labels[class]
        });
        let top1 = 100.0 * right.count() as f64 / 989.0;
        assert!((top1 - metrics["metrics"]["top1"].as_f64().unwrap()).abs() < 1e-9, "{isa}: {top1}");
    }

    // The page shows the mistakes with their file names.
    let page = s.join("page.html");
    s.run("report", &format!("html {} {data} -o {}", metrics["path"].as_str().unwrap(), page.display()));
    let page = fs::read_to_string(page).unwrap();
    assert_eq!(page.matches("<figure><img src=\"data:image/png").count(), 50);
    assert!(page.contains("/image_0"), "names of files");
}

#[test]
fn tiny_imagenet_in_its_own_layout() {
    let s = Sandbox::new();
    let Some(root) = unpacked(&s, "tiny-imagenet-20", "tiny-imagenet-20.tar.xz") else { return };
    let m = s.one("mk-imbalance", &format!("-q --dataset tiny-imagenet --data {}", root.display()));
    assert_eq!((&m["metrics"]["classes"], &m["metrics"]["official"]), (&json!(20), &json!(false)));
    assert_eq!((&m["metrics"]["height"], &m["metrics"]["val"]), (&json!(64), &json!(0)));
    let names: Vec<&str> =
        m["metrics"]["class_names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    assert!(names.is_sorted() && names.iter().all(|n| n.starts_with('n')), "{names:?}");
    let m = s.one(
        "mk-imbalance",
        &format!("-q --dataset tiny-imagenet --data {} --imb-type exp --imb-ratio 10", root.display()),
    );
    let counts = m["metrics"]["cls_num_list"].as_array().unwrap();
    let (first, last) = (counts[0].as_u64().unwrap(), counts[19].as_u64().unwrap());
    assert_eq!(first / last, 10);
}
