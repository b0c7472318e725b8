//! Tests `mk-imbalance` on lists of image files: their dialects, paths and labels.

use std::fs;

use serde_json::{Value, json};

use crate::common::{Sandbox, refused};
use crate::folders::{picture, rows, save, tree};

#[test]
fn lists_of_all_dialects() {
    let s = Sandbox::new();
    for (class, name) in ["airfield", "apartment_building-outdoor"].iter().enumerate() {
        for n in 0..3 {
            save(&s.join(format!("easy/train/{name}/{n} x.png")), &picture(class, n, 9, 9));
            let apart = name.replace('-', "/");
            save(&s.join(format!("256/data_256/a/{apart}/{n} x.png")), &picture(class, n, 9, 9));
            save(&s.join(format!("easy/val/{class}{n}.png")), &picture(class, 10 + n, 9, 9));
            save(&s.join(format!("256/val_256/{class}{n}.png")), &picture(class, 10 + n, 9, 9));
        }
    }
    let train = |dir: &dyn Fn(usize) -> String| -> String {
        let line = |at: usize| format!("{}/{} x.png {}\n", dir(at / 3), at % 3, at / 3);
        (0..6).map(line).collect()
    };
    let easy = train(&|class| format!("train/{}", ["airfield", "apartment_building-outdoor"][class]));
    let apart = train(&|class| format!("data_256/a/{}", ["airfield", "apartment_building/outdoor"][class]));
    fs::write(s.join("easy.txt"), easy.trim_end()).unwrap();
    fs::write(s.join("apart.txt"), apart).unwrap();
    let test: String = (0..6).map(|n| format!("val/airfield/{}{}.png {}\r\n", n / 3, n % 3, n / 3)).collect();
    fs::write(s.join("test.txt"), test).unwrap();
    let mut found = vec![];
    for (root, list) in [("easy", "easy"), ("easy", "apart"), ("256", "easy"), ("256", "apart")] {
        let flags = format!("--data {root} --train-list {list}.txt --test-list test.txt");
        let m = s.one("mk-imbalance", &format!("-q --dataset list {flags} --size 8"));
        assert_eq!(m["metrics"]["cls_num_list"], json!([3, 3]));
        found.push(m["metrics"]["images"].clone());
    }
    assert!(found.iter().all(|images| *images == found[0]), "the same images each time");

    // A list without labels, and a CSV file with class names.
    let paths: String = (0..3).map(|n| format!("train/airfield/{n} x.png\n")).collect();
    fs::write(s.join("one.txt"), &paths).unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list one.txt --size 8").assert(),
        "only one class",
    );
    let csv: String = (0..6)
        .map(|n| {
            let dir = ["airfield", "apartment_building-outdoor"][n / 3];
            format!("\"train/{dir}/{} x.png\",\"{}\"\n", n % 3, ["zoo, the", "field"][n / 3])
        })
        .collect();
    fs::write(s.join("t.csv"), format!("path,label\n{csv}")).unwrap();
    let m = s.one("mk-imbalance", "-q --dataset list --data easy --train-list t.csv --size 8");
    assert_eq!(m["metrics"]["class_names"], json!(["field", "zoo, the"]));

    let missing: String = (0..7).map(|n| format!("train/airfield/{n} y.png 0\n")).collect();
    fs::write(s.join("missing.txt"), missing).unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list missing.txt --size 8").assert(),
        "7 of 7 files are not in easy: train/airfield/0 y.png, ",
    );
    fs::write(s.join("gone.txt"), "train/airfield/0 x.png 0\ntrain/airfield/9 x.png 0\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list gone.txt --size 8").assert(),
        "1 of 2 files is not in easy: train/airfield/9 x.png;",
    );
    fs::write(s.join("some.txt"), "train/airfield/0 x.png 0\ntrain/airfield/1 x.png\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list some.txt --size 8").assert(),
        "some.txt: has lines with a label (1) and without (1), such as \"train/airfield/1 x.png\"; give all",
    );
    fs::write(s.join("twice.txt"), "train/airfield/0 x.png 0\ntrain/airfield/0 x.png 1\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list twice.txt --size 8").assert(),
        "twice.txt: 1 path occurs more than once: train/airfield/0 x.png; keep",
    );
    let line = "train/airfield/0 x.png 0\n";
    fs::write(s.join("thrice.txt"), line.repeat(3)).unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list thrice.txt --size 8").assert(),
        "thrice.txt: 1 path occurs more than once: train/airfield/0 x.png; keep",
    );
    // The test list repeats paths of both other lists.
    for (list, images) in [("tr.txt", &[0, 1][..]), ("va.txt", &[2][..]), ("te.txt", &[1, 2, 0, 0][..])] {
        let lines: String = images.iter().map(|n| format!("train/airfield/{n} x.png 0\n")).collect();
        fs::write(s.join(list), lines).unwrap();
    }
    let lists = "--train-list tr.txt --val-list va.txt --test-list te.txt";
    refused(
        s.tool("mk-imbalance", &format!("-q --dataset list --data easy {lists} --size 8")).assert(),
        "te.txt: 2 paths are also in tr.txt, such as train/airfield/1 x.png; an image may be in one split only",
    );
    refused(
        s.tool(
            "mk-imbalance",
            "-q --dataset list --data easy --train-list easy.txt --test-list easy.txt --size 8",
        )
        .assert(),
        "easy.txt: 6 paths are also in easy.txt, such as train/airfield/0 x.png; an image may be in one split only",
    );
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list easy --size 8").assert(),
        "easy: Is a directory (os error 21); choose another path",
    );
    fs::write(s.join("broken.csv"), "path,label\n\"train/airfield/0\n x.png\",a\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list broken.csv --size 8").assert(),
        "broken.csv: \"train/airfield/0\\n x.png\" has a line break in its name, which lists of files cannot",
    );
    fs::write(s.join("tab.txt"), "train/airfield/0 x.png\tairfield\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list tab.txt --size 8").assert(),
        "tab.txt: \"train/airfield/0 x.png\\tairfield\" has a tab in its name, which lists of files cannot",
    );
    fs::write(s.join("out.txt"), "../one.txt 0\n").unwrap();
    refused(
        s.tool("mk-imbalance", "-q --dataset list --data easy --train-list out.txt --size 8").assert(),
        "is not a plain path below --data",
    );
}

