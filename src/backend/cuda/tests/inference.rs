//! Compares inference, and the accuracy after an epoch, with the CPU's.

use super::setup::*;
use crate::backend::cpu::infer::Folded;
use crate::backend::cuda::infer::{Evaluator, infer};
use crate::backend::levels;
use crate::backend::tests::relative_error;
use crate::metrics::top1;
use crate::train::config::Precision;
use crate::train::engine::rows;

#[test]
fn inference_is_the_cpus() {
    for device in devices(Precision::F32) {
        let data = Data::new([16, 16, 3], 11, 9);
        let config = config(Precision::F32, 4);
        let (state, _) = train(&device, &config, &data, 1);
        let net = network(&config, &data);
        net.params.resume(&state).expect("resumed");
        let levels = levels(&config.mean, &config.std);
        let found = infer(&device, &net.params, &data.test, &levels).expect("inference");
        let folded = Folded::new(&net.params, data.test.shape()).expect("a network");
        let truth = folded.run(&data.test, &levels).expect("inference");
        assert!(relative_error(&found.features, &truth.features) < 1e-5);
        assert!(relative_error(&found.logits, &truth.logits) < 1e-5);
        for fits in [true, false] {
            let batches = Evaluator::new(&device, &net.params, &data.test, &levels, 2, fits);
            let batches = batches.expect("an evaluator");
            batches.run(&data.test).expect("inference");
            let logits = batches.logits().expect("logits");
            assert_eq!(logits, found.logits, "in batches of 2 and one of 1, all on the device: {fits}");
        }
        let trainer = trainer(&device, &config, &data, &net);
        let right = top1(&truth.logits, data.test.labels(), CLASSES);
        assert_eq!(trainer.top1(&[&data.test]).expect("accuracy"), [right]);
    }
}

/// Tests that the accuracy after an epoch is computed in f32 in either precision, as in `eval`.
#[test]
fn a_training_in_bf16_is_judged_in_f32() {
    for device in devices(Precision::Bf16) {
        let (data, config) = (Data::new([16, 16, 3], 11, 9), config(Precision::Bf16, 4));
        let net = network(&config, &data);
        let mut trainer = trainer(&device, &config, &data, &net);
        trainer.epoch(|e| rows(&plan(&config, &data), e, None), |_| vec![], 1, 1, RATES).expect("an epoch");
        trainer.top1(&[&data.test]).expect("accuracy");
        trainer.give(&net.params).expect("given");
        let folded = Folded::new(&net.params, data.test.shape()).expect("a network");
        let truth = folded.run(&data.test, &levels(&config.mean, &config.std)).expect("inference");
        let apart = relative_error(&trainer.evaluators[0].logits().expect("logits"), &truth.logits);
        assert!(apart < 1e-5, "{}: {apart:.1e}", device.describe());
    }
}
