//! A classifier on rows of features, and its training step. No gradient of the features is computed.
//!
//! Weights are kept in panels of 32 classes, (panel, feature, class), so that both products of a step read
//! and write contiguous values: for each panel the logits `X·W`, then the gradient `Xᵀ·dZ`, which updates the
//! weights in place. Each sum runs over features, or over samples, in order, so the result does not depend on
//! the number of threads.

mod kernel;

use rayon::prelude::*;

use self::kernel::{PANEL, Product, Update, from_panels, tile_columns, tile_rows, to_panels};
use super::head::{Loss, d_logits, inverse_norm};
use crate::backend::Rates;
use crate::methods::loss::{ClassifierKind, Criterion, SCALE, Targets};
use crate::simd;
use crate::tensor::Parts;

/// A classifier with its SGD state.
pub struct Linear {
    classes: usize,
    features: usize,
    kind: ClassifierKind,
    /// The weights, in panels.
    weight: Param,
    /// The bias of each class.
    bias: Param,
    /// The scale of each class's logit, if only the scales are trained.
    scale: Option<Param>,
    work: Work,
}

/// A parameter and its velocity, which is empty if the parameter is not trained.
struct Param {
    value: Vec<f32>,
    velocity: Vec<f32>,
}

/// Buffers of a step, which are reused by the next one.
#[derive(Default)]
struct Work {
    products: Vec<f32>,
    gradients: Vec<f32>,
    tiles: Vec<f32>,
}

impl Linear {
    /// Creates a classifier from `flat`: the weight (classes, features), then the bias (classes).
    pub fn new(flat: &[f32], features: usize, kind: ClassifierKind) -> Linear {
        let classes = flat.len() / (features + 1);
        let (weight, bias) = flat.split_at(classes * features);
        Linear {
            classes,
            features,
            kind,
            weight: Param { value: to_panels(weight, features), velocity: vec![] },
            bias: Param { value: bias.to_vec(), velocity: vec![] },
            scale: None,
            work: Work::default(),
        }
    }

    /// Sets the velocities of SGD, in the form of [`Linear::state`], so that the classifier can be trained.
    #[must_use]
    pub fn with_velocity(mut self, flat: &[f32]) -> Linear {
        let (weight, bias) = flat.split_at(self.classes * self.features);
        self.weight.velocity = to_panels(weight, self.features);
        self.bias.velocity = bias.to_vec();
        self
    }

    /// Trains only a scale of each class's logit from now on. `state` is what [`Linear::state`] returned;
    /// without it, all scales are 1.
    #[must_use]
    pub fn scaled(self, state: Option<&[f32]>) -> Linear {
        let classes = self.classes;
        let (value, velocity) = match state {
            Some(state) => (state[..classes].to_vec(), state[classes..2 * classes].to_vec()),
            None => (vec![1.0; classes], vec![0.0; classes]),
        };
        Linear { scale: Some(Param { value, velocity }), ..self }
    }

    /// Returns weight and bias in the form that [`Linear::new`] takes, without the scales.
    pub fn unscaled(&self) -> Vec<f32> {
        let mut flat = from_panels(&self.weight.value, self.classes, self.features);
        flat.extend(&self.bias.value);
        flat
    }

    /// Returns weight and bias in the form that [`Linear::new`] takes, multiplied by the scales.
    pub fn flat(&self) -> Vec<f32> {
        let mut flat = self.unscaled();
        if let Some(scale) = &self.scale {
            let (weight, bias) = flat.split_at_mut(self.classes * self.features);
            for ((row, bias), scale) in weight.chunks_exact_mut(self.features).zip(bias).zip(&scale.value) {
                row.iter_mut().for_each(|w| *w *= scale);
                *bias *= scale;
            }
        }
        flat
    }

    /// Returns the velocities in the same form. If scales are trained, weights and biases have no velocities;
    /// the result then begins with the scales and their velocities, and the rest is zero.
    pub fn state(&self) -> Vec<f32> {
        if let Some(Param { value, velocity }) = &self.scale {
            let mut flat = [&value[..], velocity].concat();
            flat.resize(self.classes * (self.features + 1), 0.0);
            return flat;
        }
        let mut flat = from_panels(&self.weight.velocity, self.classes, self.features);
        flat.extend(&self.bias.velocity);
        flat
    }

    /// Returns the number of classes, rounded up to whole panels.
    fn padded(&self) -> usize {
        self.classes.next_multiple_of(PANEL)
    }

    /// Computes the products of rows of features with the weights, (N, padded classes).
    fn products(&self, x: &[&[f32]], out: &mut [f32], tiles: &mut Vec<f32>) {
        let (features, padded, n) = (self.features, self.padded(), x.len());
        tile_rows(tiles, x, features);
        let x = &**tiles;
        let out = Parts::new(out);
        self.weight.value.par_chunks_exact(features * PANEL).enumerate().for_each(|(number, panel)| {
            let first_class = number * PANEL;
            simd::run(Product { x, n, features, panel, out, first_class, stride: padded });
        });
    }

    /// Returns the inverse norm of each class's weights if the classifier is normalised, otherwise an empty
    /// vector.
    fn inverse(&self) -> Vec<f32> {
        if self.kind == ClassifierKind::Linear {
            return vec![];
        }
        let of_panel = |panel: &[f32]| {
            let mut squares = [0f32; PANEL];
            for row in panel.as_chunks::<PANEL>().0 {
                squares.iter_mut().zip(row).for_each(|(sum, w)| *sum += w * w);
            }
            squares.map(|sum| 1.0 / sum.sqrt().max(1e-12)).to_vec()
        };
        self.weight.value.par_chunks_exact(self.features * PANEL).flat_map(of_panel).collect()
    }

