//! Tests that the tools' manifests conform to the committed JSON Schema, and that unknown fields survive.

use std::fs;
use std::path::Path;

use remix::manifest::Manifest;
use serde_json::{Value, json};

use crate::common::Sandbox;

#[test]
fn what_the_tools_write_is_valid() {
    let s = Sandbox::new();
    s.one(
        "mk-imbalance",
        "--dataset synthetic --train-per-class 20 --test-per-class 2 --imb-ratio 10 -q --out data",
    );
    let printed = [
        s.one("train", "data --method remix-drw --arch resnet20 --epochs 1 -q --out run"),
        s.one("eval", "run -q --out m"),
        s.one("embed", "run -q --out e"),
        s.one("report", "table m -q --out r"),
    ];
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/manifest.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let written = ["data", "run", "m", "e", "r"].map(|dir| -> Value {
        serde_json::from_str(&fs::read_to_string(s.join(dir).join("manifest.json")).unwrap()).unwrap()
    });
    for m in printed.iter().chain(&written) {
        let errors: Vec<String> =
            schema.iter_errors(m).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", m["kind"]);
    }
    let mut other = written[0].clone();
    other["schema"] = json!("remix.manifest/2");
    assert!(!schema.is_valid(&other), "another major schema");
    other = written[0].clone();
    other.as_object_mut().unwrap().remove("key");
    assert!(!schema.is_valid(&other), "no key");
}

#[test]
fn unknown_fields_survive() {
    let text = r#"{"schema":"remix.manifest/1","kind":"metrics","key":"k","semantics":1,"params":{},"inputs":[],
        "outputs":[],"metrics":{},"run":{},"colour":{"of":["the",{"future":1.0}]}}"#;
    let m: Manifest = serde_json::from_str(text).unwrap();
    let back = serde_json::to_value(&m).unwrap();
    assert_eq!(back, serde_json::from_str::<Value>(text).unwrap());
}
