//! A ResNet-32 against PyTorch: `tests/fixtures/resnet32.safetensors`, made in f64 by `scripts/pytorch/fixture_resnet.py`, whose
//! docstring is the specification of the weights and the input here.

use std::path::Path;

use candle_core::{DType, Tensor};
use safetensors::SafeTensors;

use super::cpu::{Hidden, Net};
use super::infer::{BATCH, Folded};
use crate::methods::loss::{Criterion, Loss, Targets};
use crate::net::files::{StateDict, Values, open, save};
use crate::net::{Arch, Network, Params, Shortcut};
use crate::ops::blend::Pairs;
use crate::ops::read;
use crate::ops::sgd::Rates;
use crate::ops::simd::{Isa, for_each_isa};

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

/// The network of the fixture, with the input in its batch.
fn network() -> Net {
    network_in(DType::F32)
}

/// Parameters of a network of ten classes, all zero.
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

/// The input as (N, H, W, C).
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
        let rates = Rates { lr: 0.1, momentum: 0.9, weight_decay: 2e-4 };
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
    /// By name: length, and product with the probe.
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
            // In bf16 the same, as near as it comes.
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
            // AMX has nothing for f32: there it is AVX-512, Winograd included.
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
    for name in ["conv1.weight", "layer1.2.conv2.weight", "layer2.0.conv1.weight", "layer3.4.conv1.weight"] {
        let params = network().params;
        let mut dict = params.state_dict().expect("names");
        // Their products are beyond f32, and then ∞ − ∞.
        dict.get_mut(name).expect("a tensor").data.iter_mut().for_each(|w| *w *= 1e38);
        params.load(&dict).expect("all there");
        for_each_isa(|isa| {
            let net = Folded::new(&params, SHAPE).expect("folded");
            let out =
                net.forward(8, BATCH, |n, x| x.copy_from_slice(&pixels[n * x.len()..(n + 1) * x.len()]));
            let logits = out.logits.chunks_exact(10);
            assert!(
                logits.into_iter().all(|z| z.iter().any(|z| !z.is_finite())),
                "{isa:?} {name}: {:?}",
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
    let network_of_ldam = Arch::RESNET32.network().with_classifier(Loss::LDAM.classifier());
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
    // The logits of inference are 30 cosines of its own features.
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
    // Neither network takes the other's classifier, nor one that has lost its bias.
    let linear = network().params;
    let text = format!("{:#}", linear.load(&state).expect_err("refused"));
    assert!(text.contains("linear.weight is [64, 10]"), "{text}");
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

#[test]
fn networks_without_an_engine_are_refused_by_name() {
    let of = |name: &str| super::check(&name.parse::<Arch>().expect("known").network());
    for name in ["resnet20", "resnet110"] {
        assert_eq!(of(name), Ok(()));
    }
    for (name, why) in [
        ("resnet50", "a max-pool after the stem"),
        ("resnet18-cifar", "layer2.0.shortcut.0, a 1×1 convolution with stride 2"),
    ] {
        assert_eq!(of(name), Err(format!("there is no engine yet for {name}, which has {why}")));
    }
    // Changes of a network that runs: each would be computed wrongly.
    let change = |change: fn(&mut Network)| {
        let mut network = Arch::RESNET32.network();
        change(&mut network);
        super::check(&network).expect_err("refused")
    };
    assert!(change(|n| n.stages[2].truncate(1)).contains("a stage of 1 block"));
    assert!(change(|n| n.stages[0][0].shortcut = Shortcut::Padded).contains("layer1.0.conv1"));
    assert!(change(|n| n.stages[1][0].shortcut = Shortcut::Identity).contains("layer2.0.conv1"));
    assert!(change(|n| n.stages[1][1].convs[1].cout = 64).contains("layer2.1.conv1"));
    assert!(change(|n| n.stages[1][0].convs[0].stride = 1).contains("layer2.0.conv1"));
    let sizes = super::Plan::new(&Arch::RESNET32.network(), [30, 32, 3]).expect_err("refused");
    assert!(sizes.contains("resnet32 needs sides that are multiples of 4"), "{sizes}");
}
