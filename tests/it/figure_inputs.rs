//! Inputs of figures and pages, made without any training: evaluations with all their metrics, embeddings
//! with a projection, checkpoints with a log, and data sets.

use std::path::Path;

use remix::manifest::store::{Claim, Plan, Produced, write_atomic};
use remix::manifest::{Input, Kind, Manifest, Object};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::common::edit;
use crate::fabricate::{Evaluation, manifest, params};

pub const COUNTS: [u64; 10] = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50];
pub const NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Publishes an evaluation with the metrics that `eval` gives.
pub fn evaluation(dir: &Path, e: &Evaluation) {
    e.publish(dir);
    let recall = |k: usize| (e.top1 + 15.0 - 4.0 * k as f64 + e.seed as f64).clamp(0.0, 100.0);
    let confusion: Vec<Vec<u64>> = (0..10)
        .map(|t| {
            let right = (recall(t) * 10.0) as u64;
            (0..10).map(|p| if p == t { right } else { (1000 - right) / 9 }).collect()
        })
        .collect();
    let bin = |b: u64| {
        let middle = (b as f64 + 0.5) / 15.0;
        if b < 2 {
            json!({"images": 0, "confidence": null, "accuracy": null})
        } else {
            json!({"images": 40 * b * b, "confidence": middle, "accuracy": middle * 0.8})
        }
    };
    edit(dir, |v| {
        let metrics = v["metrics"].as_object_mut().unwrap();
        metrics.insert("per_class".into(), (0..10).map(recall).collect());
        metrics.insert("confusion".into(), json!(confusion));
        metrics.insert("ece".into(), json!(0.1));
        metrics.insert("reliability".into(), (0..15).map(bin).collect());
        metrics.insert("cls_num_list".into(), json!(COUNTS));
        metrics.insert("class_names".into(), json!(NAMES));
    });
}

/// Adds to an evaluation what `eval --sweep adjust=0:1:0.5` measures, and the value that is best on the
/// validation split.
pub fn sweep(dir: &Path, best: f64) {
    let row =
        |v: f64| json!({"value": v, "top1": 70.0 + v, "many": 90.0 - v, "medium": 75.0, "few": 50.0 + v});
    let rows = [0.0, 0.5, 1.0].map(row);
    edit(dir, |v| v["metrics"]["sweep"] = json!({"flag": "adjust", "rows": rows, "best_on_val": best}));
}

fn publish(plan: Plan, name: &str, role: &'static str, bytes: &[u8], metrics: Value) {
    let Claim::Work(w) = plan.claim(true, || ()).unwrap() else { panic!("forced") };
    write_atomic(&plan.dir.join(name), |f| std::io::Write::write_all(f, bytes)).unwrap();
    let outputs = vec![Produced { role, name: name.into(), rows: None }];
    w.publish(outputs, metrics.as_object().unwrap().clone(), Object::new()).unwrap();
}

/// Returns a manifest whose inputs are those of an evaluation of a method, for other results of the same run.
fn lineage(dir: &Path, method: &str, seed: u64) -> Manifest {
    let place = dir.join("lineage");
    manifest(Evaluation { method, seed, ..Evaluation::default() }.publish(&place))
}

/// Publishes a checkpoint with the log of three epochs, which is all that curves need.
pub fn checkpoint(dir: &Path, method: &str, seed: u64) {
    let inputs: Vec<Input> = lineage(dir, method, seed).inputs[0].inputs.clone();
    let params = params(method, seed, json!({"epochs": 3, "milestones": [2, 3]}));
    let line = |e: u64| json!({"epoch": e, "loss": 2.0 / e as f64 + 0.01 * seed as f64, "test_top1": 20.0 * e as f64 + seed as f64});
    let log: String = (1..=3).map(|e| format!("{}\n", line(e))).collect();
    let plan = Plan { kind: Kind::Checkpoint, semantics: 1, params, inputs, dir: dir.to_owned(), file: None };
    publish(plan, "log.jsonl", "log", log.as_bytes(), json!({"last_top1": 60.0}));
}

/// Publishes an embedding of n images in ten clusters, with a tenth of them predicted as the next class. The
/// projection is left out unless `projected` is set.
pub fn embedding(dir: &Path, method: &str, n: usize, projected: bool) {
    let of = lineage(dir, method, 0);
    let mut state = 7u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let (mut points, mut labels, mut predictions) = (vec![], vec![], vec![]);
    for i in 0..n {
        let k = i % 10;
        let angle = k as f32 * 0.628;
        for centre in [angle.cos(), angle.sin()] {
            points.extend((10.0 * centre + 4.0 * (uniform() + uniform() - 1.0)).to_le_bytes());
        }
        labels.extend((k as i64).to_le_bytes());
        predictions.extend(((if i % 100 < 10 { (k + 1) % 10 } else { k }) as i64).to_le_bytes());
    }
    let mut tensors = vec![
        ("labels", TensorView::new(Dtype::I64, vec![n], &labels).unwrap()),
        ("predictions", TensorView::new(Dtype::I64, vec![n], &predictions).unwrap()),
    ];
    if projected {
        tensors.push(("projection", TensorView::new(Dtype::F32, vec![n, 2], &points).unwrap()));
    }
    let bytes = safetensors::serialize(tensors, None).unwrap();
    let mut params = of.params.clone();
    params.insert("project".into(), json!({"method": "tsne"}));
    let plan = Plan {
        kind: Kind::Embedding,
        semantics: 1,
        params,
        inputs: of.inputs,
        dir: dir.to_owned(),
        file: None,
    };
    publish(plan, "features.safetensors", "features", &bytes, json!({"class_names": NAMES}));
}

/// Publishes a data set's manifest with a made-up shard.
pub fn dataset(dir: &Path, imb_type: &str, counts: &[u64]) {
    let params =
        json!({"dataset": "cifar10", "imb_type": imb_type, "imb_ratio": 100}).as_object().unwrap().clone();
    let names: Vec<String> = (0..counts.len())
        .map(|k| NAMES.get(k).filter(|_| counts.len() == 10).map_or(format!("c{k}"), |n| (*n).into()))
        .collect();
    let plan =
        Plan { kind: Kind::Dataset, semantics: 1, params, inputs: vec![], dir: dir.to_owned(), file: None };
    publish(
        plan,
        "train-0.safetensors",
        "train",
        b"none",
        json!({"class_names": names, "cls_num_list": counts}),
    );
}
