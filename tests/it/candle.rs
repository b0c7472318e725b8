//! Tests `examples/candle_infer.rs` on a checkpoint: candle alone must give the accuracy that `eval` gives.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use crate::common::Sandbox;

#[test]
fn candle_runs_our_checkpoints() {
    let s = Sandbox::new();
    let data = "--dataset synthetic --train-per-class 40 --test-per-class 10 --imb-ratio 4";
    // The test images fill two shards.
    s.one("mk-imbalance", &format!("{data} --shard-bytes 200000 --out data -q"));
    for method in ["erm", "ldam"] {
        let train = format!("data --method {method} --arch resnet20 --epochs 4 --batch-size 32 --lr 0.05");
        s.one("train", &format!("{train} --out {method} -q"));
        let top1 = s.one("eval", &format!("{method} -q"))["metrics"]["top1"].as_f64().expect("a number");
        let example = cargo_bin("train").with_file_name("examples").join("candle_infer");
        let out = Command::new(example).args([method, "data"]).current_dir(s.path()).output().expect("built");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(said.contains("of 100 right"), "{said}");
        // The prediction of one image may differ because of rounding.
        let found: f64 = said.rsplit(' ').nth(1).and_then(|n| n.parse().ok()).expect("an accuracy");
        assert!((found - top1).abs() <= 1.01, "{method}: {said} and {top1}");
    }
}
