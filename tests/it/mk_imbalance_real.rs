//! Tests `mk-imbalance` on the official files. The shards whose hashes are in the fixture were compared with
//! numpy's subset, image by image, by `scripts/check-subset.py`.

use serde_json::{Value, json};

use crate::common::{Sandbox, official};

#[test]
fn shards_of_the_official_files_are_the_checked_ones() {
    let sets = ["cifar10", "cifar100"].map(|set| official(set, "python"));
    let [Some(cifar10), Some(_)] = sets else { return };
    // The directory that holds the files of both, which may be there in both forms.
    let root = cifar10.parent().unwrap();
    let fixture: Value = serde_json::from_str(include_str!("../fixtures/real_shards.json")).unwrap();
    let s = Sandbox::new();
    for (flags, expected) in fixture.as_object().unwrap() {
        let m = s.one("mk-imbalance", &format!("{flags} --out d --force --data {}", root.display()));
        let hash = |role: &str| {
            let of_role = m["outputs"].as_array().unwrap().iter().filter(|o| o["role"] == role);
            of_role.map(|o| o["blake3"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(json!({"train": hash("train"), "test": hash("test")}), *expected, "{flags}");
    }
}

#[test]
fn the_python_form_gives_the_bytes_of_the_binary_form() {
    let s = Sandbox::new();
    for set in ["cifar10", "cifar100"] {
        let forms = ["binary", "python"].map(|form| official(set, form));
        let [Some(binary), Some(python)] = forms else { return };
        let [binary, python] = [binary, python].map(|data| {
            let flags = "--imb-type step --imb-ratio 20 --val-fraction 0.1 --rand-number 5";
            s.one("mk-imbalance", &format!("--dataset {set} {flags} --data {}", data.display()))
        });
        assert_eq!(binary["outputs"], python["outputs"]);
        assert_eq!(binary["metrics"], python["metrics"]);
        assert_ne!(binary["key"], python["key"]);
        assert_eq!(binary["metrics"]["official"], true);
    }
}
