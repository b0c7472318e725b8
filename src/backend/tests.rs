//! Tests of a ResNet-32 against PyTorch, with `tests/fixtures/resnet32.safetensors`, which
//! `scripts/pytorch/fixture_resnet.py` computed in f64. The docstring of that script specifies the weights
//! and the input used here.

mod descriptions;
mod files;
mod zoo;

use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::SafeTensors;

use super::cpu::infer::{BATCH, Folded};
use super::cpu::net::{Hidden, Net};
use crate::backend::Rates;
use crate::backend::cpu::blend::Pairs;
use crate::methods::loss::{Criterion, Targets};
use crate::net::files::Values;
use crate::net::{Arch, Params};
use crate::simd::{Isa, for_each_isa};
use crate::tensor::read;

const SHAPE: [usize; 3] = [32, 32, 3];

fn uniform(name: &str, i: usize) -> f32 {
    let fnv = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    let mut x = fnv.wrapping_add(i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> 40) as f32 * (1.0 / 16_777_216.0)
}

fn value(name: &str, shape: &[usize], i: usize) -> f32 {
    let u = uniform(name, i);
    match name.rsplit_once('.').map_or(name, |(_, last)| last) {
        "pixels" => (2.0 * u - 1.0) * 2.0,
        "bias" if name == "linear.bias" => (u - 0.5) * 0.25,
        "bias" => u - if name.contains("bn2") { 0.5 } else { -0.5 },
        "running_mean" => (u - 0.5) * 0.5,
        "running_var" => 2.0 + 4.0 * u,
        "weight" if shape.len() == 1 => 0.25 + 0.5 * u,
        _ => (2.0 * u - 1.0) * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32,
    }
}

fn tensor(name: &str, shape: &[usize]) -> Values {
    let data = (0..shape.iter().product()).map(|i| value(name, shape, i)).collect();
    Values { shape: shape.to_vec(), data }
}

/// Returns the network of the fixture, with the fixture's input as its batch.
fn network() -> Net {
    network_in(DType::F32)
}

/// Returns the parameters of a network for ten classes, all zero.
fn zeros(name: &str) -> Params {
    Params::new(&name.parse::<Arch>().expect("a name").network(), 10).expect("parameters")
}

/// Returns the parameters of a network for ten classes, with the values of the fixture's formula.
fn filled(name: &str) -> Params {
    let params = zeros(name);
    let mut dict = params.state_dict().expect("names");
    for (name, v) in &mut dict {
        *v = tensor(name, &v.shape);
    }
    params.load(&dict).expect("all there");
    params
}

fn network_in(dtype: DType) -> Net {
    let net = Net::new(filled("resnet32"), Criterion::cross_entropy(10), SHAPE, 8, dtype).expect("a network");
    let pixels = Tensor::from_vec(pixels(), net.x.dims(), net.x.device()).and_then(|x| x.to_dtype(dtype));
    net.x.slice_set(&pixels.expect("pixels"), 0, 0).expect("written");
    net
}

/// Returns the input as (N, H, W, C).
fn pixels() -> Vec<f32> {
    let shape = [8, 3, 32, 32];
    let nchw = tensor("pixels", &shape).data;
    (0..nchw.len()).map(|at| nchw[(at / 3072) * 3072 + (at % 3) * 1024 + at / 3 % 1024]).collect()
}

/// Returns a function that copies out an image.
fn image_of(pixels: &[f32]) -> impl Fn(usize, &mut [f32]) {
    move |n, x| x.copy_from_slice(&pixels[n * x.len()..(n + 1) * x.len()])
}

struct Fixture(Vec<u8>);

