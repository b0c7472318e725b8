//! Tests `mk-imbalance` on image files and what follows it: training, evaluation and predictions.

use std::fs;
use std::path::Path;

use image::{Rgb, RgbImage};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::common::{Sandbox, refused};

/// Returns an image of any size whose pixels depend on its class and number.
pub fn picture(class: usize, number: usize, width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let wave = |c: u32| ((x * (3 + class as u32) + y * (7 - class as u32 % 4) + 20 * c) % 97) as u8;
        let [of_number, of_class] = [number * 13 % 100, class * 50].map(|n| n as u8);
        Rgb([wave(0).wrapping_add(of_number), wave(1).wrapping_add(of_class), wave(2)])
    })
}

pub fn save(path: &Path, image: &RgbImage) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.save(path).unwrap();
}

/// Writes a folder per class with the given number of images.
pub fn tree(root: &Path, classes: &[(&str, usize)]) {
    for (class, (name, count)) in classes.iter().enumerate() {
        for n in 0..*count {
            let ending = ["png", "jpg", "bmp"][n % 3];
            let (width, height) = (20 + (n as u32 * 7) % 40, 30 + (n as u32 * 11) % 23);
            save(&root.join(format!("{name}/{n:03}.{ending}")), &picture(class, n, width, height));
        }
    }
}

/// Returns the labels and paths of a split's images, in order.
pub fn rows(s: &Sandbox, m: &Value, split: &str) -> Vec<(i64, String)> {
    let dir = Path::new(m["path"].as_str().unwrap()).parent().unwrap().to_owned();
    let list = fs::read_to_string(s.join(dir.join("files.tsv"))).unwrap();
    let paths: Vec<&str> = list.lines().map(|line| line.split_once('\t').unwrap().0).collect();
    let mut all = vec![];
    for output in m["outputs"].as_array().unwrap().iter().filter(|o| o["role"] == split) {
        let bytes = fs::read(dir.join(output["path"].as_str().unwrap())).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let labels = tensors.tensor("labels").unwrap();
        let index = tensors.tensor("source_index").unwrap();
        let labels = labels.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b));
        let index = index.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b));
        all.extend(labels.zip(index).map(|(label, row)| (label, paths[row as usize].to_owned())));
    }
    all
}

