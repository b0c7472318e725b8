//! Tests `embed --import`: features that were computed elsewhere, as a data set for classifiers.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use serde_json::json;

use crate::common::{Sandbox, refused, with_data};

const FILES: &str = "--import train=a.npz --import test=b.safetensors";

/// Returns 5 features and the label of each of n images of two classes, which the first feature separates; in
/// f64, as in numpy.
fn arrays(n: usize) -> [(&'static str, Tensor); 2] {
    let value = |i: usize, f: usize| if f == 0 { (i % 2) as f64 * 4.0 } else { (i * 7 + f * 3) as f64 % 1.7 };
    let x: Vec<f64> = (0..n * 5).map(|at| value(at / 5, at % 5)).collect();
    let labels: Vec<i64> = (0..n).map(|i| (i % 2) as i64).collect();
    let x = Tensor::from_vec(x, (n, 5), &Device::Cpu).unwrap();
    [("features", x), ("labels", Tensor::from_vec(labels, n, &Device::Cpu).unwrap())]
}

/// Writes 40 training images in `a.npz`, 10 test images in `b.safetensors`, and the names of the classes.
fn write_arrays(s: &Sandbox) {
    Tensor::write_npz(&arrays(40), s.join("a.npz")).unwrap();
    candle_core::safetensors::save(&arrays(10).into_iter().collect(), s.join("b.safetensors")).unwrap();
    fs::write(s.join("names.txt"), "left\nright\n").unwrap();
}

/// Asserts that these files cannot be imported.
fn not_imported(s: &Sandbox, train: &str, test: &str, why: &str) {
    let args = format!("--import train={train} --import test={test} -q");
    refused(s.tool("embed", &args).assert(), why);
}

#[test]
fn imported_features_are_a_data_set() {
    let s = with_data();
    write_arrays(&s);
    let m = s.one("embed", &format!("{FILES} --class-names names.txt --name mine -q --out in"));
    assert_eq!(m["params"]["arch"], "features-5");
    assert_eq!(m["metrics"]["cls_num_list"], json!([20, 20]));
    for classifier in ["linear", "cosine", "ncm", "ncm-cosine"] {
        s.one("train", &format!("in --classifier {classifier} -q --out {classifier}"));
    }
    let bytes = fs::read(s.join("linear/last.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    assert_eq!(names, ["linear.bias", "linear.weight"]);
    let found = s.run("eval", "linear cosine ncm ncm-cosine -q");
    assert_eq!(found[2]["metrics"]["top1"], 100.0, "two classes whose means lie apart");
    let text: String = found.iter().map(|m| format!("{m}\n")).collect();
    fs::write(s.join("m.jsonl"), text).unwrap();
    assert!(s.printed("report", "table m.jsonl --format md").contains("## mine"));
    // --data accepts other features, but no images.
    s.one("embed", "--import train=b.safetensors --import test=a.npz --class-names names.txt -q --out other");
    s.one("eval", "linear --data other -q");
    let said = s.said("eval", "linear --data data -q --device cpu", 2);
    assert!(said.contains("it has no network to run on images"), "{said}");
    refused(
        s.tool("train", "in --classifier tau-norm -q").assert(),
        "the features were imported, so there is no classifier to rescale",
    );
}

#[test]
fn the_same_arrays_in_other_files_give_the_same_bytes() {
    let s = Sandbox::new();
    write_arrays(&s);
    let [x, labels] = arrays(40);
    x.1.write_npy(s.join("x.npy")).unwrap();
    labels.1.write_npy(s.join("y.npy")).unwrap();
    // Compressed as np.savez_compressed does.
    let mut whole = zip::ZipArchive::new(fs::File::open(s.join("a.npz")).unwrap()).unwrap();
    let mut small = zip::ZipWriter::new(fs::File::create(s.join("small.npz")).unwrap());
    let deflated =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for n in 0..whole.len() {
        let mut member = whole.by_index(n).unwrap();
        small.start_file(member.name().unwrap(), deflated).unwrap();
        std::io::copy(&mut member, &mut small).unwrap();
    }
    small.finish().unwrap();

    let imported = |train: &str, out: &str| {
        s.one("embed", &format!("--import train={train} --import test=b.safetensors -q --out {out}"));
        fs::read(s.join(out).join("train-features.safetensors")).unwrap()
    };
    let truth = imported("a.npz", "whole");
    assert!(imported("x.npy,y.npy", "apart") == truth);
    assert!(imported("small.npz", "small") == truth);
}

#[test]
fn each_split_is_imported_once() {
    let s = Sandbox::new();
    write_arrays(&s);
    let import = |flags: &str| s.tool("embed", &format!("{flags} -q")).assert();
    refused(import("--import test=a.npz"), "--import train=FILE is required");
    refused(import("--import train=a.npz"), "--import test=FILE is required");
    refused(import("--import train=a.npz --import train=a.npz"), "--import train: is given twice");
    let said = s.said("embed", "--import train=a.npz --import test=a.npz --out twice", 0);
    assert!(said.contains("train and test are the same file"), "{said}");
}

#[test]
fn a_name_is_not_a_path() {
    let s = Sandbox::new();
    write_arrays(&s);
    for name in ["../x", "a/b"] {
        let m = s.one("embed", &format!("{FILES} --name {name} -q"));
        assert_eq!(m["params"]["dataset"], name);
        let manifest = Path::new(m["path"].as_str().unwrap()).canonicalize().unwrap();
        let embeddings = s.join("embeddings").canonicalize().unwrap();
        assert_eq!(manifest.ancestors().nth(2), Some(&*embeddings), "{name}");
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let s = Sandbox::new();
    write_arrays(&s);
    let [x, labels] = arrays(40);
    x.1.write_npy(s.join("x.npy")).unwrap();
    labels.1.write_npy(s.join("y.npy")).unwrap();
    let said = s.said("embed", "--import train=x.npy --import test=b.safetensors -q", 2);
    assert!(said.contains("expected .npy files as FEATURES.npy,LABELS.npy"), "{said}");
    fs::create_dir(s.join("arrays")).unwrap();
    let whole = fs::read(s.join("a.npz")).unwrap();
    fs::write(s.join("cut.npz"), &whole[..whole.len() / 2]).unwrap();
    // Inside an array, where only the checksum tells.
    let mut damaged = whole;
    damaged[200] ^= 1;
    fs::write(s.join("damaged.npz"), damaged).unwrap();
    let whole = fs::read(s.join("x.npy")).unwrap();
    let at = whole.windows(3).position(|bytes| bytes == b"<f8").unwrap();
    fs::write(s.join("objects.npy"), [&whole[..at], b"|O ", &whole[at + 3..]].concat()).unwrap();
    for (train, why) in [
        (
            "nowhere.npz",
            "--import train=nowhere.npz: No such file or directory (os error 2); check the path and its permissions",
        ),
        ("x.npy,nowhere.npy", "nowhere.npy: No such file"),
        ("arrays", "train=arrays: is a directory"),
        (
            "cut.npz",
            "--import train=cut.npz: `features` cannot be read: the file is truncated or damaged, or was not \
             written by np.save or np.savez",
        ),
        ("damaged.npz", "the file is truncated or damaged"),
        ("objects.npy,y.npy", "objects.npy: `features` is an array of Python objects, which cannot be read"),
        ("names.txt", "names.txt: is not a safetensors file"),
    ] {
        not_imported(&s, train, "b.safetensors", why);
    }
}

#[test]
fn arrays_that_do_not_fit_together_are_refused() {
    let s = Sandbox::new();
    write_arrays(&s);
    let [x, labels] = arrays(6);
    let of = |labels: [i64; 6]| ("labels", Tensor::from_vec(labels.to_vec(), 6, &Device::Cpu).unwrap());
    for (arrays, why) in [
        (vec![x.clone()], "has no array `labels`"),
        (
            vec![x.clone(), ("labels", labels.1.to_dtype(DType::F32).unwrap())],
            "`labels` has type F32, not an integer type",
        ),
        (
            vec![("features", x.1.narrow(0, 0, 5).unwrap()), labels.clone()],
            "`features` has 5 rows, but `labels` has 6",
        ),
        (
            vec![("features", x.1.affine(f64::INFINITY, 0.0).unwrap()), labels.clone()],
            "in row 0; all values must be finite",
        ),
        // Ids instead of classes.
        (
            vec![x.clone(), of([0, 1, 2, 3, 4, 1_000_000_000])],
            "has 1000000000 in row 5, but there are only 6 images",
        ),
    ] {
        Tensor::write_npz(&arrays, s.join("x.npz")).unwrap();
        not_imported(&s, "x.npz", "b.safetensors", why);
    }
    for (arrays, why) in [
        ([x.clone(), of([0, 1, 2, 0, 1, 0])], "has 2 in row 2, but train has 2 classes"),
        (
            [("features", x.1.narrow(1, 0, 3).unwrap()), labels.clone()],
            "has 3 features per image, but train has 5",
        ),
    ] {
        Tensor::write_npz(&arrays, s.join("x.npz")).unwrap();
        not_imported(&s, "a.npz", "x.npz", why);
    }
    fs::write(s.join("one.txt"), "left\n").unwrap();
    refused(
        s.tool("embed", &format!("{FILES} --class-names one.txt -q")).assert(),
        "1 names, but there is a label 1",
    );
}
