//! Compares training steps with the CPU's: losses, gradients, and the state after the step.

use super::setup::*;
use crate::backend::cpu::net::Net;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::trainer::{Images, Trainer};
use crate::backend::tests::relative_error;
use crate::backend::{Rates, levels};
use crate::methods::choice::Kind;
use crate::methods::loss::{CE, LDAM, Loss, LossKind};
use crate::methods::mix::{self, Blend, Mix, MixKind, Partner};
use crate::methods::presets::{Method, preset};
use crate::methods::rule::{self, RW, Rule};
use crate::train::config::{Augment, Config, Precision};
use crate::train::engine::{rows, train_epoch};

/// How far a tensor of gradients may be from the CPU's if the input of a ReLU came out with the other sign.
const FLIPPED: f64 = 0.3;

/// Compares an epoch in f32 with the CPU's: loss, gradients of the last step and the state after it, tensor
/// by tensor, each as a relative error.
///
/// Two kinds of networks are compared. In the first, every value is far from the ReLU's kink, so rounding
/// changes no sign. There, each seed must be within ten times the tolerances of the loss and of gradients,
/// because small differences of large values have fewer correct digits. In freshly initialised networks, the
/// input of a ReLU now and then comes out with the other sign, which changes a gradient by up to a tenth.
/// There, each seed must be as near as that allows, and one of five seeds must be within the tolerance.
fn compare(config: &Config, data: &Data, tolerance: [f64; 3]) {
    let mix_points = |seed| [1, 2].map(|step| mix_point(&Config { seed, ..config.clone() }, data, step));
    let seeds = || {
        let same = (config.seed..).filter(|&seed| mix_points(seed) == mix_points(config.seed)).take(5);
        same.map(|seed| Config { seed, ..config.clone() })
    };
    let within =
        |errors: &[f64; 3], most: [f64; 3]| errors.iter().zip(most).all(|(error, most)| *error < most);
    for device in devices(config.precision) {
        for config in seeds().take(2) {
            let (errors, what) = errors(&device, &config, data, true);
            eprintln!("far from ReLUs: {what}");
            let [loss, gradient, _] = tolerance.map(|t| 10.0 * t);
            assert!(within(&errors, [loss, gradient, gradient]), "far from ReLUs: {what}");
        }
        let mut near = false;
        for config in seeds() {
            let (errors, what) = errors(&device, &config, data, false);
            eprintln!("{what}");
            assert!(within(&errors, [FLIPPED; 3]), "{what}");
            near |= within(&errors, tolerance);
            if near {
                break;
            }
        }
        assert!(near, "{}: none of five seeds is within {tolerance:?}", device.describe());
    }
}

/// Returns the errors that [`compare`] checks, and a description of them.
fn errors(device: &Device, config: &Config, data: &Data, far: bool) -> ([f64; 3], String) {
    let (found, truth) = (network(config, data), network(config, data));
    if far {
        [&found, &truth].into_iter().for_each(move_from_relus);
    }
    let (loss, right) = on(device, config, data, &found);
    let (true_loss, true_right) = on_the_cpu(config, data, &truth);
    let named = |n: &Net| n.params.named(n.grads()).expect("names");
    let state = |n: &Net| n.params.training_state().expect("a state");
    // Where no channel switches between on and off, the gradient of a shift is nearly zero, because the next
    // batch norm cancels it.
    let least = if far { 0.01 } else { 0.0 };
    let (gradient, worst) = furthest(&named(&found), &named(&truth), least);
    let (state, changed) = furthest(&state(&found), &state(&truth), least);
    let loss = (loss / true_loss - 1.0).abs();
    let what = format!(
        "{} {} {:?} {} seed {}: right {right:.4} of {true_right:.4}, loss {loss:.1e}, gradient {gradient:.1e} ({worst}), state {state:.1e} ({changed})",
        device.describe(),
        config.method().name(),
        data.train.shape(),
        data.train.len(),
        config.seed
    );
    let loss = if (right - true_right).abs() < 1e-3 { loss } else { f64::INFINITY };
    ([loss, gradient, state], what)
}