#[test]
fn from_folders_to_predictions() {
    let s = Sandbox::new();
    tree(&s.join("photos"), &[("ant", 40), ("Bee", 25), ("cat 1", 12), ("d,e", 7)]);
    fs::write(s.join("photos/ant/notes.txt"), "not an image").unwrap();
    let m = s.one("mk-imbalance", "--dataset folder --data photos --size 16");
    assert_eq!(m["semantics"], 2, "the version of the decoding is in the key");
    // Upper case sorts before lower case, as in ImageFolder.
    assert_eq!(m["metrics"]["class_names"], json!(["Bee", "ant", "cat 1", "d,e"]));
    assert_eq!(m["metrics"]["cls_num_list"], json!([20, 32, 10, 6]));
    assert_eq!((m["metrics"]["test"].clone(), m["metrics"]["height"].clone()), (json!(16), json!(16)));
    assert_eq!(m["params"]["imb_type"], "none");
    assert_eq!(m["metrics"]["preprocess"], json!({"size": 16}));
    let inputs = m["inputs"].as_array().unwrap();
    assert_eq!((inputs.len(), &inputs[0]["role"]), (1, &json!("images")));
    let list = m["outputs"].as_array().unwrap().iter().find(|o| o["role"] == "files").unwrap();
    assert_eq!(inputs[0]["blake3"], list["blake3"], "the tree's hash is that of the list");
    let (train, test) = (rows(&s, &m, "train"), rows(&s, &m, "test"));
    assert!(train.is_sorted_by_key(|(label, path)| (*label, path.clone())), "in the order of ImageFolder");
    assert_eq!(train.len() + test.len(), 84);
    assert!(train.iter().chain(&test).all(|(label, path)| {
        path.starts_with(&format!("{}/", m["metrics"]["class_names"][*label as usize].as_str().unwrap()))
    }));

    // The second call answers at once, without reading the images.
    let again = s.one("mk-imbalance", "--dataset folder --data photos --size 16");
    assert_eq!(again["run"], m["run"]);

    let data = m["path"].as_str().unwrap();
    let run = s.one("train", &format!("{data} --arch resnet20 --epochs 2 --batch-size 16 --method remix"));
    assert_eq!(run["params"]["mean"], m["metrics"]["mean"], "normalised by what was measured");
    assert_eq!(run["metrics"]["preprocess"], json!({"size": 16}));
    let run = run["path"].as_str().unwrap().to_owned();
    let metrics = s.one("eval", &run);
    assert_eq!(metrics["params"]["mean"], m["metrics"]["mean"]);
    let known = s.one("embed", &run);
    let listed: String = test.iter().map(|(_, path)| format!("photos/{path}\n")).collect();
    fs::write(s.join("list.txt"), listed).unwrap();
    let new = s.one("embed", &format!("{run} --images list.txt --top 2"));
    assert_eq!(
        (&known["semantics"], &new["semantics"]),
        (&2.into(), &5.into()),
        "its own and the decoding's"
    );
    let tensors = |m: &Value| {
        let file = Path::new(m["path"].as_str().unwrap()).with_file_name("features.safetensors");
        fs::read(file).unwrap()
    };
    let (known, predicted) = (tensors(&known), tensors(&new));
    let (known, predicted) =
        (SafeTensors::deserialize(&known).unwrap(), SafeTensors::deserialize(&predicted).unwrap());
    for name in ["logits", "features", "predictions"] {
        let same = known.tensor(name).unwrap().data() == predicted.tensor(name).unwrap().data();
        assert!(same, "{name}: as those of the data set");
    }
    assert!(predicted.tensor("labels").is_err());
    let table = Path::new(new["path"].as_str().unwrap()).with_file_name("predictions.csv");
    let mut table = csv::Reader::from_path(table).unwrap();
    assert_eq!(table.headers().unwrap(), vec!["path", "class", "probability", "class_2", "probability_2"]);
    let records: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), test.len());
    let predictions = predicted.tensor("predictions").unwrap();
    for (n, record) in records.iter().enumerate() {
        let class = predictions.data()[8 * n] as usize;
        assert_eq!(record[0], format!("photos/{}", test[n].1));
        assert_eq!(record[1], *m["metrics"]["class_names"][class].as_str().unwrap());
        let [first, second] = [2, 4].map(|at| record[at].parse::<f64>().unwrap());
        assert!(first >= second && first + second <= 1.000_001 && second >= 0.0);
    }

    // A directory with images that cannot be read: the others are predicted, and the exit code reports the
    // failure.
    fs::create_dir(s.join("new")).unwrap();
    fs::copy(s.join("photos/ant/001.jpg"), s.join("new/good.jpg")).unwrap();
    fs::write(s.join("new/bad.jpg"), "text").unwrap();
    fs::write(s.join("new/two\nlines.jpg"), "text").unwrap();
    save(&s.join("new/.thumbnails/good.jpg"), &picture(0, 0, 9, 9));
    let output = s.tool("embed", &format!("{run} --images new")).assert().code(1).get_output().clone();
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = |n: usize| m["metrics"]["skipped"][n]["path"].as_str().unwrap().to_owned();
    assert_eq!([skipped(0), skipped(1)], ["bad.jpg", "two\nlines.jpg"]);
    assert_eq!(m["metrics"]["images"], 1);
    let mut listed = s.tool("embed", &format!("{run} --images -"));
    let names = b"photos/ant/001.jpg\nnowhere.png\nphotos/\xff.png\n";
    let output = listed.write_stdin(&names[..]).assert().code(1).get_output().clone();
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(m["metrics"]["skipped"].as_array().unwrap().len(), 2);
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("2 images could not be read and were left out, such as \"nowhere.png\"")
    );
}

#[test]
fn splits_that_are_there_stay() {
    let s = Sandbox::new();
    for (split, count) in [("train", 5), ("valid", 2)] {
        tree(&s.join(format!("two/{split}")), &[("a", count), ("b", count)]);
        tree(&s.join(format!("three/{split}")), &[("a", count), ("b", count)]);
    }
    tree(&s.join("three/test"), &[("b", 3)]);
    let m = s.one("mk-imbalance", "--dataset folder --data two --size 8");
    assert_eq!([&m["metrics"]["train"], &m["metrics"]["val"], &m["metrics"]["test"]], [10, 0, 4]);
    let m = s.one("mk-imbalance", "--dataset folder --data three --size 8");
    assert_eq!([&m["metrics"]["train"], &m["metrics"]["val"], &m["metrics"]["test"]], [10, 4, 3]);
    assert!(rows(&s, &m, "test").iter().all(|(label, _)| *label == 1), "numbered as in training");
    refused(
        s.tool("mk-imbalance", "-q --dataset folder --data three --size 8 --val-fraction 0.2").assert(),
        "already a val split",
    );
    tree(&s.join("three/test"), &[("zebra", 1)]);
    refused(s.tool("mk-imbalance", "-q --dataset folder --data three --size 8").assert(), "zebra");
}

