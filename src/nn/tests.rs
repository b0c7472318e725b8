//! Compares the CPU engine with candle's autograd in f64, on named networks and on some made up for the
//! tests.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use rand::Rng;

use super::ResNet;
use crate::backend::cpu::blend::Pairs;
use crate::backend::cpu::infer::{BATCH as TOGETHER, Folded};
use crate::backend::cpu::net::{Hidden, Net};
use crate::methods::choice::Kind as _;
use crate::methods::loss::{Loss, LossKind, Targets, reference};
use crate::net::zoo::{BlockKind, conv, linear, stage};
use crate::net::{Arch, Network, Params, Shortcut};
use crate::rng::{Purpose, stream};
use crate::tensor::read;

/// Returns the shape of images for a network; they are not square. Candle has no gradient of a convolution
/// with stride 2 on odd sides, so only the sides in the last stage are odd.
fn shape(network: &Network) -> [usize; 3] {
    let halved =
        usize::from(network.pool) + network.convs().filter(|c| c.stride == 2 && c.kernel > 1).count();
    [3 << halved, if halved > 3 { 1 } else { 2 } << halved, 3]
}

/// Sides that become odd at some stage, for inference.
const ODD: [usize; 3] = [18, 13, 3];
const BATCH: usize = 5;
const CLASSES: usize = 4;

/// Networks made up for the tests: one with two stages of 8 and 16 channels, of three and two blocks; one of
/// bottlenecks with all kinds of shortcuts after a 7×7 stem and a max-pool, whose last block is padded; and
/// one more, described below.
fn odd() -> [Network; 3] {
    let padded = |_: &str, stride: usize, _: [usize; 2]| match stride {
        1 => Shortcut::Identity,
        _ => Shortcut::Padded,
    };
    let projected = |block: &str, stride: usize, [cin, cout]: [usize; 2]| match stride {
        1 if cin == cout => Shortcut::Identity,
        _ => Shortcut::Projected(conv(&format!("{block}.p"), &format!("{block}.n"), 1, stride, [cin, cout])),
    };
    let basic = Network {
        name: "odd".into(),
        stem: conv("stem", "stem_norm", 3, 1, [3, 8]),
        pool: false,
        stages: vec![
            stage(0, 3, BlockKind::Basic, [8, 8], padded),
            stage(1, 2, BlockKind::Basic, [8, 16], padded),
        ],
        classifier: linear("head"),
    };
    let bottlenecks = Network {
        name: "odder".into(),
        stem: conv("stem", "stem_norm", 7, 1, [3, 10]),
        pool: true,
        stages: vec![
            stage(0, 2, BlockKind::Bottleneck, [10, 5], projected),
            stage(1, 2, BlockKind::Bottleneck, [20, 6], projected),
            stage(2, 1, BlockKind::Bottleneck, [24, 8], padded),
        ],
        ..basic.clone()
    };
    // A 1×1 stem, and two stages with equally many inner channels, with the stride in the 3×3 convolution.
    let strided = Network {
        name: "oddest".into(),
        stem: conv("stem", "stem_norm", 1, 1, [3, 16]),
        stages: vec![
            stage(0, 2, BlockKind::Bottleneck, [16, 16], projected),
            stage(1, 2, BlockKind::Bottleneck, [64, 16], projected),
        ],
        ..basic.clone()
    };
    [basic, bottlenecks, strided]
}

/// One network of each family, and those made up for the tests.
fn networks() -> Vec<Network> {
    let names = ["resnet20", "resnet18-cifar", "resnet10", "resnet50"];
    let named = names.map(|name| name.parse::<Arch>().expect("a name").network());
    named.into_iter().chain(odd()).collect()
}

/// Parameters that differ from freshly initialised ones.
fn params(network: &Network) -> Params {
    let params = Params::new(network, CLASSES).expect("parameters");
    params.init(5).expect("values");
    let mut dict = params.state_dict().expect("names");
    let mut rng = stream(7, Purpose::Init, 1, 0);
    for (name, v) in &mut dict {
        let spread = if name.ends_with("running_var") || v.shape.len() > 1 { 0.0 } else { 0.3 };
        v.data.iter_mut().for_each(|x| *x += spread * rng.random_range(-1.0..1.0f32));
    }
    params.load(&dict).expect("all there");
    params
}

/// Images, (N, H, W, C).
fn images(shape: [usize; 3], seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, Purpose::Init, 2, 0);
    (0..BATCH * shape.iter().product::<usize>()).map(|_| rng.random_range(-2.0..2.0)).collect()
}

/// Converts images for candle, to (N, C, H, W) in f64.
fn for_candle(images: &[f32], [height, width, channels]: [usize; 3]) -> Tensor {
    let x = Tensor::from_slice(images, (BATCH, height, width, channels), &Device::Cpu).expect("images");
    x.permute((0, 3, 1, 2)).and_then(|x| x.contiguous()?.to_dtype(DType::F64)).expect("images")
}