/// Compares a step in bf16: its gradients must be no further from those in f32 than the CPU's in bf16 are,
/// and no further than that from the CPU's in bf16 (each up to a factor of 1.25).
fn compare_bf16(exact: Config, shape: [usize; 3]) {
    for device in devices(Precision::Bf16) {
        let data = Data::new(shape, exact.batch_size, exact.batch_size);
        let rounded = Config { precision: Precision::Bf16, ..exact.clone() };
        let nets = [network(&exact, &data), network(&rounded, &data), network(&rounded, &data)];
        let [truth, cpu, found] = &nets;
        on_the_cpu(&exact, &data, truth);
        let (true_loss, _) = on_the_cpu(&rounded, &data, cpu);
        let (loss, _) = on(&device, &rounded, &data, found);
        let [truth, cpu, found] =
            nets.each_ref().map(|n| crate::tensor::read(n.grads()).expect("values").to_vec());
        let (own, peer) = (relative_error(&found, &truth), relative_error(&cpu, &truth));
        let apart = relative_error(&found, &cpu);
        let loss = (loss / true_loss - 1.0).abs();
        let what = format!(
            "{} {} {shape:?} bf16: loss {loss:.1e} from the CPU's; gradient {own:.1e} from that in f32, the CPU's \
             {peer:.1e}, {apart:.1e} from each other",
            device.describe(),
            exact.method().name()
        );
        eprintln!("{what}");
        assert!(loss < 2e-2 && own < 1.25 * peer && apart < 1.25 * peer, "{what}");
    }
}

#[test]
fn one_step_is_the_cpus() {
    // The sizes cover tiles that are a part of an image, images that are not square, and last tiles with
    // fewer rows.
    let config = |batch| config(Precision::F32, batch);
    compare(&config(3), &Data::new([32, 32, 3], 3, 3), [1e-6, 1e-4, 1e-5]);
    compare(&config(7), &Data::new([8, 12, 3], 7, 5), [1e-6, 1e-4, 1e-5]);
    // With so many values, the input of some ReLU has the other sign with most seeds; each changes the
    // gradient by a small part.
    compare(&config(3), &Data::new([36, 64, 3], 3, 3), [1e-6, 5e-3, 5e-3]);
    compare(&config(4), &Data::new([4, 8, 3], 4, 4), [1e-6, 1e-4, 3e-5]);
}

#[test]
fn every_loss_and_mix_is_the_cpus() {
    // The class counts differ so much that Remix, margins and offsets all have an effect.
    let data = Data::labelled([8, 12, 3], &[0, 1, 0, 0, 2, 0, 1, 0, 0, 1, 0], 5);
    let losses = LossKind::ALL.iter().copied().filter(|kind| !kind.on_features);
    let mixes = MixKind::ALL.iter().copied().filter(|kind| kind.partner == Partner::OfBatch);
    let with_ce = mixes.clone().map(|mix| (mix, &CE, &rule::NONE));
    // With margins, two labels of a sample do not share a softmax, not even if they are the same.
    let ldam = (&mix::NONE, &LDAM, &rule::NONE);
    let weighted = mixes.cycle().zip(losses).map(|(mix, loss)| (mix, loss, &RW));
    for (mix, loss, rule) in with_ce.chain([ldam]).chain(weighted) {
        let method = Method { mix: Mix::new(mix), loss: Loss::new(loss), rule: Rule::new(rule) };
        let mut config = Config { seed: 4, ..Config::new(method) };
        (config.arch, config.batch_size) = ("resnet20".parse().expect("a name"), 7);
        if matches!(config.mix.kind.blend, Blend::Patch(_)) {
            config.mix = config.mix.with_word("lambda_per", "sample");
        }
        if config.mix.mix_points() > 1 {
            config.seed = seed_of(&config, [2, 1]);
        }
        compare(&config, &data, [1e-5, 1e-4, 1e-4]);
    }
}

#[test]
fn more_classes_than_threads_are_the_cpus() {
    let labels: Vec<usize> = (0..310).map(|i| i % 300).collect();
    let data = Data::labelled([4, 4, 3], &labels, 5);
    for method in ["mixup-ldam-rw", "remix-balanced-softmax"] {
        let arch = "resnet20".parse().expect("a name");
        let config = Config { arch, batch_size: 310, ..Config::new(preset(method).expect("a method")) };
        compare(&config, &data, [1e-6, 1e-4, 1e-4]);
    }
}