#[test]
fn classes_are_numbered_as_asked() {
    let s = Sandbox::new();
    tree(&s.join("t"), &[("10", 5), ("2", 9), ("1", 7)]);
    let names = |flags: &str| {
        let m = s.one("mk-imbalance", &format!("-q --dataset folder --data t --size 8 {flags}"));
        m["metrics"]["class_names"].clone()
    };
    let said = s.said("mk-imbalance", "--dataset folder --data t --size 8", 0);
    assert!(said.contains("\"10\" before \"2\""), "{said}");
    assert_eq!(names(""), json!(["1", "10", "2"]));
    assert_eq!(names("--class-order natural"), json!(["1", "2", "10"]));
    assert_eq!(names("--class-order frequency"), json!(["2", "1", "10"]));
    fs::write(s.join("order"), "10\n2\n1\n").unwrap();
    assert_eq!(names("--class-order order"), json!(["10", "2", "1"]));
    fs::write(s.join("names"), "ten\ntwo\none\n").unwrap();
    assert_eq!(names("--class-order order --class-names names"), json!(["ten", "two", "one"]));
    fs::write(s.join("order"), "10\n2\n3\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset folder --data t --size 8 --class-order order").assert(),
        "missing: 1; unknown: 3",
    );
    fs::write(s.join("names"), "ten\ntwo\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset folder --data t --size 8 --class-names names").assert(),
        "3 classes, but 2 names",
    );
}

#[test]
fn a_profile_takes_what_is_there() {
    let s = Sandbox::new();
    tree(&s.join("t"), &[("a", 25), ("b", 10), ("c", 15), ("d", 10)]);
    let m = s.one("mk-imbalance", "-q --dataset folder --data t --size 8 --imb-type exp --imb-ratio 8");
    // After the cut there are 20, 8, 12 and 8 images; the profile asks for 20, 10, 5 and 2.
    assert_eq!(m["metrics"]["cls_num_list"], json!([20, 8, 5, 2]));
    let m = s.one("mk-imbalance", "-q --dataset folder --data t --size 8 --max-per-class 10");
    assert_eq!(m["metrics"]["cls_num_list"], json!([10, 8, 10, 8]));
    let again = "--dataset folder --data t --size 8 --imb-type exp --imb-ratio 8 --force";
    let said = s.said("mk-imbalance", again, 0);
    assert!(said.contains("b (8 of 10)"), "{said}");
}

