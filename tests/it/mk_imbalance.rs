//! Tests `mk-imbalance` on data that needs no download: the cache, the contents of the directory, and bad
//! input.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use crate::common::{Disk, Sandbox, refused};

const SMALL: &str = "--dataset synthetic --train-per-class 20 --test-per-class 2 --imb-ratio 10";

/// The files of CIFAR-10 with images; in the binary form, they end in `.bin`.
const BATCHES: [&str; 6] =
    ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];

#[test]
fn the_manifest_says_what_was_made() {
    let s = Sandbox::new();
    let m = s.one("mk-imbalance", &format!("{SMALL} --val-fraction 0.1 --rand-number 3 --shard-bytes 64K"));
    assert_eq!(m["kind"], "dataset");
    let params = json!({
        "dataset": "synthetic", "train_per_class": 20, "test_per_class": 2, "imb_type": "exp", "imb_ratio": 10,
        "val_fraction": 0.1, "rand_number": 3, "shard_bytes": 65536,
    });
    assert_eq!(m["params"], params);
    assert_eq!(m["metrics"]["cls_num_list"], json!([18, 13, 10, 8, 6, 5, 3, 3, 2, 1]));
    assert_eq!(
        (&m["metrics"]["train"], &m["metrics"]["val"], &m["metrics"]["test"]),
        (&json!(69), &json!(20), &json!(20))
    );
    let rows = |role: &str| -> Vec<u64> {
        let outputs = m["outputs"].as_array().unwrap().iter().filter(|o| o["role"] == role);
        outputs.map(|o| o["rows"].as_u64().unwrap()).collect()
    };
    assert_eq!((rows("train"), rows("val"), rows("test")), (vec![21, 21, 21, 6], vec![20], vec![20]));
    let key = m["key"].as_str().unwrap();
    let told = "val-fraction-0.1-rand-number-3-train-per-class-20-test-per-class-2";
    let place = s.join(format!("data/synthetic-exp-10-{told}-{}/manifest.json", &key[..12]));
    let place = place.canonicalize().unwrap();
    assert_eq!(Path::new(m["path"].as_str().unwrap()).canonicalize().unwrap(), place);
}

#[test]
fn only_what_matters_enters_the_key() {
    let s = Sandbox::new();
    let key = |args: &str| s.one("mk-imbalance", &format!("--dry-run {args}"))["key"].clone();
    let base = key(SMALL);
    for same in ["--imb-ratio 10.0", "--threads 1", "--out elsewhere", "--shard-bytes 65536K", "-v"] {
        let args =
            SMALL.replace("--imb-ratio 10", if same.contains("ratio") { same } else { "--imb-ratio 10" });
        let args = if same.contains("ratio") { args } else { format!("{args} {same}") };
        assert_eq!(key(&args), base, "{same}");
    }
    for other in ["--imb-type step", "--rand-number 1", "--val-fraction 0.1", "--shard-bytes 1M"] {
        assert_ne!(key(&format!("{SMALL} {other}")), base, "{other}");
    }
    let balanced = SMALL.replace("--imb-ratio 10", "--imb-type none");
    let none = key(&balanced);
    assert_ne!(none, base);
    let idle = s.tool("mk-imbalance", &format!("{balanced} --seed 9 --dry-run")).assert();
    refused(idle, "--rand-number: does nothing here; it needs --imb-type exp or step, or --val-fraction");
    let step = key(&format!("{SMALL} --imb-type step"));
    assert_ne!(step, key(&format!("{SMALL} --imb-type step --minority-fraction 0.3")));
    assert!(!s.join("data").exists(), "a dry run makes nothing");
}

#[test]
fn a_second_run_answers_from_the_cache_until_something_is_wrong() {
    let s = Sandbox::new();
    let command = format!("{SMALL} --out d");
    let first = s.one("mk-imbalance", &command);
    let shard = s.join("d/train-00000.safetensors");
    let bytes = fs::read(&shard).unwrap();
    assert_eq!(s.one("mk-imbalance", &command), first, "the very same manifest");
    File::open(&shard).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(s.one("mk-imbalance", &command), first, "touched");
    s.tool("mk-imbalance", &format!("{command} --verify")).assert().code(0);

    let mut damaged = bytes.clone();
    damaged[5000] ^= 1;
    fs::write(&shard, &damaged).unwrap();
    s.tool("mk-imbalance", &format!("{command} --verify")).assert().code(1);
    assert_eq!(s.one("mk-imbalance", &command)["outputs"], first["outputs"], "rebuilt");
    assert_eq!(fs::read(&shard).unwrap(), bytes);

    let forced = s.one("mk-imbalance", &format!("{command} --force --threads 1"));
    assert_eq!(
        (&forced["outputs"], &forced["run"]["threads"]),
        (&first["outputs"], &json!(1)),
        "worked again"
    );

    let text = s.said("mk-imbalance", &format!("{command} --seed 5 --explain"), 0);
    assert!(text.contains("params.rand_number: 0 there, 5 requested"), "{text}");
    s.tool("mk-imbalance", &format!("{command} --seed 5 --verify")).assert().code(1);
}