    /// Computes the logits of a sample from its products.
    fn finish(&self, x: &[f32], products: &[f32], inverse: &[f32], z: &mut [f32]) {
        match (self.kind, &self.scale) {
            (ClassifierKind::Cosine, _) => {
                let scale = SCALE * inverse_norm(x);
                z.iter_mut().zip(products).zip(inverse).for_each(|((z, p), i)| *z = p * i * scale);
            }
            (ClassifierKind::Linear, None) => {
                z.iter_mut().zip(products).zip(&self.bias.value).for_each(|((z, p), b)| *z = p + b);
            }
            (ClassifierKind::Linear, Some(scale)) => {
                let all = products.iter().zip(&self.bias.value).zip(&scale.value);
                z.iter_mut().zip(all).for_each(|(z, ((p, b), s))| *z = s * (p + b));
            }
        }
    }

    /// Returns the logits (N, classes) of features (N, features).
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        /// Number of rows that are taken at a time: their products stay in a cache.
        const ROWS_PER_PASS: usize = 256;
        let (padded, inverse, n) = (self.padded(), self.inverse(), x.len() / self.features);
        let mut out = vec![0.0; n * self.classes];
        let (mut products, mut tiles) = (vec![0.0; ROWS_PER_PASS.min(n) * padded], vec![]);
        let passes =
            x.chunks(ROWS_PER_PASS * self.features).zip(out.chunks_mut(ROWS_PER_PASS * self.classes));
        for (x, z) in passes {
            let x: Vec<&[f32]> = x.chunks_exact(self.features).collect();
            self.products(&x, &mut products, &mut tiles);
            let rows = x.par_iter().zip(products.par_chunks_exact(padded));
            let rows = rows.zip(z.par_chunks_exact_mut(self.classes));
            rows.for_each(|((x, products), z)| self.finish(x, products, &inverse, z));
        }
        out
    }

    /// Performs a training step on the features of some images. Returns the loss of the batch before the
    /// step.
    pub fn step(&mut self, x: &[&[f32]], targets: Targets, criterion: &Criterion, rates: Rates) -> Loss {
        let (features, classes, padded, n) = (self.features, self.classes, self.padded(), x.len());
        let Work { mut products, mut gradients, mut tiles } = std::mem::take(&mut self.work);
        products.resize(n * padded, 0.0);
        self.products(x, &mut products, &mut tiles);
        let inverse = self.inverse();
        // The classes that pad the last panel have no gradient: nothing but zeros is written for them.
        gradients.resize(n * padded, 0.0);
        let row = |sample: usize, x: &[f32], p: &[f32], g: &mut [f32]| {
            let mut z = vec![0.0; classes];
            self.finish(x, p, &inverse, &mut z);
            let (loss, right) = d_logits(criterion, targets, sample, &z, &mut g[..classes]);
            if self.kind == ClassifierKind::Cosine {
                // Convert gradients of logits to gradients of products.
                let scale = SCALE * inverse_norm(x);
                g.iter_mut().zip(&inverse).for_each(|(g, i)| *g *= scale * i);
            }
            [loss, right]
        };
        let rows = products.par_chunks_exact(padded).zip(gradients.par_chunks_exact_mut(padded));
        let rows = x.par_iter().zip(rows).enumerate();
        let each: Vec<[f32; 2]> = rows.map(|(sample, (x, (p, g)))| row(sample, x, p, g)).collect();
        let sum = |at: usize| each.iter().map(|values| f64::from(values[at])).sum();
        let result = Loss { loss: sum(0), right: sum(1) };
        if let Some(Param { value, velocity }) = &mut self.scale {
            for (k, (scale, velocity)) in value.iter_mut().zip(velocity).enumerate() {
                let of = |sample: usize| {
                    gradients[sample * padded + k] * (products[sample * padded + k] + self.bias.value[k])
                };
                let d = (0..n).map(of).sum();
                rates.step(scale, velocity, d);
            }
            self.work = Work { products, gradients, tiles };
            return result;
        }
        let Param { value, velocity } = &mut self.weight;
        assert_eq!(velocity.len(), value.len(), "a classifier trains only with a velocity");
        // A cosine ignores the length of the weights: remove the gradient's component along them.
        let along = |k: usize| match inverse.get(k) {
            Some(inverse) => {
                let dot = (0..n).map(|s| gradients[s * padded + k] * products[s * padded + k]).sum::<f32>();
                dot * inverse * inverse
            }
            None => 0.0,
        };
        tile_columns(&mut tiles, x, features);
        let x = &*tiles;
        let panels = value.par_chunks_exact_mut(features * PANEL);
        let panels = panels.zip(velocity.par_chunks_exact_mut(features * PANEL)).enumerate();
        let biases: Vec<[f32; PANEL]> = panels
            .map(|(p, (weight, velocity))| {
                let first = p * PANEL;
                let along = std::array::from_fn(|k| along(first + k));
                let (mut own, mut bias) = (Vec::with_capacity(n * PANEL), [0f32; PANEL]);
                for row in gradients.chunks_exact(padded) {
                    let row = &row[first..first + PANEL];
                    own.extend_from_slice(row);
                    bias.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
                }
                let gradients = &*own;
                simd::run(Update { x, gradients, weight, velocity, along, rates });
                bias
            })
            .collect();
        if self.kind == ClassifierKind::Linear {
            let Param { value, velocity } = &mut self.bias;
            for ((bias, velocity), d) in value.iter_mut().zip(velocity).zip(biases.as_flattened()) {
                rates.step(bias, velocity, *d);
            }
        }
        self.work = Work { products, gradients, tiles };
        result
    }
}

#[cfg(test)]
mod tests;