#[test]
fn published_layouts() {
    let s = Sandbox::new();
    // iNaturalist: annotations are joined by image_id and may be in another order.
    for n in 0..8 {
        save(&s.join(format!("inat/train_val2018/Plantae/{}/{n}.jpg", n % 2)), &picture(n % 2, n, 12, 9));
    }
    let json = |numbers: &[usize]| {
        let images: Vec<Value> = numbers
            .iter()
            .map(|n| json!({"id": 100 + n, "file_name": format!("train_val2018/Plantae/{}/{n}.jpg", n % 2), "width": 1}))
            .collect();
        let annotations: Vec<Value> = numbers
            .iter()
            .rev()
            .map(|n| json!({"id": n, "image_id": 100 + n, "category_id": n % 2}))
            .collect();
        let categories = json!([{"id": 0, "name": "Abies alba"}, {"id": 1, "name": "Acer rubrum"}]);
        json!({"images": images, "annotations": annotations, "categories": categories}).to_string()
    };
    fs::write(s.join("train.json"), json(&[0, 1, 2, 3, 4, 5])).unwrap();
    fs::write(s.join("val.json"), json(&[6, 7])).unwrap();
    let m = s.one(
        "mk-imbalance",
        "-q --dataset inaturalist --data inat --train-json train.json --val-json val.json --size 8",
    );
    assert_eq!(m["metrics"]["class_names"], json!(["Abies alba", "Acer rubrum"]));
    assert_eq!([&m["metrics"]["train"], &m["metrics"]["val"], &m["metrics"]["test"]], [6, 0, 2]);
    assert!(rows(&s, &m, "train").iter().all(|(label, path)| path.contains(&format!("/{label}/"))));

    // Tiny-ImageNet: labels are the ranks of the sorted wnids, whatever the order in wnids.txt.
    let wnids = ["n02", "n01", "n03"];
    let mut annotations = String::new();
    for (class, wnid) in wnids.iter().enumerate() {
        for n in 0..3 {
            let name = format!("tiny/train/{wnid}/images/{wnid}_{n}.JPEG");
            save(&s.join(&name), &picture(class, n, 64, 64));
        }
        save(&s.join(format!("tiny/val/images/val_{class}.JPEG")), &picture(class, 9, 64, 64));
        annotations += &format!("val_{class}.JPEG\t{wnid}\t0\t0\t62\t62\n");
        fs::write(s.join(format!("tiny/train/{wnid}/{wnid}_boxes.txt")), "").unwrap();
    }
    fs::write(s.join("tiny/wnids.txt"), wnids.join("\n")).unwrap();
    fs::write(s.join("tiny/val/val_annotations.txt"), annotations).unwrap();
    let m = s.one("mk-imbalance", "-q --dataset tiny-imagenet --data tiny");
    assert_eq!(m["metrics"]["class_names"], json!(["n01", "n02", "n03"]));
    assert_eq!((&m["metrics"]["official"], &m["metrics"]["height"]), (&json!(false), &json!(64)));
    let test: Vec<String> =
        rows(&s, &m, "test").into_iter().map(|(label, path)| format!("{label} {path}")).collect();
    assert_eq!(test, ["0 val/images/val_1.JPEG", "1 val/images/val_0.JPEG", "2 val/images/val_2.JPEG"]);

    // CINIC-10.
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    for split in ["train", "valid", "test"] {
        tree(&s.join(format!("cinic/{split}")), &names.map(|name| (name, 4)));
    }
    let m = s.one("mk-imbalance", "-q --dataset cinic10 --data cinic --imb-type exp --imb-ratio 4");
    assert_eq!([&m["metrics"]["val"], &m["metrics"]["test"], &m["metrics"]["height"]], [40, 40, 32]);
    assert_eq!(m["metrics"]["cls_num_list"], json!([4, 3, 2, 2, 2, 1, 1, 1, 1, 1]));
    refused(s.tool("mk-imbalance", "-q --dataset cinic10 --data tiny").assert(), "is not CINIC-10");
    refused(
        s.tool("mk-imbalance", "-q --dataset tiny-imagenet --data inat").assert(),
        "is not Tiny-ImageNet-200",
    );
}

