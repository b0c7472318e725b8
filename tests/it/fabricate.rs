//! Checkpoints and evaluations made without any training: real manifests around weights and numbers that the
//! test chooses.

use std::path::{Path, PathBuf};

use remix::manifest::store::{Claim, Plan, Produced, write_atomic};
use remix::manifest::{Input, Kind, Manifest, Object, source};
use remix::methods::presets::preset;
use remix::net::{Arch, Params};
use remix::train::config::Config;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use crate::common::Sandbox;

/// Flags of `mk-imbalance` for the data set that [`untrained`] makes.
pub const DATA: &str = "--dataset synthetic --train-per-class 30 --test-per-class 4 --imb-ratio 10 -q";

/// Makes a data set in `data` and a checkpoint with random weights in `run`.
pub fn untrained() -> Sandbox {
    let s = Sandbox::new();
    s.one("mk-imbalance", &format!("{DATA} --out data"));
    checkpoint(&s.join("run"), &manifest(s.join("data")), 0);
    s
}

/// Reads the manifest in a directory or file.
pub fn manifest(path: impl AsRef<Path>) -> Manifest {
    source::read_file(path.as_ref()).unwrap().remove(0)
}

/// Returns the params of a checkpoint: the preset's, changed by `with`.
pub fn params(method: &str, seed: u64, with: Value) -> Object {
    let mut params = Config::new(preset(method).unwrap()).params();
    params.insert("seed".into(), seed.into());
    params.extend(with.as_object().unwrap().clone());
    params
}

/// Returns changes to a checkpoint's params for the schedule of the paper's runs.
pub fn paper() -> Value {
    json!({"recipe": "paper", "milestones": [150, 250]})
}

/// Publishes a checkpoint of a ResNet-20 with random weights, which differ between `last` and `best`, and
/// returns its manifest's path.
pub fn checkpoint(dir: &Path, dataset: &Manifest, seed: u64) -> PathBuf {
    let params = params("remix", seed, json!({"arch": "resnet20", "epochs": 2}));
    let inputs = vec![dataset.as_input("dataset", &["train", "test"]).unwrap()];
    let plan = Plan { kind: Kind::Checkpoint, semantics: 1, params, inputs, dir: dir.to_owned(), file: None };
    let Claim::Work(w) = plan.claim(false, || ()).unwrap() else { panic!("it is there already") };
    let classes = dataset.metrics["classes"].as_u64().unwrap() as usize;
    let mut outputs = vec![];
    for (role, seed) in [("last", 2 * seed), ("best", 2 * seed + 1)] {
        let name = format!("{role}.safetensors");
        write_atomic(&dir.join(&name), |f| std::io::Write::write_all(f, &resnet20(classes, seed))).unwrap();
        outputs.push(Produced { role, name, rows: None });
    }
    w.publish(outputs, Object::new(), Object::new()).unwrap().path.unwrap()
}

/// Returns a safetensors file with random weights of a ResNet-20 under PyTorch's names.
pub fn resnet20(classes: usize, seed: u64) -> Vec<u8> {
    let arch: Arch = "resnet20".parse().unwrap();
    let params = Params::new(&arch.network(), classes).unwrap();
    params.init(seed).unwrap();
    let bytes = |data: Vec<f32>| data.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    let tensors = params.state_dict().unwrap().into_iter().map(|(name, v)| (name, v.shape, bytes(v.data)));
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(n, s, b)| (n, TensorView::new(Dtype::F32, s.clone(), b).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// An evaluation with a given accuracy, published as `eval` would.
pub struct Evaluation<'a> {
    pub method: &'a str,
    pub dataset: &'a str,
    pub imb_type: &'a str,
    pub imb_ratio: f64,
    pub seed: u64,
    pub which: &'a str,
    pub top1: f64,
    /// Changes to the checkpoint's params.
    pub with: Value,
}

impl Default for Evaluation<'_> {
    fn default() -> Self {
        Evaluation {
            method: "remix",
            dataset: "cifar10",
            imb_type: "exp",
            imb_ratio: 100.0,
            seed: 0,
            which: "last",
            top1: 75.0,
            with: json!({}),
        }
    }
}

impl Evaluation<'_> {
    pub fn publish(&self, dir: &Path) -> PathBuf {
        let hash = |text: String| blake3::hash(text.as_bytes()).to_hex().to_string();
        let data = json!({"dataset": self.dataset, "imb_type": self.imb_type, "imb_ratio": self.imb_ratio,
            "rand_number": 0, "val_fraction": 0.0, "shard_bytes": 1 << 26});
        let key = hash(data.to_string());
        let input = |role: &str, key: &str, params: Object, inputs: Vec<Input>| Input {
            role: role.into(),
            key: Some(key.to_owned()),
            path: dir.join("../elsewhere/manifest.json"),
            blake3: hash(format!("{role} {params:?} {}", self.which)),
            params,
            inputs,
            ..Input::new("", "".into(), "".into())
        };
        let dataset = input("dataset", &key, data.as_object().unwrap().clone(), vec![]);
        let params = params(self.method, self.seed, self.with.clone());
        let arch = params["arch"].clone();
        let checkpoint = input("checkpoint", "c", params, vec![dataset.clone()]);
        let params = json!({"split": "test", "which": self.which, "arch": arch}).as_object().unwrap().clone();
        let inputs = vec![checkpoint, dataset];
        let plan =
            Plan { kind: Kind::Metrics, semantics: 1, params, inputs, dir: dir.to_owned(), file: None };
        let Claim::Work(w) = plan.claim(true, || ()).unwrap() else { panic!("forced") };
        let metrics = json!({"top1": self.top1}).as_object().unwrap().clone();
        w.publish(vec![], metrics, Object::new()).unwrap().path.unwrap()
    }
}

/// Publishes evaluations in a new sandbox as `m/0`, `m/1`, ….
pub fn evaluations(all: &[Evaluation]) -> Sandbox {
    let s = Sandbox::new();
    for (n, e) in all.iter().enumerate() {
        e.publish(&s.join(format!("m/{n}")));
    }
    s
}

/// Returns three runs with the paper's schedule.
pub fn three_seeds() -> Vec<Evaluation<'static>> {
    let seed = |(seed, top1)| Evaluation { seed, top1, with: paper(), ..Evaluation::default() };
    [(0, 74.0), (1, 76.0), (2, 75.3)].into_iter().map(seed).collect()
}