#[test]
fn lists_name_files_in_one_way() {
    let s = Sandbox::new();
    // A directory inside another one of the same name, as archives often unpack.
    for (place, shift) in [("im/a", 0), ("im/b", 0), ("im/im/a", 9), ("im/im/b", 9)] {
        for n in 0..3 {
            save(&s.join(format!("{place}/{n}.png")), &picture(place.len() % 2, n + shift, 9, 9));
        }
    }
    let made = |list: &str, flags: &str| {
        fs::write(s.join("list.txt"), list).unwrap();
        let data = if flags.contains("--data") { "" } else { "--data im" };
        s.tool("mk-imbalance", &format!("--dataset list {data} --train-list list.txt --size 8 {flags}"))
            .assert()
    };
    let inner: String =
        (0..6).map(|n| format!("im/{}/{}.png {}\n", ["a", "b"][n / 3], n % 3, n / 3)).collect();
    let m: Value = serde_json::from_slice(&made(&inner, "").success().get_output().stdout).unwrap();
    assert!(rows(&s, &m, "train").iter().all(|(_, path)| path.starts_with("im/")), "below --data");
    // Absolute paths, whose first directory below --data is the class; and a CSV file, recognised by its
    // first line.
    let root = s.join("im").display().to_string();
    let absolute: String = (0..6).map(|n| format!("{root}/{}/{}.png\n", ["a", "b"][n / 3], n % 3)).collect();
    let m: Value = serde_json::from_slice(&made(&absolute, "").success().get_output().stdout).unwrap();
    assert_eq!(m["metrics"]["class_names"], json!(["a", "b"]));
    let csv = inner.replace(' ', ",").replace("im/", " ");
    let m = made(&format!("path,label\n{csv}"), "").success().get_output().stdout.clone();
    let m: Value = serde_json::from_slice(&m).unwrap();
    assert_eq!(m["metrics"]["cls_num_list"], json!([2, 2]));
    refused(
        made("a/0.png 0\na//0.png 1\nb/./0.png 1\nb/0.png 1\n", "-q"),
        "2 paths occur more than once: a/0.png, b/0.png",
    );
}