#[test]
fn an_epoch_with_a_ragged_batch_is_the_cpus() {
    // Only two steps: sooner or later, one of many values is on the other side of a ReLU, and from then on
    // the networks differ.
    compare(&config(Precision::F32, 8), &Data::new([16, 8, 3], 11, 5), [1e-5, 1e-4, 1e-4]);
}

#[test]
fn images_that_the_host_changes_are_trained_on_as_on_the_cpu() {
    let plain = config(Precision::F32, 3);
    let colours = Config { color_jitter: Some([0.4; 3]), rand_augment: Some([2, 9]), ..plain.clone() };
    let resized = Config { augment: Augment::ResizedCropFlip, ..plain.clone() };
    let tolerance = [1e-5, 1e-4, 1e-4];
    compare(&plain, &Data::cropped([12, 12, 3], Some(8), 7, 5), tolerance);
    compare(&colours, &Data::cropped([12, 12, 3], Some(8), 7, 5), tolerance);
    compare(&colours, &Data::new([8, 8, 3], 7, 5), tolerance);
    compare(&resized, &Data::cropped([12, 12, 3], Some(8), 7, 5), tolerance);
}

#[test]
fn one_step_in_bf16_is_as_near_as_the_cpus() {
    compare_bf16(config(Precision::F32, 3), [32, 32, 3]);
    compare_bf16(config(Precision::F32, 7), [8, 12, 3]);
    compare_bf16(config(Precision::F32, 3), [36, 64, 3]);
    let of = |name| {
        let Method { mix, loss, rule } = preset(name).expect("a method");
        Config { mix, loss, rule, ..config(Precision::F32, 7) }
    };
    compare_bf16(of("mixup-ldam-rw"), [8, 12, 3]);
    for mix_point in [1, 2] {
        let manifold = of("manifold-mixup");
        compare_bf16(Config { seed: seed_of(&manifold, [mix_point, 0]), ..manifold }, [8, 12, 3]);
    }
}

#[test]
fn raw_outputs_in_bf16_are_the_cpus() {
    for device in devices(Precision::Bf16) {
        let (data, config) = (Data::new([16, 16, 3], 6, 5), config(Precision::Bf16, 6));
        let (found, truth) = (network(&config, &data), network(&config, &data));
        let mut trainer = trainer(&device, &config, &data, &found);
        trainer.epoch(|e| rows(&plan(&config, &data), e, None), |_| vec![], 1, 1, RATES).expect("an epoch");
        on_the_cpu(&config, &data, &truth);
        let mut apart = vec![];
        for (n, layer) in truth.layers().iter().enumerate() {
            let y = layer.y.to_dtype(candle_core::DType::F32).and_then(|y| y.flatten_all()?.to_vec1::<f32>());
            let (y, raw) = (y.expect("values"), trainer.net.raw(n, 6).expect("values"));
            let other = y.iter().zip(&raw).filter(|(a, b)| a != b).count() as f64 / y.len() as f64;
            apart.push((relative_error(&raw, &y), other));
        }
        let text: Vec<String> = apart.iter().map(|(d, o)| format!("{d:.1e} ({:.1} %)", 100.0 * o)).collect();
        eprintln!(
            "{}: raw outputs apart, by layer (and share that is not the same): {}",
            device.describe(),
            text.join(", ")
        );
        // In the first layer the products are the same, but sums in another order occasionally round to the
        // neighbouring value. In the other layers the CPU may use Winograd, which rounds more.
        assert!(apart[0].0 < 1e-3 && apart[0].1 < 0.05, "the first layer: {text:?}");
        assert!(apart.iter().all(|(d, _)| *d < 6e-2), "{text:?}");
    }
}

