//! Tests of torchvision's networks against PyTorch, with `tests/fixtures/zoo.json`, which
//! `scripts/pytorch/fixture_zoo.py` computed in f64.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::{filled, image_of, probed, uniform};
use crate::backend::cpu::infer::{BATCH, Folded};
use crate::backend::cpu::net::Net;
use crate::methods::loss::{Criterion, Targets};
use crate::tensor::read;

/// A network with images of one size.
#[derive(serde::Deserialize)]
struct Case {
    arch: String,
    height: usize,
    width: usize,
    logits: Vec<f64>,
    #[serde(default)]
    train_logits: Vec<f64>,
    loss: Option<f64>,
    /// By parameter name: the norm of the gradient, and its dot product with a probe.
    #[serde(default)]
    gradients: std::collections::BTreeMap<String, [f64; 2]>,
}

#[derive(serde::Deserialize)]
struct Zoo {
    labels: Vec<u32>,
    cases: Vec<Case>,
}

/// Returns the largest difference, relative to the largest absolute value of `truth`.
fn share(found: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let largest = truth.iter().fold(0.0, |m: f64, t| m.max(t.abs()));
    found.iter().zip(truth).fold(0.0, |m: f64, (f, t)| m.max((f64::from(*f) - t).abs())) / largest
}

#[test]
fn torchvisions_networks_match_pytorch_at_all_sizes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/zoo.json");
    let zoo: Zoo = serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("JSON");
    let images = zoo.labels.len();
    let coef = vec![1.0 / images as f32; images];
    let targets =
        Targets { label_a: &zoo.labels, label_b: &zoo.labels, coef_a: &coef, coef_b: &vec![0.0; images] };
    let mut wrong = vec![];
    for Case { arch, height, width, logits, train_logits, loss, gradients } in &zoo.cases {
        let (what, len) = (format!("{arch} at {height}×{width}"), height * width * 3);
        let params = filled(arch);
        let name = format!("pixels.{height}x{width}");
        let pixel = |at: usize| {
            let (n, row_col, channel) = (at / len, at / 3 % (height * width), at % 3);
            4.0 * uniform(&name, (n * 3 + channel) * height * width + row_col) - 2.0
        };
        let pixels: Vec<f32> = (0..images * len).map(pixel).collect();
        let folded = Folded::new(&params, [*height, *width, 3]).expect("folded");
        let out = folded.forward(images, BATCH, image_of(&pixels)).expect("inference");
        let off = share(&out.logits, logits);
        assert!(off < 1e-5, "{what}: logits are {off:.1e} off");
        let Some(loss) = loss else { continue };
        let shape = [*height, *width, 3];
        let net =
            Net::new(params, Criterion::cross_entropy(10), shape, images, DType::F32).expect("a network");
        let pixels = Tensor::from_vec(pixels, net.x.dims(), net.x.device()).expect("pixels");
        net.x.slice_set(&pixels, 0, 0).expect("written");
        let found = net.gradients(targets, None).expect("a step").loss;
        assert!((found / loss - 1.0).abs() < 1e-5, "{what}: the loss is {found}, not {loss}");
        let off = share(&read(net.logits()).expect("logits"), train_logits);
        assert!(off < 1e-5, "{what}: logits in training are {off:.1e} off");
        // Some gradients are zero but for rounding: those of a bias followed by nothing but batch norm.
        let least = 1e-4 * gradients.values().fold(0.0, |m: f64, g| m.max(g[0]));
        for (name, found) in net.params.named(net.grads()).expect("names") {
            let [length, product] = probed(&found.data);
            let [true_length, true_product] = gradients[&name];
            let error = (length - true_length).abs().max((product - true_product).abs());
            let off = error / true_length.max(least);
            // Rounding may flip the sign of the input of a ReLU.
            if off > 1e-3 {
                wrong.push(format!("{what}: the gradient of {name} is {off:.1e} off"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