impl Fixture {
    fn open() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/resnet32.safetensors");
        Fixture(std::fs::read(path).expect("the fixture"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let all = SafeTensors::deserialize(&self.0).expect("safetensors");
        all.tensor(name).expect(name).data().to_vec()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.bytes(name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    fn labels(&self, name: &str) -> Vec<u32> {
        self.bytes(name).as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }
}

fn largest_difference(found: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(found.len(), truth.len());
    found.iter().zip(truth).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// ‖found − truth‖ / ‖truth‖.
pub(super) fn relative_error(found: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(truth).map(|(a, b)| square(a - b)).sum();
    (error / truth.iter().map(|&t| square(t)).sum::<f64>()).sqrt()
}

/// Returns the norm of a gradient, and its dot product with the probe of the fixtures.
fn probed(gradient: &[f32]) -> [f64; 2] {
    let values = || gradient.iter().map(|&g| f64::from(g));
    let product = values().enumerate().map(|(i, g)| g * (f64::from(uniform("probe", i)) - 0.5)).sum();
    [values().map(|g| g * g).sum::<f64>().sqrt(), product]
}

#[test]
fn the_fixtures_formula_gives_known_values() {
    for (name, shape, i, known) in [
        ("conv1.weight", &[16, 3, 3, 3][..], 0, 0.042_497_061_192_989_35),
        ("layer3.4.conv2.weight", &[64, 64, 3, 3], 36863, -0.047_770_787_030_458_45),
        ("layer1.0.bn1.weight", &[16], 1, 0.322_441_905_736_923_2),
        ("layer2.3.bn2.bias", &[32], 31, 0.117_491_662_502_288_82),
        ("bn1.running_var", &[16], 2, 2.356_198_787_689_209),
        ("bn1.running_mean", &[16], 3, 0.180_060_356_855_392_46),
        ("linear.bias", &[10], 9, 0.010_001_704_096_794_128),
        ("pixels", &[8, 3, 32, 32], 24575, 1.464_539_051_055_908_2),
    ] {
        assert_eq!(f64::from(value(name, shape, i)), known, "{name}[{i}]");
    }
}

#[test]
fn a_training_step_matches_pytorch() {
    let fixture = Fixture::open();
    let (a, b) = (fixture.labels("labels_a"), fixture.labels("labels_b"));
    let (ca, cb) = (fixture.f32("coef_a"), fixture.f32("coef_b"));
    let targets = Targets { label_a: &a, label_b: &b, coef_a: &ca, coef_b: &cb };
    for_each_isa(|isa| {
        let net = network();
        let loss = net.gradients(targets, None).expect("a step");
        let logits = read(net.logits()).expect("logits").to_vec();
        let truth = f64::from(fixture.f32("loss")[0]);
        assert!(largest_difference(&logits, &fixture.f32("logits")) < 1e-5, "{isa:?} logits");
        assert!(((loss.loss - truth) / truth).abs() < 1e-6, "{isa:?} loss {} {truth}", loss.loss);
        let mut worst = (0.0, String::new());
        for (name, found) in net.params.named(net.grads()).expect("names") {
            let error = relative_error(&found.data, &fixture.f32(&format!("grad.{name}")));
            if error > worst.0 {
                worst = (error, name);
            }
        }
        assert!(worst.0 < 1e-4, "{isa:?}: gradient of {} is {:.1e} off", worst.1, worst.0);

        let net = network();
        let rates = Rates { lr: 0.1, momentum: 0.9, weight_decay: 2e-4, nesterov: false };
        for _ in 0..3 {
            net.step(targets, None, rates).expect("a step");
        }
        for (name, found) in net.params.state_dict().expect("names") {
            let error = largest_difference(&found.data, &fixture.f32(&format!("after3.{name}")));
            assert!(error < 1e-5, "{isa:?}: {name} is {error:.1e} off after three steps");
        }
    });
}

#[derive(serde::Deserialize)]
struct Manifold {
    partner: Vec<u32>,
    lambda: Vec<f32>,
    stages: Vec<MixedStep>,
}

#[derive(serde::Deserialize)]
struct MixedStep {
    stage: usize,
    loss: f64,
    /// By parameter name: the norm of the gradient, and its dot product with the probe.
    gradients: std::collections::BTreeMap<String, [f64; 2]>,
}

#[test]
fn a_step_with_mixed_hidden_states_matches_pytorch() {
    let text = include_str!("../../tests/fixtures/manifold.json");
    let (fixture, truth) = (Fixture::open(), serde_json::from_str::<Manifold>(text).expect("the fixture"));
    let (a, b) = (fixture.labels("labels_a"), fixture.labels("labels_b"));
    let (ca, cb) = (fixture.f32("coef_a"), fixture.f32("coef_b"));
    let targets = Targets { label_a: &a, label_b: &b, coef_a: &ca, coef_b: &cb };
    let pairs = Pairs { partner: &truth.partner, lambda: &truth.lambda };
    for MixedStep { stage, loss, gradients } in &truth.stages {
        for_each_isa(|isa| {
            let net = network();
            let hidden = Hidden { stage: *stage, pairs };
            let found = net.gradients(targets, Some(hidden)).expect("a step").loss;
            assert!((found / loss - 1.0).abs() < 1e-6, "{isa:?} stage {stage}: {found} {loss}");
            let mut worst = (0.0, String::new());
            for (name, found) in net.params.named(net.grads()).expect("names") {
                let [length, product] = probed(&found.data);
                let [true_length, true_product] = gradients[&name];
                let error = (length - true_length).abs().max((product - true_product).abs()) / true_length;
                if error > worst.0 {
                    worst = (error, name);
                }
            }
            assert!(worst.0 < 1e-4, "{isa:?} stage {stage}: gradient of {} is {:.1e} off", worst.1, worst.0);
            // In bf16 the loss is the same but for rounding.
            let rounded = network_in(DType::BF16);
            let found = rounded.gradients(targets, Some(hidden)).expect("a step").loss;
            assert!((found / loss - 1.0).abs() < 1e-2, "{isa:?} bf16 stage {stage}: {found} {loss}");
        });
    }
}

#[test]
fn a_bf16_step_matches_pytorch_within_rounding() {
    let fixture = Fixture::open();
    let (a, b) = (fixture.labels("labels_a"), fixture.labels("labels_b"));
    let (ca, cb) = (fixture.f32("coef_a"), fixture.f32("coef_b"));
    let targets = Targets { label_a: &a, label_b: &b, coef_a: &ca, coef_b: &cb };
    for_each_isa(|isa| {
        let net = network_in(DType::BF16);
        let loss = net.gradients(targets, None).expect("a step");
        let truth = f64::from(fixture.f32("loss")[0]);
        let logits = relative_error(&read(net.logits()).expect("logits"), &fixture.f32("logits"));
        let (mut found, mut true_grads) = (vec![], vec![]);
        for (name, grad) in net.params.named(net.grads()).expect("names") {
            found.extend(grad.data);
            true_grads.extend(fixture.f32(&format!("grad.{name}")));
        }
        let grads = relative_error(&found, &true_grads);
        let loss = ((loss.loss - truth) / truth).abs();
        println!("{isa:?}: loss {loss:.1e}, logits {logits:.1e}, gradients {grads:.1e}");
        assert!(loss < 1e-2 && logits < 0.03 && grads < 0.1, "{isa:?}: {loss:.1e} {logits:.1e} {grads:.1e}");
    });
}

#[test]
fn inference_matches_pytorch() {
    let fixture = Fixture::open();
    let (params, pixels) = (filled("resnet32"), pixels());
    let mut sets: Vec<(Isa, usize, Vec<f32>)> = vec![];
    for_each_isa(|isa| {
        let net = Folded::new(&params, SHAPE).expect("folded");
        for batch in [1, 3, BATCH] {
            let out = net.forward(8, batch, image_of(&pixels)).expect("inference");
            let logits = largest_difference(&out.logits, &fixture.f32("eval_logits"));
            let features = largest_difference(&out.features, &fixture.f32("features"));
            assert!(logits < 1e-5 && features < 1e-5, "{isa:?} {batch}: {logits:.1e} {features:.1e}");
            // AMX has no f32 instructions: with it, f32 kernels use AVX-512, including Winograd.
            match sets.iter().find(|(set, n, _)| *set == isa.for_floats() && *n == batch) {
                Some((.., same)) => assert_eq!(&out.logits, same, "{isa:?} {batch}"),
                None => sets.push((isa.for_floats(), batch, out.logits)),
            }
        }
    });
}

#[test]
fn overflow_and_nan_reach_the_logits() {
    let pixels = pixels();
    for (arch, name) in [
        ("resnet32", "conv1.weight"),
        ("resnet32", "layer1.2.conv2.weight"),
        ("resnet32", "layer2.0.conv1.weight"),
        ("resnet32", "layer3.4.conv1.weight"),
        ("resnet10", "conv1.weight"),
        ("resnet10", "layer2.0.downsample.0.weight"),
    ] {
        let params = filled(arch);
        let mut dict = params.state_dict().expect("names");
        // The products overflow f32, and their difference is then ∞ − ∞. The values of the other network are
        // too small for that, so its weights become NaN.
        let factor = if arch == "resnet32" { 1e38 } else { f32::NAN };
        dict.get_mut(name).expect("a tensor").data.iter_mut().for_each(|w| *w *= factor);
        params.load(&dict).expect("all there");
        for_each_isa(|isa| {
            let net = Folded::new(&params, SHAPE).expect("folded");
            let out = net.forward(8, BATCH, image_of(&pixels)).expect("inference");
            let logits = out.logits.chunks_exact(10);
            assert!(
                logits.into_iter().all(|z| z.iter().any(|z| !z.is_finite())),
                "{isa:?} {arch} {name}: {:?}",
                &out.logits[..10]
            );
        });
    }
}