#[test]
fn what_is_wrong_with_files_is_said_in_a_line() {
    let s = Sandbox::new();
    let run = |flags: &str| s.tool("mk-imbalance", &format!("-q --dataset folder --size 8 {flags}")).assert();
    refused(run("--data nowhere"), "nowhere: there is no such directory; --data must be");
    fs::write(s.join("photo.png"), "").unwrap();
    refused(run("--data photo.png"), "photo.png: is a file, no directory; --data must be");
    fs::create_dir(s.join("empty")).unwrap();
    refused(run("--data empty"), "no classes");
    tree(&s.join("one"), &[("a", 3)]);
    refused(run("--data one"), "only one class");
    tree(&s.join("gap"), &[("a", 3), ("c", 3)]);
    fs::create_dir(s.join("gap/b")).unwrap();
    refused(
        run("--data gap"),
        "1 class without training images: b; add images, or leave out such classes with --drop-empty",
    );
    let m = s.one("mk-imbalance", "-q --dataset folder --size 8 --data gap --drop-empty");
    assert_eq!(m["metrics"]["class_names"], json!(["a", "c"]));
    refused(
        s.tool("mk-imbalance", "-q --dataset folder --data gap --drop-empty").assert(),
        "--size N is required: the side of the images in pixels",
    );
    refused(run("--data gap --drop-empty --imb-ratio 10"), "--imb-ratio: does nothing here");
    refused(run("--data gap --drop-empty --train-list x"), "--train-list: does nothing here");
    refused(run("--data gap --drop-empty --resize 8"), "must be larger than --size 8");
    for (flags, why) in [
        ("--test-fraction 0", "--test-fraction 0: must be above 0 and below 1"),
        ("--test-fraction 1", "--test-fraction 1: must be above 0 and below 1"),
        ("--val-fraction -0.1", "--val-fraction -0.1: must be at least 0 and below 1"),
        ("--val-fraction 1", "--val-fraction 1: must be at least 0 and below 1"),
        ("--val-fraction 0.99", "--val-fraction 0.99 and --test-fraction 0.2: must add up to less than 1"),
        ("--class-order none", "--class-order none: is not lexical, natural or frequency, and there is no"),
        ("--class-order gap", "--class-order: gap: Is a directory"),
    ] {
        refused(run(&format!("--data gap --drop-empty {flags}")), why);
    }

    tree(&s.join("bad"), &[("a", 6), ("b", 6)]);
    fs::write(s.join("bad/a/text.jpg"), "not an image").unwrap();
    let torn = fs::read(s.join("bad/a/001.jpg")).unwrap();
    fs::write(s.join("bad/b/torn.jpg"), &torn[..torn.len() / 2]).unwrap();
    save(&s.join("bad/b/one.png"), &picture(1, 1, 1, 1));
    refused(
        run("--data bad --test-fraction 0.01"),
        "3 of 15 images cannot be read: a/text.jpg: is not an image in a supported format; b/one.png: has 1×1 pixels, too few for an image; b/torn.jpg: the JPEG is truncated; repair or remove them",
    );
    let skip = "-q --dataset folder --size 8 --data bad --on-error skip";
    let output = s.tool("mk-imbalance", skip).assert().code(1).get_output().clone();
    let m: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped: Vec<&str> =
        m["metrics"]["skipped"].as_array().unwrap().iter().map(|s| s["path"].as_str().unwrap()).collect();
    assert_eq!(skipped.len(), 3, "{skipped:?}");
    let counts: u64 =
        m["metrics"]["cls_num_list"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(counts + m["metrics"]["test"].as_u64().unwrap(), 12);
    s.tool("mk-imbalance", skip).assert().code(1);
    refused(run("--data bad --on-error skip --max-pixels 10"), "has no training image that can be read");
    refused(
        run("--data bad --max-pixels 10"),
        "; raise --max-pixels, repair or remove them, or leave them out",
    );
    refused(
        run("--data gap --drop-empty --class-names nope.txt"),
        "nope.txt: No such file or directory (os error 2); check the path",
    );
    let ratio = "--data gap --drop-empty --imb-type exp --imb-ratio 9";
    refused(run(ratio), "the largest class has 2 training images, so the largest usable ratio is 2");

    tree(&s.join("loop"), &[("a", 2), ("b", 2)]);
    std::os::unix::fs::symlink("..", s.join("loop/a/up")).unwrap();
    refused(run("--data loop"), "is a link that leads back to");
    fs::remove_file(s.join("loop/a/up")).unwrap();
    std::os::unix::fs::symlink("nowhere", s.join("loop/a/x.png")).unwrap();
    refused(run("--data loop"), "1 of 5 images cannot be read: a/x.png: No such file");

    // Small classes, and the same image in both splits.
    tree(&s.join("small"), &[("a", 9), ("b", 1), ("c", 2)]);
    fs::create_dir_all(s.join("small/a")).unwrap();
    let said = s.said("mk-imbalance", "--dataset folder --size 8 --data small --val-fraction 0.2", 0);
    assert!(
        said.contains("2 classes too small to have images in every split") && said.contains("b, c"),
        "{said}"
    );
    tree(&s.join("few"), &[("a", 1), ("b", 2)]);
    let said = s.said("mk-imbalance", "--dataset folder --size 8 --data few", 0);
    assert!(said.contains("1 of the 3 images is held out for it"), "{said}");
    for split in ["train", "test"] {
        tree(&s.join(format!("both/{split}")), &[("a", 3), ("b", 3)]);
    }
    let m = s.one("mk-imbalance", "--dataset folder --size 8 --data both");
    assert_eq!(m["metrics"]["test_images_in_train"], 6);
}

#[test]
fn larger_squares_are_stored_and_cropped() {
    let s = Sandbox::new();
    tree(&s.join("t"), &[("a", 20), ("b", 12)]);
    let m = s.one("mk-imbalance", "-q --dataset folder --data t --resize 20 --size 16 --normalise imagenet");
    assert_eq!((&m["metrics"]["height"], &m["metrics"]["crop"]), (&json!(20), &json!(16)));
    assert_eq!(m["metrics"]["normalise"]["mean"], json!([0.485, 0.456, 0.406]));
    let data = m["path"].as_str().unwrap();
    let run = s.one("train", &format!("-q {data} --arch resnet20 --epochs 1 --batch-size 8"));
    assert_eq!(run["params"]["preprocess"], json!({"size": 16, "resize": 20}));
    assert_eq!(run["params"]["mean"], json!([0.485, 0.456, 0.406]));
    let run = run["path"].as_str().unwrap();
    let metrics = s.one("eval", &format!("-q {run}"));
    assert_eq!(metrics["params"]["preprocess"], json!({"size": 16, "resize": 20}));
    let known = s.one("embed", &format!("-q {run}"));
    let listed: String = rows(&s, &m, "test").iter().map(|(_, path)| format!("t/{path}\n")).collect();
    fs::write(s.join("list"), listed).unwrap();
    let new = s.one("embed", &format!("-q {run} --images list"));
    let logits = |m: &Value| {
        let file = Path::new(m["path"].as_str().unwrap()).with_file_name("features.safetensors");
        let bytes = fs::read(file).unwrap();
        SafeTensors::deserialize(&bytes).unwrap().tensor("logits").unwrap().data().to_vec()
    };
    assert!(logits(&known) == logits(&new));
    // The same weights on images of another size: eval warns.
    let other = s.one("mk-imbalance", "-q --dataset folder --data t --size 24");
    let other = other["path"].as_str().unwrap();
    let said = s.said("eval", &format!("{run} --data {other}"), 0);
    assert!(
        said.contains("images preprocessed to 16×16 crops of 20×20, but these were preprocessed to 24×24"),
        "{said}"
    );
}

/// Files that are passed over are reported before the error that they explain.
#[test]
fn files_that_are_passed_over_are_reported() {
    let s = Sandbox::new();
    tree(&s.join("im"), &[("a", 6), ("b", 6), ("c", 4)]);
    save(&s.join("flat/1.png"), &picture(0, 1, 9, 9));
    fs::write(s.join("flat/x.HEIC"), "").unwrap();
    fs::create_dir(s.join("im/.git")).unwrap();
    // A file that is not regular, although its name is that of an image.
    let _socket = std::os::unix::net::UnixListener::bind(s.join("im/a/socket.jpg")).unwrap();
    let said = s.said("mk-imbalance", "--dataset folder --data im --size 8", 0);
    assert!(said.contains("skipped 1 image that is not a regular file: a/socket.jpg"), "{said}");
    assert!(said.contains("skipped 1 hidden directory or image: im/.git"), "{said}");
    let said = s.said("mk-imbalance", "--dataset folder --data flat --size 8", 2);
    assert!(said.contains("left out 1 image outside the class directories: flat/1.png"), "{said}");
    assert!(said.contains("skipped 1 file whose name is not that of an image: 1 .HEIC"), "{said}");
    assert!(!said.contains("held out"), "nothing is cut from nothing: {said}");
}

#[test]
fn labels_that_mean_other_classes_are_refused() {
    let s = Sandbox::new();
    tree(&s.join("im"), &[("a", 10), ("b", 10)]);
    fs::write(s.join("order.txt"), "b\na\n").unwrap();
    let data = s.one("mk-imbalance", "--dataset folder --data im --size 8 --out one")["path"].clone();
    s.one("mk-imbalance", "--dataset folder --data im --size 8 --class-order order.txt --out other");
    let run = format!("{} --arch resnet20 --epochs 1 --batch-size 8 --out run", data.as_str().unwrap());
    s.one("train", &run);
    let said = s.said("eval", "run --data other -q", 2);
    assert!(said.contains("the data set has the checkpoint's classes in another order"), "{said}");
    // Tables name a data set of image files after its directory.
    let m = s.one("eval", "run");
    fs::write(s.join("m.json"), m.to_string()).unwrap();
    let table = s.printed("report", "table m.json --format md");
    assert!(table.contains("## im"), "{table}");
}
