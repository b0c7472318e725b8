//! Human-readable summaries of results in one line, for terminals.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::manifest::{Kind, Manifest, Object, store};
use crate::methods::classifier::Classifier;

/// Returns what the result is, with its main numbers, and where it is.
pub fn of(m: &Manifest) -> String {
    let what = match m.kind {
        Kind::Dataset => dataset(&m.metrics),
        Kind::Checkpoint => checkpoint(m),
        Kind::Metrics => metrics(m),
        Kind::Embedding => embedding(m),
        Kind::Report => return report(m),
    };
    format!("{what}: {}", dir(m).display())
}

/// Returns the files of a report.
fn report(m: &Manifest) -> String {
    let dir = dir(m);
    match &m.outputs[..] {
        [one] => format!("{}, {} bytes", dir.join(&one.path).display(), one.bytes),
        all => {
            let names: Vec<_> = all.iter().map(|o| o.path.display().to_string()).collect();
            format!("{}: {}", dir.display(), names.join(", "))
        }
    }
}

/// Returns the directory of a result, relative to the current one if inside it; empty if they are the same.
fn dir(m: &Manifest) -> PathBuf {
    let dir = m.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    dir.strip_prefix(store::absolute(Path::new("."))).unwrap_or(dir).to_owned()
}

fn number(from: &Object, name: &str) -> Option<f64> {
    from.get(name).and_then(Value::as_f64)
}

fn percent(from: &Object, name: &str) -> String {
    number(from, name).map_or("?".into(), |v| format!("{v:.2} %"))
}

fn count(metrics: &Object, name: &str) -> u64 {
    metrics.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// Returns the number of images in each split, such as `1300 training, 100 test`.
fn splits(metrics: &Object) -> String {
    let all = [("train", "training"), ("val", "validation"), ("test", "test")];
    let all = all.map(|(name, called)| (count(metrics, name), called)).into_iter();
    let told: Vec<String> = all.filter(|(n, _)| *n > 0).map(|(n, called)| format!("{n} {called}")).collect();
    told.join(", ")
}

fn dataset(metrics: &Object) -> String {
    let sizes = metrics.get("cls_num_list").and_then(Value::as_array);
    let sizes = sizes.into_iter().flatten().filter_map(Value::as_u64);
    let range = match (sizes.clone().max(), sizes.min()) {
        (Some(most), Some(least)) if most > least => {
            format!(" ({most} to {least} training images per class)")
        }
        _ => String::new(),
    };
    format!("{} images of {} classes{range}", splits(metrics), count(metrics, "classes"))
}

fn checkpoint(m: &Manifest) -> String {
    let last = format!("test {}", percent(&m.metrics, "last_top1"));
    if Classifier::of(&m.params).is_some_and(|classifier| !classifier.is_trained()) {
        return last;
    }
    let text = |name: &str| m.metrics.get(name).map_or("?".into(), Value::to_string);
    let best = percent(&m.metrics, "best_top1");
    format!("{last} after epoch {}, best {best} after epoch {}", text("epochs"), text("best_epoch"))
}

fn metrics(m: &Manifest) -> String {
    let text = |name: &str| m.params.get(name).and_then(Value::as_str).unwrap_or("?");
    let groups = ["many", "medium", "few"].into_iter().filter_map(|name| {
        let value = number(&m.metrics, name)?;
        Some(format!(", {name} {value:.2}"))
    });
    let which = if text("which") == "file" { String::new() } else { format!(", {} epoch", text("which")) };
    let groups: String = groups.collect();
    format!("top-1 {}{groups} ({}{which})", percent(&m.metrics, "top1"), text("split"))
}

fn embedding(m: &Manifest) -> String {
    // The features of a data set are counted by split; new images (--images) belong to no split.
    let images = match (m.metrics.get("images"), m.params.get("split").and_then(Value::as_str)) {
        (None, _) => splits(&m.metrics),
        (Some(count), None) => count.to_string(),
        (Some(count), Some(split)) => format!("{count} {split}"),
    };
    let width = m.metrics.get("feature_len").map_or("?".into(), Value::to_string);
    let projection = m.params.get("project").and_then(|p| p["method"].as_str());
    let projection = projection.map_or(String::new(), |p| format!(", with their {p} projection"));
    format!("{images} images, {width} features each{projection}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn manifest(kind: &str, params: Value, metrics: Value, outputs: Value) -> Manifest {
        let m = json!({
            "schema": "remix.manifest/1", "kind": kind, "key": "0", "semantics": 1, "params": params, "inputs": [],
            "outputs": outputs, "metrics": metrics, "path": store::absolute(Path::new("x/manifest.json")),
        });
        serde_json::from_value(m).expect("a manifest")
    }

    #[test]
    fn one_line_a_kind() {
        let data = json!({"train": 1300, "val": 0, "test": 100, "classes": 10, "cls_num_list": [500, 5]});
        assert_eq!(
            of(&manifest("dataset", json!({}), data, json!([]))),
            "1300 training, 100 test images of 10 classes (500 to 5 training images per class): x"
        );
        let numbers = json!({"last_top1": 50.0, "best_top1": 51.25, "best_epoch": 9, "epochs": 12});
        assert_eq!(
            of(&manifest("checkpoint", json!({}), numbers, json!([]))),
            "test 50.00 % after epoch 12, best 51.25 % after epoch 9: x"
        );
        let numbers = json!({"last_top1": 50.0, "best_top1": 50.0, "best_epoch": 1, "epochs": 1});
        assert_eq!(
            of(&manifest("checkpoint", json!({"classifier": {"name": "ncm"}}), numbers, json!([]))),
            "test 50.00 %: x"
        );
        let numbers = json!({"top1": 50.0, "top5": 90.0, "many": 80.0, "few": null});
        assert_eq!(
            of(&manifest("metrics", json!({"split": "test", "which": "best"}), numbers, json!([]))),
            "top-1 50.00 %, many 80.00 (test, best epoch): x"
        );
        let file = |name: &str| json!({"role": "svg", "path": name, "bytes": 10, "blake3": "0"});
        assert_eq!(
            of(&manifest("report", json!({}), json!({}), json!([file("a.svg")]))),
            "x/a.svg, 10 bytes"
        );
        let two = json!([file("table.md"), file("table.csv")]);
        assert_eq!(of(&manifest("report", json!({}), json!({}), two)), "x: table.md, table.csv");
        let numbers = json!({"images": 100, "feature_len": 64});
        assert_eq!(
            of(&manifest("embedding", json!({"split": "test"}), numbers, json!([]))),
            "100 test images, 64 features each: x"
        );
        let numbers = json!({"train": 1300, "test": 100, "feature_len": 64});
        assert_eq!(
            of(&manifest("embedding", json!({"splits": ["train", "test"]}), numbers, json!([]))),
            "1300 training, 100 test images, 64 features each: x"
        );
        let numbers = json!({"images": 3, "feature_len": 64});
        assert_eq!(
            of(&manifest("embedding", json!({"which": "last"}), numbers, json!([]))),
            "3 images, 64 features each: x"
        );
    }
}