#[test]
fn another_result_replaces_all_shards_of_the_old_one_if_forced() {
    let s = Sandbox::new();
    let names = || {
        let all = fs::read_dir(s.join("d")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<_> = all.filter(|n| n != ".lock").collect();
        all.sort();
        all
    };
    s.one("mk-imbalance", &format!("{SMALL} --out d --val-fraction 0.1 --shard-bytes 64K"));
    assert_eq!(names().len(), 7);
    refused(
        s.tool("mk-imbalance", &format!("{SMALL} --out d")).assert(),
        "d: holds another data set (differs in val_fraction, shard_bytes; --explain shows how); choose another",
    );
    assert_eq!(names().len(), 7);
    s.one("mk-imbalance", &format!("{SMALL} --out d --force"));
    assert_eq!(names(), ["manifest.json", "test-00000.safetensors", "train-00000.safetensors"]);
}

#[test]
fn what_a_killed_run_left_is_cleared_away() {
    let s = Sandbox::new();
    fs::create_dir_all(s.join("d/.remix-tmp-killed")).unwrap();
    fs::write(s.join("d/.remix-tmp-killed/train-00000.safetensors"), "half").unwrap();
    fs::write(s.join("d/.remix-tmp-manifest"), "half").unwrap();
    s.one("mk-imbalance", &format!("{SMALL} --out d"));
    let left = fs::read_dir(s.join("d")).unwrap().count();
    assert_eq!(left, 4, "manifest, lock and two shards");
}

#[test]
fn absurd_flags_are_refused() {
    let s = Sandbox::new();
    for (flags, why) in [
        ("--imb-ratio 0.5", "--imb-ratio 0.5: must be a finite number of 1 or more"),
        ("--imb-ratio NaN", "must be a finite number of 1 or more"),
        ("--imb-ratio inf", "must be a finite number of 1 or more"),
        ("--imb-ratio 21", "each class has 20 training images, so the largest usable ratio is 20"),
        ("--imb-type step --imb-ratio 21", "the largest usable ratio is 20"),
        ("--imb-type step --minority-fraction 0", "--minority-fraction 0"),
        ("--imb-type step --minority-fraction 1.5", "--minority-fraction 1.5"),
        ("--minority-fraction 0.3", "--minority-fraction: does nothing here; it needs --imb-type step"),
        ("--imb-type none --imb-ratio 5", "--imb-ratio: does nothing here; it needs --imb-type exp or step"),
        ("--val-fraction -0.1", "--val-fraction -0.1"),
        ("--val-fraction 1", "--val-fraction 1"),
        ("--val-fraction 0.001", "--val-fraction 0.001"),
        ("--val-fraction NaN", "--val-fraction NaN"),
        ("--imb-ratio=-1", "--imb-ratio -1: must be a finite number of 1 or more"),
        ("--imb-ratio 10 --shard-bytes 100", "--shard-bytes 100: is too small; one image needs"),
    ] {
        let args = format!("--dataset synthetic --train-per-class 20 --test-per-class 2 {flags}");
        refused(s.tool("mk-imbalance", &args).assert(), why);
    }
    refused(s.tool("mk-imbalance", "--dataset cifar10").assert(), "--data PATH is required");
    refused(
        s.tool("mk-imbalance", "--dataset cifar10 --data nowhere").assert(),
        "nowhere: there is no such file or directory; give the path of cifar10 with --data, or download it \
         with `make data`",
    );
    // clap's own messages have more than one line.
    for (flags, why) in [
        ("--rand-number 4294967296", "'4294967296' for '--rand-number <N>': expected a whole number from 0"),
        ("--seed=-1", "'-1' for '--rand-number <N>': expected a whole number from 0 to 4294967295"),
        ("--split-seed -1", "'-1' for '--split-seed <N>': expected a whole number from 0 to 4294967295"),
        ("--shard-bytes 99999999999999999999", "for '--shard-bytes <BYTES>': the number is too large"),
    ] {
        let said = s.said("mk-imbalance", &format!("{SMALL} {flags}"), 2);
        assert!(said.contains(why), "{flags}: {said}");
    }
    assert!(!s.join("data").exists(), "nothing was made");
}

#[test]
fn bad_official_files_are_refused_and_the_earlier_result_stays() {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{SMALL} --out d"));
    let before = fs::read(s.join("d/manifest.json")).unwrap();

    let py = s.join("py");
    fs::create_dir(&py).unwrap();
    for n in BATCHES {
        fs::write(py.join(n), b"\x80\x02cos\nsystem\nq\x01U\x05touchq\x02\x85q\x03R.").unwrap();
    }
    let names: String = (0..10).map(|k| format!("U\x01{k}")).collect();
    fs::write(py.join("batches.meta"), ["}(U\x0blabel_names](", &names, "eu."].concat()).unwrap();
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    tar.append_dir_all("cifar-10-batches-py", &py).unwrap();
    let whole = tar.into_inner().unwrap().finish().unwrap();
    fs::write(s.join("cut.tar.gz"), &whole[..whole.len() - 9]).unwrap();

    for (data, why) in [
        ("py", "refers to the Python object os.system"),
        ("cut.tar.gz", "cut.tar.gz: is a gzip file, but not an intact tar archive; download it again"),
    ] {
        let args = format!("--dataset cifar10 --data {data} --imb-ratio 10 --out d --force");
        refused(s.tool("mk-imbalance", &args).assert(), why);
        assert_eq!(fs::read(s.join("d/manifest.json")).unwrap(), before, "{data}: the earlier result stays");
    }
    s.tool("mk-imbalance", &format!("{SMALL} --out d --verify")).assert().code(0);
}

#[test]
fn a_full_disk_leaves_the_earlier_result() {
    let s = Sandbox::new();
    let Some(_disk) = Disk::mount(s.join("disk"), "2m") else { return };
    let first = s.one("mk-imbalance", &format!("{SMALL} --out disk/d"));
    let large = s.tool("mk-imbalance", "--dataset synthetic --imb-ratio 10 --out disk/d --force").assert();
    refused(large, "No space left on device");
    let again = s.one("mk-imbalance", &format!("{SMALL} --out disk/d"));
    assert_eq!(again, first, "the earlier result, from the cache");
    let left = fs::read_dir(s.join("disk/d")).unwrap().count();
    assert_eq!(left, 4, "manifest, lock and two shards; nothing temporary");
}

/// Makes a complete CIFAR-10 in the binary form, with patterns as pixels.
fn fake(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("batches.meta.txt"), "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n").unwrap();
    for (n, name) in BATCHES.into_iter().enumerate() {
        let mut bytes = vec![n as u8; 30_730_000];
        for (i, record) in bytes.chunks_exact_mut(3073).enumerate() {
            record[0] = ((i * 7 + n) % 10) as u8;
            record[1..5].copy_from_slice(&(i as u32).to_le_bytes());
        }
        fs::write(dir.join(name).with_extension("bin"), bytes).unwrap();
    }
}

