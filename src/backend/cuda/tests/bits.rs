//! Tests that training gives the same bits in any order of threads, blocks and kernels, when it is resumed,
//! and when images are sent some steps at a time.

use super::setup::*;
use crate::backend::cuda::device::Device;
use crate::methods::presets::preset;
use crate::train::config::{Config, Precision};
use crate::train::engine::rows;

#[test]
fn the_same_bits_in_any_order() {
    for precision in [Precision::F32, Precision::Bf16] {
        for device in devices(precision) {
            // On a GPU, blocks of several kernels and networks must run at the same time, so the cases are
            // large. On the emulator these would take too long.
            let (remix, ldam, manifold) = ("remix-rw", "remix-cutmix-ldam-drs", "remix-manifold");
            let (cases, epochs, other) = match Device::emulated(precision, true) {
                Some(hostile) if emulated(&device) => (
                    vec![
                        (remix, [8, 8, 3], 11, 4),
                        (remix, [32, 32, 3], 3, 3),
                        (ldam, [8, 8, 3], 7, 4),
                        (manifold, [8, 8, 3], 11, 7),
                    ],
                    2,
                    hostile,
                ),
                _ => {
                    let one_by_one = Device::one_by_one(0, precision).expect("a GPU");
                    let cases = [(remix, 700), (ldam, 200), (manifold, 500)];
                    (
                        cases.map(|(method, images)| (method, [32, 32, 3], images, 128)).to_vec(),
                        30,
                        one_by_one,
                    )
                }
            };
            for (method, shape, images, batch) in cases {
                let data = Data::new(shape, images, 5);
                let method = preset(method).expect("a method");
                let mut config = Config {
                    mix: method.mix,
                    loss: method.loss,
                    rule: method.rule,
                    ..config(precision, batch)
                };
                if config.mix.mix_points() > 1 {
                    config.seed = seed_of(&config, [1, 2]);
                }
                let truth = train(&other, &config, &data, epochs);
                let run = || train(&device, &config, &data, epochs);
                assert!(run() == truth, "{}: {precision:?} {shape:?} {:?}", device.describe(), config.loss);
                if emulated(&device) {
                    continue;
                }
                std::thread::scope(|s| {
                    let one = || {
                        let device = Device::open(0, precision).expect("a GPU");
                        train(&device, &config, &data, epochs)
                    };
                    let all: Vec<_> = (0..3).map(|_| s.spawn(one)).collect();
                    for (n, other) in all.into_iter().enumerate() {
                        assert!(
                            other.join().expect("trained") == truth,
                            "{precision:?}: number {n} of three at once"
                        );
                    }
                });
            }
        }
    }
}

#[test]
fn a_resumed_training_has_the_same_bits() {
    for device in devices(Precision::Bf16) {
        let data = Data::new([8, 8, 3], 11, 5);
        let config = config(Precision::Bf16, 4);
        let whole = train(&device, &config, &data, 2).0;
        let half = train(&device, &config, &data, 1).0;
        let net = network(&config, &data);
        net.params.resume(&half).expect("resumed");
        let mut trainer = trainer(&device, &config, &data, &net);
        trainer.epoch(|e| rows(&plan(&config, &data), e, None), |_| vec![], 2, 2, RATES).expect("an epoch");
        trainer.give(&net.params).expect("given");
        assert_eq!(net.params.training_state().expect("a state"), whole);
    }
}

/// Tests that images that do not fit in the device's memory give the same results as images that do.
#[test]
fn images_sent_some_steps_at_a_time_give_the_same_bits() {
    for device in devices(Precision::F32) {
        // In the first case the device holds three of the six steps (three images each) at a time; in the
        // second, one step of seven images.
        for (images, batch, steps) in [(17, 3, 3), (11, 7, 1)] {
            let config = Config { crop_padding: Some(2), ..config(Precision::F32, batch) };
            let data = Data::new([8, 8, 3], images, 5);
            let train = |streamed| {
                let net = network(&config, &data);
                let mut trainer = trainer_of(&device, &config, &data, &net, streamed);
                if streamed && emulated(&device) {
                    assert_eq!(trainer.steps_on_device(), Some(steps));
                }
                let plan = plan(&config, &data);
                let losses = [1, 2].map(|e| epoch(&mut trainer, &plan, &data, e));
                trainer.give(&net.params).expect("given");
                (losses, net.params.training_state().expect("a state"))
            };
            assert!(train(true) == train(false), "{}: batches of {batch}", device.describe());
        }
    }
}
