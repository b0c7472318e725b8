//! Inference: batch norm is folded into the convolutions, and a whole network is run over a few images while
//! they are in the cache.

mod layer;
mod pass;

use anyhow::{Error, Result};
use rayon::prelude::*;

use crate::backend;
use crate::backend::cpu::conv::kernel::winograd;
use crate::backend::cpu::conv::kernel::with_scratch;
use crate::backend::cpu::head::Classifier;
use crate::backend::{Engine, Inference, Levels, Plan};
use crate::data::shard::Split;
use crate::interrupt::{self, Interrupted};
use crate::net::{ClassifierKind, Geometry, Params};
use crate::simd::value::Value;
use crate::tensor::read;
use layer::Conv;
use pass::{Pass, Space};

/// Normalises rows of pixels, (H, W, C).
pub fn normalise<'a>(rows: impl Iterator<Item = &'a [u8]>, levels: &Levels, out: &mut [f32]) {
    let values = rows.flatten().zip(levels.iter().cycle());
    for (x, (&byte, level)) in out.iter_mut().zip(values) {
        *x = level[usize::from(byte)];
    }
}

/// A network ready for inference.
pub struct Folded {
    plan: Plan,
    layers: Vec<Conv>,
    linear: (Vec<f32>, Vec<f32>),
    kind: ClassifierKind,
    classes: usize,
    feature_len: usize,
}

/// Images that a thread takes at a time, which is also the most that share a layer's weights.
pub const BATCH: usize = 8;

/// Returns the number of images whose outputs of a layer are computed together: no more than 1024 pixels, so
/// that they stay in the second-level cache.
fn together(geo: Geometry) -> usize {
    (1024 / (geo.out_height() * geo.out_width())).clamp(1, BATCH)
}

impl Folded {
    /// Folds the parameters of a network for images of `shape` `[H, W, C]`.
    ///
    /// # Errors
    /// Returns an error if there is no engine for the network or the images, or if the parameters cannot be
    /// read.
    pub fn new(params: &Params, shape: [usize; 3]) -> Result<Self> {
        let network = params.network();
        let plan = Plan::new(network, shape).map_err(Error::msg)?;
        let (values, running) = (read(&params.values)?, read(&params.running)?);
        let fold = |(layer, &geo): (usize, &Geometry)| -> Conv {
            let winograd = layer > 0 && winograd::fits(geo, f32::isa(), 4);
            let (slot, cout) = (params.slots()[layer], geo.cout);
            let (gamma, beta) = values[slot.gamma_beta..][..2 * cout].split_at(cout);
            let (mean, var) = running[slot.running..][..2 * cout].split_at(cout);
            let weight = values[slot.weight..][..geo.weight_len()].to_vec();
            Conv::new(geo, weight, [gamma, beta, mean, var], winograd)
        };
        let (classes, len) = (params.classes(), network.features());
        let (weight, bias) = values[params.classifier()..][..params.classifier_len()].split_at(classes * len);
        Ok(Folded {
            layers: plan.layers.iter().enumerate().map(fold).collect(),
            plan,
            linear: (weight.to_vec(), bias.to_vec()),
            kind: network.classifier.kind,
            classes,
            feature_len: len,
        })
    }

    /// Computes the logits and features of all images of a split, without augmentation; `levels` are the
    /// normalised values of the bytes.
    ///
    /// # Errors
    /// Returns [`Interrupted`] after a signal.
    pub fn run(&self, split: &Split, levels: &Levels) -> Result<Inference, Interrupted> {
        self.forward(split.len(), BATCH, |n, pixels| normalise(split.rows(n), levels, pixels))
    }

    /// Computes the logits and features of `n` images; `image(i, pixels)` writes the normalised pixels of
    /// image `i`, (H, W, C). A thread takes `batch` images at a time through the network, but no more than
    /// [`BATCH`]; the result does not depend on it.
    ///
    /// # Errors
    /// Returns [`Interrupted`] after a signal.
    pub fn forward(
        &self,
        n: usize,
        batch: usize,
        image: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Inference, Interrupted> {
        let (classes, len) = (self.classes, self.feature_len);
        let space = Space::new(self, batch.min(n));
        let batch = space.images;
        let (mut z, mut f) = (vec![0.0; n * classes], vec![0.0; n * len]);
        let (weight, bias) = (&self.linear.0[..], &self.linear.1[..]);
        let classifier = Classifier::new(weight, bias, self.kind);
        let rows = z.par_chunks_mut(batch * classes).zip(f.par_chunks_mut(batch * len)).enumerate();
        rows.try_for_each(|(at, (z, features))| {
            interrupt::check()?;
            let count = batch.min(n - at * batch);
            with_scratch(space.len(), |scratch| {
                let image = |n: usize, pixels: &mut [f32]| image(at * batch + n, pixels);
                self.features(count, &image, space, scratch, features);
            });
            for (z, f) in z.chunks_exact_mut(classes).zip(features.chunks_exact(len)) {
                classifier.logits(f, z);
            }
            Ok(())
        })?;
        Ok(Inference { logits: z, features: f, classes, feature_len: len })
    }

    /// Computes the features of `count` images, in groups that go through a stage together.
    fn features(
        &self,
        count: usize,
        image: &dyn Fn(usize, &mut [f32]),
        space: Space,
        scratch: &mut [f32],
        features: &mut [f32],
    ) {
        let pass = Pass::new(self, image, space, scratch, features);
        let (plan, blocks) = (&self.plan, self.plan.blocks.len());
        pass.by_groups(count, 1, |pass| backend::stem(plan, pass));
        for stage in 0..plan.stages() {
            let blocks = plan.blocks_of(stage);
            let last = plan.layers[plan.blocks[blocks.end - 1].last];
            pass.by_groups(count, together(last), |pass| {
                blocks.clone().try_for_each(|n| backend::block(plan, pass, n, n == 0 && plan.pools))
            });
        }
        pass.by_groups(count, count, |pass| pass.head(backend::output(plan, blocks), 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Arch;

    #[test]
    fn larger_batches_take_no_more_memory() {
        let params = Params::new(&Arch::RESNET32.network(), 10).expect("memory");
        let net = Folded::new(&params, [32, 32, 3]).expect("folded");
        assert_eq!(Space::new(&net, 5000).len(), Space::new(&net, BATCH).len());
    }
}