/// A pipe cannot be read again to hash it.
#[test]
fn lists_from_pipes_have_the_keys_of_their_content() {
    let s = Sandbox::new();
    tree(&s.join("im"), &[("a", 2), ("b", 2)]);
    let key = |flags: &str, file: &str| {
        let output = s.bash(&format!("$B/mk-imbalance -q --data im --size 8 --dry-run {flags} {file}"));
        assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
        let m: Value = serde_json::from_slice(&output.stdout).unwrap();
        m["key"].as_str().unwrap().to_owned()
    };
    let lines = |[a, b]: [usize; 2]| format!("a/000.png {a}\na/001.jpg {a}\nb/000.png {b}\nb/001.jpg {b}\n");
    let [list, other_list] = [[0, 1], [1, 0]].map(lines);
    for (flags, content, other) in [
        ("--dataset folder --class-order", "a\nb\n", "b\na\n"),
        ("--dataset folder --class-names", "x\ny\n", "y\nx\n"),
        ("--dataset list --train-list", &*list, &*other_list),
    ] {
        for (name, text) in [("content", content), ("other", other)] {
            fs::write(s.join(name), text).unwrap();
        }
        assert_eq!(key(flags, "<(cat content)"), key(flags, "content"), "{flags}");
        assert_ne!(key(flags, "<(cat content)"), key(flags, "<(cat other)"), "{flags}");
    }
}

#[test]
fn labels_of_two_lists_mean_the_same_classes() {
    let s = Sandbox::new();
    tree(&s.join("im"), &[("a", 4), ("b", 4), ("c", 4)]);
    let lines = |images: [usize; 2], label: &dyn Fn(usize) -> String| -> String {
        let line = |class: usize, n: usize| {
            format!("{}/{n:03}.{}{}\n", ["a", "b", "c"][class], ["png", "jpg", "bmp"][n % 3], label(class))
        };
        (0..3).flat_map(|class| images.map(|n| line(class, n))).collect()
    };
    let from_0 = |class: usize| format!(" {class}");
    let from_1 = |class: usize| format!(" {}", class + 1);
    let none = |_: usize| String::new();
    let refused_as = |train: &dyn Fn(usize) -> String, test: &dyn Fn(usize) -> String, why: &str| {
        fs::write(s.join("train.txt"), lines([0, 1], train)).unwrap();
        fs::write(s.join("test.txt"), lines([2, 3], test)).unwrap();
        let lists = "--dataset list --data im --train-list train.txt --test-list test.txt --size 8 -q";
        refused(s.tool("mk-imbalance", lists).assert(), why);
    };
    refused_as(&from_0, &none, "test.txt: has no labels, but the labels of train.txt are numbers");
    refused_as(&none, &from_0, "train.txt: has no labels, but the labels of test.txt are numbers");
    refused_as(
        &from_0,
        &from_1,
        "has the label 1, but training images in a directory of the same name have 0",
    );
}

#[test]
fn test_images_are_never_lost_without_a_word() {
    let s = Sandbox::new();
    tree(&s.join("im"), &[("a", 6), ("b", 6), ("c", 4)]);
    let lines = |classes: &[(&str, usize)]| -> String {
        let line =
            |(class, n): &(&str, usize)| format!("{class}/{n:03}.{},{class}\n", ["png", "jpg", "bmp"][n % 3]);
        "path,label\n".to_owned() + &classes.iter().map(line).collect::<String>()
    };
    fs::write(s.join("train.csv"), lines(&[("a", 0), ("a", 1), ("b", 0), ("b", 1)])).unwrap();
    fs::write(s.join("some.csv"), lines(&[("a", 2), ("c", 1), ("c", 2)])).unwrap();
    fs::write(s.join("none.csv"), lines(&[("c", 1), ("c", 2)])).unwrap();
    let made = |test: &str, flags: &str| {
        let lists = format!("--train-list train.csv --test-list {test}.csv");
        s.tool("mk-imbalance", &format!("--dataset list --data im {lists} --size 8 --drop-empty {flags}"))
            .assert()
    };
    let said = String::from_utf8_lossy(&made("some", "").success().get_output().stderr).into_owned();
    assert!(said.contains("also left out 2 test images of these classes"), "{said}");
    refused(made("none", "-q"), "no test images are left: all belong to classes without training images (c)");
}