#[test]
fn fifty_steps_have_the_cpus_losses() {
    for precision in [Precision::F32, Precision::Bf16] {
        for device in devices(precision) {
            let (shape, images, batch) =
                if emulated(&device) { ([8, 8, 3], 20, 4) } else { ([32, 32, 3], 640, 128) };
            let (data, config) = (Data::new(shape, images, 5), config(precision, batch));
            let (found, truth) = (network(&config, &data), network(&config, &data));
            let mut trainer = trainer(&device, &config, &data, &found);
            let (plan, levels) = (plan(&config, &data), levels(&config.mean, &config.std));
            let rates = Rates { lr: 0.003, ..RATES };
            // Mean losses of each epoch of five steps.
            let curves: Vec<[f64; 2]> = (1..=10)
                .map(|e| {
                    let losses =
                        trainer.epoch(|e| rows(&plan, e, None), |_| vec![], e, e, rates).expect("an epoch");
                    let (loss, _) =
                        train_epoch(&truth, &data.train, &levels, &plan.epoch(e), rates, e, &mut |_| ())
                            .expect("an epoch");
                    [losses.iter().map(|l| l[0]).sum::<f64>() / 5.0, loss / images as f64]
                })
                .collect();
            let what = format!("{} {precision:?}: losses and the CPU's {curves:.4?}", device.describe());
            eprintln!("{what}");
            // In f32 the networks differ by single values on the other side of a ReLU, in bf16 from the first
            // step on.
            let apart = |c: &[f64; 2]| (c[0] / c[1] - 1.0).abs();
            let mean = |i: usize| curves.iter().map(|c| c[i]).sum::<f64>() / 10.0;
            match precision {
                Precision::F32 => assert!(curves.iter().all(|c| apart(c) < 0.02), "{what}"),
                Precision::Bf16 => assert!(apart(&[mean(0), mean(1)]) < 0.1, "{what}"),
            }
        }
    }
}

#[test]
fn a_diverged_training_has_no_number_for_its_loss() {
    for precision in [Precision::F32, Precision::Bf16] {
        for device in devices(precision) {
            let (data, config) = (Data::new([8, 8, 3], 8, 5), config(precision, 4));
            let net = network(&config, &data);
            let mut trainer = trainer(&device, &config, &data, &net);
            let (plan, rates) = (plan(&config, &data), Rates { lr: 1e25, ..RATES });
            let losses = trainer.epoch(|e| rows(&plan, e, None), |_| vec![], 1, 1, rates).expect("an epoch");
            // The sums of the second step are too large for their representation, or NaN, and its batch norms
            // must not hide that.
            assert!(losses[0][0].is_finite() && losses[1][0].is_nan(), "{}: {losses:?}", device.describe());
        }
    }
}

/// Tests what docs/design/cuda.md states: the variance of a channel whose mean is a hundred times its
/// standard deviation is off by some percent on a GPU, while the CPU computes the sums of such channels
/// again.
#[test]
fn the_variance_of_a_channel_far_from_zero_has_a_known_error() {
    for device in devices(Precision::F32) {
        let (data, config) = (Data::new([8, 8, 3], 6, 5), config(Precision::F32, 6));
        let (found, truth) = (network(&config, &data), network(&config, &data));
        // Bytes become 100 ± 0.74, and the first layer copies the first channel of the images.
        let levels: Vec<[f32; 256]> =
            vec![std::array::from_fn(|byte| 100.0 + 0.01 * (byte as f32 - 127.5)); 3];
        for net in [&found, &truth] {
            crate::tensor::write(&net.params.values, |params| {
                let (at, len) = (net.params.slots()[0].weight, net.params.network().stem.weight_len());
                let weight = &mut params[at..][..len];
                weight.fill(0.0);
                // The weight is (3, 3, 3, 16): this is the tap in the middle, for the first channel in.
                weight[4 * 3 * 16..][..16].fill(1.0);
            })
            .expect("written");
        }
        let plan = plan(&Config { augment: Augment::None, ..config.clone() }, &data);
        let images = Images { train: &data.train, judged: &[&data.test], levels: &levels, streamed: false };
        let mut trainer =
            Trainer::new(&device, &found.params, &found.criterion, images, 6, config.mix.mix_points())
                .expect("a trainer");
        trainer.epoch(|e| rows(&plan, e, None), |_| vec![], 1, 1, RATES).expect("an epoch");
        trainer.give(&found.params).expect("given");
        train_epoch(&truth, &data.train, &levels, &plan.epoch(1), RATES, 1, &mut |_| ()).expect("an epoch");
        let of = |net: &Net| net.params.state_dict().expect("weights")["bn1.running_var"].data[0];
        let (var, exact) = (of(&found) - 0.9, of(&truth) - 0.9);
        let off = (var / exact - 1.0).abs();
        eprintln!("{}: variance {var} of {exact}", device.describe());
        assert!((0.01..0.1).contains(&exact) && off < 0.05, "{}: {var} of {exact}", device.describe());
    }
}