#[test]
fn directory_and_archive_give_the_same_bytes_under_different_keys() {
    let s = Sandbox::new();
    let dir = s.join("in/cifar-10-batches-bin");
    fake(&dir);
    let packed = GzEncoder::new(File::create(s.join("c.tgz")).unwrap(), Compression::fast());
    let mut tar = tar::Builder::new(packed);
    tar.append_dir_all("cifar-10-batches-bin", &dir).unwrap();
    tar.into_inner().unwrap().finish().unwrap();

    let from_dir = s.one("mk-imbalance", "--dataset cifar10 --data in --imb-ratio 50 --out a");
    // The set is balanced and complete, but not the one that Toronto publishes.
    assert_eq!(from_dir["metrics"]["official"], false);
    let said = s.said("mk-imbalance", "--dataset cifar10 --data in --out c", 0);
    assert!(said.contains("these are not the published images"), "{said}");
    let from_archive =
        s.one("mk-imbalance", "--dataset cifar10 --data c.tgz --imb-ratio 50 --out b --threads 1");
    assert_eq!(from_dir["outputs"], from_archive["outputs"]);
    assert_ne!(from_dir["key"], from_archive["key"]);
    let roles = |m: &serde_json::Value| -> Vec<String> {
        m["inputs"].as_array().unwrap().iter().map(|i| i["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (roles(&from_dir), roles(&from_archive)),
        (vec!["file".to_owned(); 7], vec!["archive".to_owned()])
    );

    // The input matters by content: touched or moved it is the same, changed it is another.
    fs::rename(s.join("in"), s.join("moved")).unwrap();
    let file = s.join("moved/cifar-10-batches-bin/test_batch.bin");
    File::open(&file).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let again = s.one("mk-imbalance", "--dataset cifar10 --data moved --imb-ratio 50 --out a");
    assert_eq!(again["run"], from_dir["run"], "from the cache");
    File::options().write(true).open(&file).unwrap().write_at(&[9], 100).unwrap();
    let changed = s.one("mk-imbalance", "--dataset cifar10 --data moved --imb-ratio 50 --dry-run");
    assert_ne!(changed["key"], from_dir["key"]);
}
