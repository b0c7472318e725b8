//! Tests 8,142 classes, as in iNaturalist 2018: every tool accepts them, and outputs that cannot show so many
//! report it.

use std::fs;
use std::io::Write;
use std::path::Path;

use remix::manifest::store::{Claim, Plan, Produced, write_atomic};
use remix::manifest::{Kind, Manifest, Object};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::common::{Sandbox, edit, flip, refused};
use crate::fabricate::{checkpoint, manifest};

/// Number of test images, spread over the classes.
const TEST: usize = 64;

/// Height and width of the images: small ones train faster.
const SIDE: usize = 8;

/// Returns the label of test image `i`.
fn label(i: usize, classes: usize) -> i64 {
    (i * 127 % classes) as i64
}

/// Publishes a data set of many classes: one training image of each class, and [`TEST`] test images.
fn dataset(dir: &Path, classes: usize) -> Manifest {
    let params =
        json!({"dataset": "cifar10", "imb_type": "exp", "imb_ratio": 100}).as_object().unwrap().clone();
    let plan =
        Plan { kind: Kind::Dataset, semantics: 1, params, inputs: vec![], dir: dir.to_owned(), file: None };
    let Claim::Work(w) = plan.claim(false, || ()).unwrap() else { panic!("it is there already") };
    let train: Vec<i64> = (0..classes as i64).collect();
    let test: Vec<i64> = (0..TEST).map(|i| label(i, classes)).collect();
    let mut outputs = vec![];
    for (role, labels) in [("train", train), ("test", test)] {
        let n = labels.len();
        let pixels: Vec<u8> = (0..n * SIDE * SIDE * 3).map(|at| ((at * 11) ^ (at >> 5)) as u8).collect();
        let index: Vec<u8> = (0..n as u32).flat_map(u32::to_le_bytes).collect();
        let labels: Vec<u8> = labels.into_iter().flat_map(i64::to_le_bytes).collect();
        let tensors = [
            ("images", TensorView::new(Dtype::U8, vec![n, SIDE, SIDE, 3], &pixels).unwrap()),
            ("labels", TensorView::new(Dtype::I64, vec![n], &labels).unwrap()),
            ("source_index", TensorView::new(Dtype::U32, vec![n], &index).unwrap()),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let name = format!("{role}-00000.safetensors");
        write_atomic(&dir.join(&name), |f| f.write_all(&bytes)).unwrap();
        outputs.push(Produced { role, name, rows: Some(n as u64) });
    }
    let metrics = json!({
        "classes": classes,
        "class_names": (0..classes).map(|k| format!("species {k}")).collect::<Vec<_>>(),
        "cls_num_list": vec![1; classes],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "images": {"train": "0", "test": "1"},
    });
    w.publish(outputs, metrics.as_object().unwrap().clone(), Object::new()).unwrap()
}

/// Makes a data set in `data`, a checkpoint in `run` and its evaluation in `m`.
pub fn prepared(classes: usize) -> Sandbox {
    let s = Sandbox::new();
    let data = dataset(&s.join("data"), classes);
    checkpoint(&s.join("run"), &data, 0);
    s.one("eval", "run -q --out m");
    s
}

fn ints(file: &SafeTensors, name: &str) -> Vec<i64> {
    let t = file.tensor(name).unwrap();
    match t.dtype() {
        Dtype::I64 => t.data().as_chunks().0.iter().map(|w| i64::from_le_bytes(*w)).collect(),
        Dtype::U32 => t.data().as_chunks().0.iter().map(|w| u32::from_le_bytes(*w).into()).collect(),
        other => panic!("{name} is {other:?}"),
    }
}

/// Returns the sorted (true, predicted, count) triples in an evaluation's file.
fn cells(dir: &Path) -> Vec<[i64; 3]> {
    let bytes = fs::read(dir.join("confusion.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), 3);
    let [label, predicted, count] = ["true", "predicted", "count"].map(|name| ints(&file, name));
    (0..label.len()).map(|i| [label[i], predicted[i], count[i]]).collect()
}

#[test]
fn every_tool_takes_8142_classes() {
    let s = prepared(8142);
    let m = manifest(s.join("m"));
    assert!(!m.metrics.contains_key("confusion"));
    assert_eq!(m.metrics["per_class"].as_array().unwrap().len(), 8142);
    assert_eq!(m.outputs.len(), 1);
    assert_eq!(
        (m.outputs[0].role.as_str(), m.outputs[0].path.as_path()),
        ("confusion", Path::new("confusion.safetensors"))
    );
    // The file agrees with the embedding.
    s.one("embed", "run -q --out e");
    let bytes = fs::read(s.join("e/features.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let pairs = ints(&file, "labels").into_iter().zip(ints(&file, "predictions"));
    let mut counts = std::collections::BTreeMap::new();
    pairs.for_each(|pair| *counts.entry(pair).or_insert(0) += 1);
    let found = cells(&s.join("m"));
    assert_eq!(found, counts.into_iter().map(|((t, p), n)| [t, p, n]).collect::<Vec<_>>());
    assert_eq!(m.outputs[0].rows, Some(found.len() as u64));
    assert_eq!(found.iter().map(|c| c[2]).sum::<i64>(), TEST as i64);

    // The cache and --verify check the file.
    assert_eq!(s.one("eval", "run -q --out m --verify")["key"], m.key.as_str());
    flip(&s.join("m/confusion.safetensors"));
    s.tool("eval", "run -q --out m --verify").assert().code(1);
    s.one("eval", "run -q --out m");
    assert_eq!(cells(&s.join("m")), found);

    s.one("train", "data --arch resnet20 --epochs 1 --batch-size 4096 -q --out trained");
    s.one("embed", "run -q --project pca --out map");
    s.one("report", "table m -q --out table");
    for (kind, inputs) in [
        ("per-class", "m"),
        ("reliability", "m"),
        ("class-counts", "data"),
        ("curves", "trained"),
        ("figure1", "map"),
    ] {
        s.run("report", &format!("figure --kind {kind} {inputs} -q -o {kind}/f.svg -o {kind}/f.png"));
    }
    refused(
        s.tool("report", "figure --kind confusion m -q -o confusion/f.svg").assert(),
        "8142 classes cannot be told apart in one matrix",
    );
    assert!(!s.join("confusion").exists());
    s.one("report", "html m data trained map -q -o html/page.html");
    let page = fs::read_to_string(s.join("html/page.html")).unwrap();
    assert!(page.contains("No confusion matrix is drawn for 8142 classes"));
}

#[test]
fn a_matrix_of_some_hundred_classes_is_drawn_from_its_file() {
    let s = prepared(201);
    s.one("report", "figure --kind confusion m -q -o a/f.svg");
    let drawn = fs::read(s.join("a/f.svg")).unwrap();
    s.one("report", "html m -q -o html/page.html");
    assert!(fs::read_to_string(s.join("html/page.html")).unwrap().contains("Confusion matrix of"));

    // The same counts in a manifest give the same drawing.
    let mut matrix = vec![vec![0; 201]; 201];
    for [t, p, n] in cells(&s.join("m")) {
        matrix[t as usize][p as usize] = n;
    }
    edit(&s.join("m"), |v| {
        v["outputs"] = json!([]);
        v["metrics"]["confusion"] = json!(matrix);
    });
    s.one("report", "figure --kind confusion m -q -o b/f.svg");
    assert!(fs::read(s.join("b/f.svg")).unwrap() == drawn);

    // The file is missing, changed, or holds something else.
    let restore = || {
        fs::remove_dir_all(s.join("m")).unwrap();
        s.one("eval", "run -q --out m");
    };
    restore();
    fs::remove_file(s.join("m/confusion.safetensors")).unwrap();
    refused(s.tool("report", "figure --kind confusion m -o c/f.svg").assert(), "missing, although");
    restore();
    flip(&s.join("m/confusion.safetensors"));
    refused(
        s.tool("report", "figure --kind confusion m -o c/f.svg").assert(),
        "blake3 differs from its manifest",
    );
    // A table needs only the manifest.
    s.one("report", "table m -q --out table");
    let bytes = |t: &[i64], p: &[i64], n: &[u32]| {
        let of = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (t8, p8, n8) = (of(t), of(p), n.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let tensors = [
            ("true", TensorView::new(Dtype::I64, vec![t.len()], &t8).unwrap()),
            ("predicted", TensorView::new(Dtype::I64, vec![p.len()], &p8).unwrap()),
            ("count", TensorView::new(Dtype::U32, vec![n.len()], &n8).unwrap()),
        ];
        safetensors::serialize(tensors, None).unwrap()
    };
    for file in [
        b"none".to_vec(),
        bytes(&[201], &[0], &[1]),
        bytes(&[-1], &[0], &[1]),
        bytes(&[0], &[0, 1], &[1]),
        bytes(&[0], &[0], &[0]),
        fs::read(s.join("run/last.safetensors")).unwrap(),
    ] {
        restore();
        fs::write(s.join("m/confusion.safetensors"), &file).unwrap();
        edit(&s.join("m"), |v| {
            v["outputs"][0]["bytes"] = file.len().into();
            v["outputs"][0]["blake3"] = Value::from(blake3::hash(&file).to_hex().to_string());
        });
        let assert = s.tool("report", "figure --kind confusion m -o c/f.svg").assert();
        refused(assert, "does not hold valid counts of its classes; make it again with eval");
    }
}

#[test]
fn up_to_200_classes_are_in_the_manifest() {
    let s = prepared(200);
    let m = manifest(s.join("m"));
    assert!(m.outputs.is_empty() && !s.join("m/confusion.safetensors").exists());
    let rows = m.metrics["confusion"].as_array().unwrap();
    assert_eq!((rows.len(), rows[0].as_array().unwrap().len()), (200, 200));
    let of = |row: &Value| row.as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(rows.iter().map(of).sum::<u64>(), TEST as u64);
    s.one("report", "figure --kind confusion m -q -o a/f.svg");
}