/// Builds the candle module of the network, with its variables by name.
fn candle(params: &Params) -> (ResNet, HashMap<String, Var>) {
    let values = params.state_dict().expect("names").into_iter().map(|(name, v)| {
        let data: Vec<f64> = v.data.iter().map(|&x| f64::from(x)).collect();
        (name, Var::from_vec(data, v.shape, &Device::Cpu).expect("a variable"))
    });
    let vars: HashMap<String, Var> = values.collect();
    let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
    (ResNet::new(params.network(), CLASSES, vb).expect("a network"), vars)
}

/// ‖found − truth‖ / ‖truth‖, with ‖truth‖ at least 1e-6.
fn distance(found: &[f32], truth: &[f64]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let square = |x: f64| x * x;
    let off: f64 = found.iter().zip(truth).map(|(&a, b)| square(f64::from(a) - b)).sum();
    (off / truth.iter().map(|&t| square(t)).sum::<f64>().max(1e-12)).sqrt()
}

fn values(x: &Tensor) -> Vec<f64> {
    x.flatten_all().and_then(|x| x.to_vec1()).expect("values")
}

/// Rounding can change the sign of a ReLU's input, and then gradients differ by much more than rounding. So
/// gradients that differ are compared again for other images.
#[test]
fn a_step_is_candles_on_every_network_loss_and_mix() {
    let losses =
        LossKind::ALL.iter().copied().filter(|kind| !kind.on_features).map(Loss::new).collect::<Vec<_>>();
    let mut wrong = vec![];
    for network in networks() {
        // For large networks test only two losses, one with and one without mixing of hidden states.
        let losses = if network.features() > 64 { &losses[..2] } else { &losses[..] };
        for (n, &loss) in losses.iter().enumerate() {
            let network = network.clone().with_classifier(loss.classifier());
            // Hidden states are mixed for every second loss, in each stage in turn.
            let points: Vec<usize> = (1..network.stages.len()).collect();
            let hidden = (n % 2 == 1).then(|| points[n / 2 % points.len()]);
            // With random weights and batch norm over few values, PyTorch's own f32 differs as much from f64
            // on a ResNet-50.
            let tolerance = if network.name == "resnet50" { 5e-2 } else { 1e-3 };
            let (off, name) = step_off(&network, loss, hidden, 3);
            if off > tolerance
                && [4, 5].iter().all(|&seed| step_off(&network, loss, hidden, seed).0 > tolerance)
            {
                wrong.push(format!("{} {loss:?} {hidden:?}: {name} by {off:.1e}", network.name));
            }
        }
    }
    assert!(wrong.is_empty(), "gradients are off: {wrong:#?}");
}

/// Compares a training step with candle's, which mixes hidden states before the stage `hidden`, if any. The
/// loss and the logits must agree; returns how far the worst gradient is off, and its name.
fn step_off(network: &Network, loss: Loss, hidden: Option<usize>, seed: u64) -> (f64, String) {
    let (label_a, label_b) = ([0, 1, 2, 3, 1], [1, 1, 0, 2, 3]);
    let (coef_a, coef_b) = ([0.2, 0.1, 0.05, 0.2, 0.15], [0.0, 0.1, 0.15, 0.0, 0.05]);
    let targets = Targets { label_a: &label_a, label_b: &label_b, coef_a: &coef_a, coef_b: &coef_b };
    let (partner, lambda) = ([1, 0, 4, 3, 2], [0.7, 0.6, 0.25, 1.0, 0.9]);
    let hidden = hidden.map(|stage| Hidden { stage, pairs: Pairs { partner: &partner, lambda: &lambda } });
    let criterion = loss.criterion(&[50, 20, 10, 5]);
    let shape = shape(network);
    let (own, x) = (params(network), images(shape, seed));
    let (net, vars) = candle(&own);

    let mixed = |at: usize, x: Tensor| match hidden {
        Some(Hidden { stage, .. }) if stage == at => {
            let lambda: Vec<f64> = lambda.iter().map(|&l| f64::from(l)).collect();
            let lambda = Tensor::from_vec(lambda, (BATCH, 1, 1, 1), x.device())?;
            let other = x.index_select(&Tensor::new(&partner[..], x.device())?, 0)?;
            x.broadcast_mul(&lambda)? + other.broadcast_mul(&(1.0 - lambda)?)?
        }
        _ => Ok(x),
    };
    let logits = net
        .features_mixed_t(&for_candle(&x, shape), true, mixed)
        .and_then(|features| net.classify(&features))
        .expect("forward");
    let (true_loss, slope) = reference(&criterion, &values(&logits), &targets);
    let slope = Tensor::from_vec(slope, logits.shape(), &Device::Cpu).expect("a gradient");
    let grads = (&logits * slope).and_then(|z| z.sum_all()?.backward()).expect("backward");

    let engine = Net::new(own, criterion, shape, BATCH, DType::F32).expect("an engine");
    let x = Tensor::from_vec(x, engine.x.dims(), &Device::Cpu).expect("images");
    engine.x.slice_set(&x, 0, 0).expect("written");
    let found = engine.gradients(targets, hidden).expect("a step").loss;
    let what = format!("{} {loss:?} {:?}", network.name, hidden.map(|h| h.stage));
    // The deepest network accumulates more rounding errors.
    let tolerance = if network.name == "resnet50" { 1e-4 } else { 1e-5 };
    assert!((found / true_loss - 1.0).abs() < tolerance, "{what}: {found} {true_loss}");
    let logits_found = read(engine.logits()).expect("logits").to_vec();
    assert!(distance(&logits_found, &values(&logits)) < tolerance, "{what}: logits");
    let mut worst = (0.0, String::new());
    for (name, found) in engine.params.named(engine.grads()).expect("names") {
        let truth = values(grads.get(&vars[&name]).unwrap_or_else(|| panic!("{name} has no gradient")));
        let off = distance(&found.data, &truth);
        if off > worst.0 {
            worst = (off, name);
        }
    }
    worst
}

