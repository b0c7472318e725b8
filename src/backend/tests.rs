//! Tests of a ResNet-32 against PyTorch, with `tests/fixtures/resnet32.safetensors`, which
//! `scripts/pytorch/fixture_resnet.py` computed in f64. The docstring of that script specifies the weights
//! and the input used here.

use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::SafeTensors;

use super::cpu::infer::{BATCH, Folded};
use super::cpu::net::{Hidden, Net};
use crate::backend::cpu::blend::Pairs;
use crate::backend::cpu::sgd::Rates;
use crate::methods::loss::{Criterion, LDAM, Loss, Targets};
use crate::net::files::{StateDict, Values, open, save};
use crate::net::{Arch, Network, Params, Shortcut};
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

fn network_in(dtype: DType) -> Net {
    let params = zeros("resnet32");
    let mut dict = params.state_dict().expect("names");
    for (name, v) in &mut dict {
        *v = tensor(name, &v.shape);
    }
    params.load(&dict).expect("all there");
    let net = Net::new(params, Criterion::cross_entropy(10), SHAPE, 8, dtype).expect("a network");
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
fn relative_error(found: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(truth).map(|(a, b)| square(a - b)).sum();
    (error / truth.iter().map(|&t| square(t)).sum::<f64>()).sqrt()
}

#[test]
fn the_formula_gives_the_known_values() {
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
fn a_training_step_is_pytorchs() {
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
    gradients: std::collections::BTreeMap<String, (f64, f64)>,
}

#[test]
fn a_step_with_mixed_hidden_states_is_pytorchs() {
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
                let probe = |i: usize| f64::from(uniform("probe", i)) - 0.5;
                let values = found.data.iter().map(|&g| f64::from(g));
                let length = values.clone().map(|g| g * g).sum::<f64>().sqrt();
                let product: f64 = values.enumerate().map(|(i, g)| g * probe(i)).sum();
                let (true_length, true_product) = gradients[&name];
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
fn a_bf16_step_is_pytorchs_but_for_rounding() {
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
fn inference_is_pytorchs() {
    let fixture = Fixture::open();
    let params = network().params;
    let pixels = pixels();
    let mut sets: Vec<(Isa, usize, Vec<f32>)> = vec![];
    for_each_isa(|isa| {
        let net = Folded::new(&params, SHAPE).expect("folded");
        for batch in [1, BATCH, 3, 100] {
            let out =
                net.forward(8, batch, |n, x| x.copy_from_slice(&pixels[n * x.len()..(n + 1) * x.len()]));
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
fn what_is_no_number_stays_none() {
    let pixels = pixels();
    for (arch, name) in [
        ("resnet32", "conv1.weight"),
        ("resnet32", "layer1.2.conv2.weight"),
        ("resnet32", "layer2.0.conv1.weight"),
        ("resnet32", "layer3.4.conv1.weight"),
        ("resnet10", "conv1.weight"),
        ("resnet10", "layer2.0.downsample.0.weight"),
    ] {
        let params = zeros(arch);
        let mut dict = params.state_dict().expect("names");
        for (name, v) in &mut dict {
            *v = tensor(name, &v.shape);
        }
        // The products overflow f32, and their difference is then ∞ − ∞. The values of the other network are
        // too small for that, so its weights become NaN.
        let factor = if arch == "resnet32" { 1e38 } else { f32::NAN };
        dict.get_mut(name).expect("a tensor").data.iter_mut().for_each(|w| *w *= factor);
        params.load(&dict).expect("all there");
        for_each_isa(|isa| {
            let net = Folded::new(&params, SHAPE).expect("folded");
            let out =
                net.forward(8, BATCH, |n, x| x.copy_from_slice(&pixels[n * x.len()..(n + 1) * x.len()]));
            let logits = out.logits.chunks_exact(10);
            assert!(
                logits.into_iter().all(|z| z.iter().any(|z| !z.is_finite())),
                "{isa:?} {arch} {name}: {:?}",
                &out.logits[..10]
            );
        });
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w.safetensors");
    let dict = network().params.training_state().expect("names");
    save(&path, &dict, 7, Some(("note", "x".into()))).expect("saved");
    let (found, notes) = open(&path).expect("opened");
    assert_eq!(found, dict);
    assert_eq!(notes["note"], "x");
    let other = zeros("resnet32");
    other.resume(&found).expect("loaded");
    assert_eq!(other.training_state().expect("names"), dict);
}

#[test]
fn a_normalised_classifier_is_saved_as_in_the_code_of_ldam() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("w.safetensors");
    let network_of_ldam = Arch::RESNET32.network().with_classifier(Loss::new(&LDAM).classifier());
    let cosine = || Params::new(&network_of_ldam, 10).expect("parameters");
    let params = cosine();
    params.init(3).expect("values");
    let dict = params.training_state().expect("names");
    assert_eq!(dict["linear.weight"].shape, [64, 10]);
    assert!(!dict.contains_key("linear.bias") && !dict.contains_key("velocity.linear.bias"));
    for class in 0..10 {
        let column = dict["linear.weight"].data.iter().skip(class).step_by(10);
        let square: f32 = column.map(|w| w * w).sum();
        assert!((square - 1.0).abs() < 1e-5, "unit length: {square}");
    }
    save(&path, &dict, 7, None).expect("saved");
    let (found, _) = open(&path).expect("opened");
    let other = cosine();
    other.resume(&found).expect("loaded");
    assert_eq!(other.training_state().expect("names"), dict);
    // The logits of inference are 30 times the cosines between the weights and the features.
    let state = params.state_dict().expect("names");
    let folded = Folded::new(&params, SHAPE).expect("folded");
    let pixels = pixels();
    let out = folded.forward(8, BATCH, |n, x| x.copy_from_slice(&pixels[n * x.len()..(n + 1) * x.len()]));
    let weight = &state["linear.weight"].data;
    for (z, f) in out.logits.chunks_exact(10).zip(out.features.chunks_exact(64)) {
        let length = f.iter().map(|f| f * f).sum::<f32>().sqrt();
        for (k, z) in z.iter().enumerate() {
            let dot: f32 = f.iter().zip(weight.iter().skip(k).step_by(10)).map(|(f, w)| f * w).sum();
            assert!((z - 30.0 * dot / length).abs() < 1e-4, "{z} {}", 30.0 * dot / length);
        }
    }
    // Neither network accepts the classifier of the other, or a classifier that has lost its bias.
    let linear = network().params;
    let text = format!("{:#}", linear.load(&state).expect_err("refused"));
    assert!(text.contains("linear.weight has shape [64, 10]"), "{text}");
    let mut lost = linear.state_dict().expect("names");
    assert!(params.load(&lost).is_err());
    lost.remove("linear.bias");
    let text = format!("{:#}", Params::from_state_dict(linear.network(), &lost).err().expect("refused"));
    assert!(text.contains("no tensor \"linear.bias\""), "{text}");
}

#[test]
fn foreign_weights_are_refused() {
    let net = zeros("resnet20");
    let error = |dict: &StateDict| format!("{:#}", net.load(dict).expect_err("refused"));
    let mut dict = net.state_dict().expect("names");
    dict.remove("layer1.0.conv1.weight");
    assert!(error(&dict).contains("no tensor \"layer1.0.conv1.weight\""));
    let deeper = network().params.state_dict().expect("names");
    let refused = Params::from_state_dict(net.network(), &deeper).err().expect("a deeper network");
    assert!(format!("{refused}").contains("layer1.3"), "{refused}");
    let mut dict = net.state_dict().expect("names");
    dict.get_mut("layer2.1.bn1.running_var").expect("a tensor").data[5] = -1e-3;
    let file = tempfile::NamedTempFile::new().expect("a file");
    save(file.path(), &dict, 1, None).expect("saved");
    let refused = format!("{:#}", open(file.path()).expect_err("no variance"));
    assert!(refused.contains("layer2.1.bn1.running_var has negative values"), "{refused}");
}

/// A network with images of one size, from `tests/fixtures/zoo.json`, which `scripts/pytorch/fixture_zoo.py`
/// computed in f64.
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
fn torchvisions_networks_compute_the_same_at_all_sizes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/zoo.json");
    let zoo: Zoo = serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("JSON");
    let images = zoo.labels.len();
    let coef = vec![1.0 / images as f32; images];
    let targets =
        Targets { label_a: &zoo.labels, label_b: &zoo.labels, coef_a: &coef, coef_b: &vec![0.0; images] };
    let mut wrong = vec![];
    for Case { arch, height, width, logits, train_logits, loss, gradients } in &zoo.cases {
        let (what, len) = (format!("{arch} at {height}×{width}"), height * width * 3);
        let params = zeros(arch);
        let mut dict = params.state_dict().expect("names");
        for (name, v) in &mut dict {
            *v = tensor(name, &v.shape);
        }
        params.load(&dict).expect("all there");
        let name = format!("pixels.{height}x{width}");
        let pixel = |at: usize| {
            let (n, row_col, channel) = (at / len, at / 3 % (height * width), at % 3);
            4.0 * uniform(&name, (n * 3 + channel) * height * width + row_col) - 2.0
        };
        let pixels: Vec<f32> = (0..images * len).map(pixel).collect();
        let folded = Folded::new(&params, [*height, *width, 3]).expect("folded");
        let out = folded.forward(images, BATCH, |n, x| x.copy_from_slice(&pixels[n * len..(n + 1) * len]));
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
            let [length, product] = gradients[&name];
            let values = || found.data.iter().map(|&x| f64::from(x));
            let own = values().map(|x| x * x).sum::<f64>().sqrt();
            let probed: f64 =
                values().enumerate().map(|(i, x)| x * (f64::from(uniform("probe", i)) - 0.5)).sum();
            let off = (own - length).abs().max((probed - product).abs()) / length.max(least);
            // Rounding may flip the sign of the input of a ReLU.
            if off > 1e-3 {
                wrong.push(format!("{what}: the gradient of {name} is {off:.1e} off"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn descriptions_that_do_not_fit_together_are_refused_by_name() {
    for name in Arch::names() {
        assert_eq!(super::check(&name.parse::<Arch>().expect("known").network()), Ok(()));
    }
    let change = |change: fn(&mut Network)| {
        let mut network = Arch::RESNET32.network();
        change(&mut network);
        super::check(&network).expect_err("refused")
    };
    assert!(change(|n| n.stages.clear()).contains("no blocks"));
    assert!(change(|n| n.stages[0][0].convs.truncate(1)).contains("a block of 1 convolutions"));
    assert!(change(|n| n.stages[0][0].shortcut = Shortcut::Padded).contains("layer1.0.conv1"));
    assert!(change(|n| n.stages[1][0].shortcut = Shortcut::Identity).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[1][1].convs[1].cout = 64).contains("layer2.1.conv1"));
    assert!(change(|n| n.stages[1][1].convs[0].cout = 64).contains("layer2.1.conv2 takes 32 channels"));
    assert!(change(|n| n.stages[1][0].convs[0].stride = 1).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[1][1].convs[0].kernel = 7).contains("a 7×7 convolution with stride 1"));
    assert!(change(|n| n.stem.kernel = 4).contains("a 4×4 convolution"));
    let refused = super::Plan::new(&Arch::RESNET32.network(), [30, 32, 1]).expect_err("refused");
    assert!(refused.contains("images have 1 channels"), "{refused}");
}

/// Tests which networks, images and classes the GPU has kernels for; this needs no GPU.
#[cfg(feature = "cuda")]
#[test]
fn what_the_gpu_has_no_kernels_for_is_refused() {
    use crate::backend::cuda::supports;
    for (name, why) in [
        ("resnet50", "a max-pool"),
        ("resnet18-cifar", "conv1, a 3×3 convolution of 3 to 64 channels with stride 1"),
    ] {
        let found = supports(&name.parse::<Arch>().expect("known").network(), [32, 32, 3], 10);
        assert_eq!(found, Err(format!("the GPU has no kernels for {name}, which has {why}")));
    }
    let change = |change: fn(&mut Network)| {
        let mut network = Arch::RESNET32.network();
        assert_eq!(supports(&network, [32, 32, 3], 10), Ok(()));
        change(&mut network);
        supports(&network, [32, 32, 3], 10).expect_err("refused")
    };
    // Each of these networks would be computed incorrectly.
    assert!(change(|n| n.stages[2].truncate(1)).contains("a stage with 1 block"));
    assert!(change(|n| n.stages[1][0].shortcut = Shortcut::Identity).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[0][1].convs[1].cout = 64).contains("layer1.1.conv2"));
    let sized =
        |shape, classes| supports(&Arch::RESNET32.network(), shape, classes).err().unwrap_or_default();
    assert_eq!(sized([64, 96, 3], 1000), "");
    assert!(sized([90, 64, 3], 10).contains("sides that are multiples of 4"));
    assert!(sized([64, 90, 3], 10).contains("sides that are multiples of 4"));
    assert!(sized([64, 260, 3], 10).contains("W ≤ 256"));
    assert!(sized([64, 64, 3], 100_000).contains("100000 classes"));
}