#[test]
fn inference_is_candles() {
    for network in networks() {
        let params = params(&network);
        let (net, _) = candle(&params);
        let x = images(ODD, 3);
        let features = net.features_t(&for_candle(&x, ODD), false).expect("features");
        let logits = net.classify(&features).expect("logits");
        let folded = Folded::new(&params, ODD).expect("folded");
        let len = ODD.iter().product::<usize>();
        let found = folded.forward(BATCH, 2, |n, pixels| pixels.copy_from_slice(&x[n * len..][..len]));
        let found = found.expect("inference");
        for (what, found, truth) in [("features", found.features, features), ("logits", found.logits, logits)]
        {
            let off = distance(&found, &values(&truth));
            assert!(off < 1e-5, "{}: {what} are {off:.1e} off", network.name);
        }
    }
}

/// Threads reuse their memory, and process more images together in later stages.
#[test]
fn many_images_are_computed_as_one_by_one() {
    for network in networks() {
        let params = params(&network);
        let folded = Folded::new(&params, [32, 32, 3]).expect("folded");
        let image = |n: usize, pixels: &mut [f32]| {
            let mut rng = stream(n as u64, Purpose::Init, 2, 0);
            pixels.iter_mut().for_each(|x| *x = rng.random_range(-2.0..2.0));
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let many = pool.install(|| folded.forward(27, TOGETHER, image)).expect("inference");
        for n in [0, 1, 7, 8, 20, 26] {
            let one = Folded::new(&params, [32, 32, 3]).expect("folded").forward(1, 1, |_, x| image(n, x));
            let one = one.expect("inference");
            assert_eq!(many.logits[n * CLASSES..(n + 1) * CLASSES], one.logits, "{} {n}", network.name);
        }
    }
}

#[test]
fn a_pool_takes_the_largest_of_nine() {
    let (height, width) = (5, 8);
    let mut rng = stream(4, Purpose::Init, 3, 0);
    let image: Vec<f64> = (0..height * width).map(|_| rng.random_range(0.0..1.0)).collect();
    let x = Tensor::from_slice(&image, (1, 1, height, width), &Device::Cpu).expect("an image");
    let found = super::max_pool(&x).expect("pooled");
    assert_eq!(found.dims(), [1, 1, 3, 4]);
    let mut wanted = vec![];
    for row in (0..height).step_by(2) {
        for col in (0..width).step_by(2) {
            let rows = row.saturating_sub(1)..(row + 2).min(height);
            let cols = col.saturating_sub(1)..(col + 2).min(width);
            let window = rows.flat_map(|r| cols.clone().map(move |c| r * width + c));
            wanted.push(window.map(|at| image[at]).fold(0.0, f64::max));
        }
    }
    assert_eq!(values(&found), wanted);
}

#[test]
fn the_whole_zoo_has_pytorchs_tensors() {
    for name in Arch::names() {
        let network = name.parse::<Arch>().expect("known").network();
        let vars = candle_nn::VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        let net = ResNet::new(&network, 3, vb).expect("a network");
        let x = Tensor::zeros((2, 3, 32, 40), DType::F32, &Device::Cpu).expect("images");
        let features = net.features_t(&x, true).expect("features");
        assert_eq!(features.dims(), [2, network.features()], "{name}");
        // The number of tensors in PyTorch's module, without batch counters.
        let names: Vec<String> = vars.data().lock().expect("no panic").keys().cloned().collect();
        assert_eq!(names.len(), 5 * network.convs().count() + 2, "{name}");
    }
}
