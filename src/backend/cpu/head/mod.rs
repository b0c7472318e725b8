//! The classifier and its loss: linear layer, soft-target loss, and all their gradients.
//!
//! `z = W·f + b`, or `z = 30·cos(w_k, f)` if the classifier is normalised;
//! `loss = Σ_s coef_a·ℓ(z_s, a_s) + coef_b·ℓ(z_s, b_s)` with the ℓ of [`crate::methods::loss`]. Mixing, class
//! weights and the normalisation over the batch are all in the coefficients; offsets, margins and the focal γ
//! are in the [`Criterion`]. So this one operation serves every method.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{CHUNK, chunk_range, for_each_chunk, images};
use crate::methods::loss::{ClassifierKind, Criterion, SCALE, Targets};
use crate::metrics::argmax;
use crate::tensor::{read, write, write_parts, zeros};

/// The buffers of the head, for batches up to a given size.
pub struct Head {
    classes: usize,
    len: usize,
    samples: Tensor,
    logits: Tensor,
    d_logits: Tensor,
    /// Gradient of the features, (batch, len), as computed by the last [`Head::step`].
    pub d_features: Tensor,
}

/// The loss of a batch, and its right predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// `Σ_s coef_a·ℓ(a) + coef_b·ℓ(b)`.
    pub loss: f64,
    /// Number of right predictions; a mixed label counts by its share of the sample's coefficients.
    pub right: f64,
}

impl Head {
    /// Allocates buffers for batches of up to `batch` images with `len` features each, and `classes` classes.
    ///
    /// # Errors
    /// Returns an error if a tensor cannot be allocated.
    pub fn new(batch: usize, len: usize, classes: usize) -> Result<Self> {
        Ok(Head {
            classes,
            len,
            samples: zeros(&[batch, 2])?,
            logits: zeros(&[batch, classes])?,
            d_logits: zeros(&[batch, classes])?,
            d_features: zeros(&[batch, len])?,
        })
    }

    /// Returns the logits of the last [`Head::step`], (batch, classes).
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Computes the loss of a batch and its gradients. `features` is (N, len). `linear` is the weight
    /// (classes, len) followed by the bias (classes), in one tensor; their gradients are written to
    /// `d_linear` in the same form. The bias of a normalised classifier is not used.
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout or device.
    ///
    /// # Panics
    /// Panics if a tensor is too small.
    pub fn step(
        &self,
        features: &Tensor,
        linear: &Tensor,
        criterion: &Criterion,
        targets: Targets,
        d_linear: &Tensor,
    ) -> Result<Loss> {
        let (features, linear) = (read(features)?, read(linear)?);
        let batch = targets.label_a.len();
        let (classes, len) = (self.classes, self.len);
        let (weight, bias) = linear.split_at(classes * len);
        let classifier = Classifier::new(weight, bias, criterion.classifier);
        let features = &features[..batch * len];
        let scales: Vec<f32> = features.chunks_exact(len).map(|f| classifier.scale(f)).collect();
        write_parts(&[&self.samples, &self.logits, &self.d_logits, &self.d_features], |parts| {
            for_each_chunk(batch, |chunk| {
                let range = chunk_range(chunk, batch);
                // SAFETY: chunks do not overlap.
                let (samples, z, dz, df): (&mut [f32], &mut [f32], &mut [f32], &mut [f32]) = unsafe {
                    (
                        parts[0].part(images(&range, 2)),
                        parts[1].part(images(&range, classes)),
                        parts[2].part(images(&range, classes)),
                        parts[3].part(images(&range, len)),
                    )
                };
                let (features, scales) = (&features[images(&range, len)], &scales[range.clone()]);
                // Use one weight row for all images of the chunk, because the whole matrix may exceed the
                // cache.
                for k in 0..classes {
                    let samples = features.chunks_exact(len).zip(scales).zip(z.chunks_exact_mut(classes));
                    samples.for_each(|((f, scale), z)| z[k] = classifier.logit(k, f, *scale));
                }
                let rows = z.chunks_exact(classes).zip(dz.chunks_exact_mut(classes));
                for ((n, sample), (z, dz)) in range.zip(samples.chunks_exact_mut(2)).zip(rows) {
                    let (loss, right) = d_logits(criterion, targets, n, z, dz);
                    (sample[0], sample[1]) = (loss, right);
                }
                classifier.d_features([features, scales, z, dz], df);
            })
        })?;
        let (z, dz) = (read(&self.logits)?, read(&self.d_logits)?);
        write(d_linear, |d| {
            let (dw, db) = d.split_at_mut(classes * len);
            let rows = dw.par_chunks_exact_mut(len).zip(db).enumerate();
            rows.for_each(|(k, (dw, db))| classifier.d_row(k, [features, &scales, &z, &dz], dw, db))
        })?;
        let samples = read(&self.samples)?;
        let sum = |at: usize| samples[..2 * batch].iter().skip(at).step_by(2).map(|&x| f64::from(x)).sum();
        Ok(Loss { loss: sum(0), right: sum(1) })
    }
}

/// Computes the gradient `dz` of a sample's loss with respect to its logits `z`. Returns the loss and the
/// sample's share of right predictions.
pub(super) fn d_logits(
    criterion: &Criterion,
    targets: Targets,
    n: usize,
    z: &[f32],
    dz: &mut [f32],
) -> (f32, f32) {
    let (la, lb) = (targets.label_a[n] as usize, targets.label_b[n] as usize);
    let (ca, cb) = (targets.coef_a[n], targets.coef_b[n]);
    let (top, has_margins) = (argmax(z), criterion.has_margins());
    let a = Label::new(criterion, z, la, ca, None);
    // Without margins both labels see the same softmax.
    let b = Label::new(criterion, z, lb, cb, Some((a.max, a.log_rest)).filter(|_| !has_margins));
    for (k, dz) in dz.iter_mut().enumerate() {
        *dz = match has_margins {
            false => (a.weight + b.weight) * a.p(criterion, z, k),
            true => a.weight * a.p(criterion, z, k) + b.weight * b.p(criterion, z, k),
        };
        if k == la {
            *dz -= a.weight;
        }
        if k == lb {
            *dz -= b.weight;
        }
    }
    if !criterion.smoothing.is_empty() {
        for (label, coef) in [(la, ca), (lb, cb)] {
            let spread = coef * criterion.smoothing[label];
            dz.iter_mut().for_each(|dz| *dz -= spread / z.len() as f32);
            dz[label] += spread;
        }
    }
    dz.iter_mut().zip(&criterion.scales).for_each(|(dz, scale)| *dz *= scale);
    let hit = if top == la { ca } else { 0.0 } + if top == lb { cb } else { 0.0 };
    (a.loss + b.loss, if hit > 0.0 { hit / (ca + cb) } else { 0.0 })
}

/// One label of a sample: its part of the loss, and the values that its gradient is computed from.
struct Label {
    label: usize,
    /// The largest of the logits with offsets and the label's margin.
    max: f32,
    /// log Σ exp(u − max). It is kept apart from `max`, because it would be lost in their sum where logits
    /// are large.
    log_rest: f32,
    /// `coef·ℓ`.
    loss: f32,
    /// `coef·h`, see [`crate::methods::loss`].
    weight: f32,
}

impl Label {
    /// Computes the values of a label. `known` is the largest logit and the log of the rest, if they are
    /// known.
    fn new(criterion: &Criterion, z: &[f32], label: usize, coef: f32, known: Option<(f32, f32)>) -> Self {
        let u = |k| adjusted(criterion, z, k, label);
        let (max, log_rest) = known.unwrap_or_else(|| {
            let max = (0..z.len()).map(u).fold(f32::NEG_INFINITY, f32::max);
            (max, (0..z.len()).map(|k| (u(k) - max).exp()).sum::<f32>().ln())
        });
        // −log p of the label.
        let ce = log_rest + (max - u(label));
        let Criterion { gamma, .. } = *criterion;
        let (mut loss, mut weight) = (coef * ce, coef);
        if let Some(share) = criterion.smoothing.get(label) {
            let mean = log_rest + (max - (0..z.len()).map(u).sum::<f32>() / z.len() as f32);
            loss = coef * ((1.0 - share) * ce + share * mean);
        }
        if gamma > 0.0 {
            let (p, rest) = ((-ce).exp(), -(-ce).exp_m1());
            let factor = rest.powf(gamma);
            loss *= factor;
            // At p = 1, take the limit.
            let slope = if rest > 0.0 { ce / rest } else { 1.0 };
            weight *= factor * (1.0 + gamma * p * slope);
        }
        Label { label, max, log_rest, loss, weight }
    }

    /// Returns the probability of class `k` with the margin of this label.
    fn p(&self, criterion: &Criterion, z: &[f32], k: usize) -> f32 {
        (adjusted(criterion, z, k, self.label) - self.max - self.log_rest).exp()
    }
}

/// Returns the logit of class `k` with its scale and its offset, and with its margin if `k` is the label.
fn adjusted(criterion: &Criterion, z: &[f32], k: usize, label: usize) -> f32 {
    let z = match criterion.scales.get(k) {
        Some(scale) => scale * z[k],
        None => z[k],
    };
    z + criterion.offsets[k] - if k == label { criterion.margins[k] } else { 0.0 }
}

/// The classifier, which computes logits from features.
pub struct Classifier<'a> {
    /// The weight, (classes, features).
    weight: &'a [f32],
    /// The bias, (classes); not used if the classifier is normalised.
    bias: &'a [f32],
    /// For a normalised classifier, `z = SCALE·cos(w_k, f)`: the inverse norm of each row of the weight. For
    /// a linear one, `W·f + b`: empty.
    inverse: Vec<f32>,
}

impl<'a> Classifier<'a> {
    /// Creates a classifier from the weight (classes, features) and the bias (classes).
    pub fn new(weight: &'a [f32], bias: &'a [f32], kind: ClassifierKind) -> Self {
        let rows = weight.par_chunks_exact(weight.len() / bias.len());
        let inverse = match kind {
            ClassifierKind::Cosine => rows.map(inverse_norm).collect(),
            ClassifierKind::Linear => vec![],
        };
        Classifier { weight, bias, inverse }
    }

    fn is_normalised(&self) -> bool {
        !self.inverse.is_empty()
    }

    /// Returns the weights of a class.
    fn row(&self, k: usize) -> &[f32] {
        let len = self.weight.len() / self.bias.len();
        &self.weight[k * len..(k + 1) * len]
    }

    /// Returns the factor that a sample's features are multiplied by.
    fn scale(&self, f: &[f32]) -> f32 {
        if self.is_normalised() { SCALE * inverse_norm(f) } else { 1.0 }
    }

    /// Computes the logits of one sample.
    pub fn logits(&self, f: &[f32], z: &mut [f32]) {
        let scale = self.scale(f);
        z.iter_mut().enumerate().for_each(|(k, z)| *z = self.logit(k, f, scale));
    }

    fn logit(&self, k: usize, f: &[f32], scale: f32) -> f32 {
        let product = dot(f, self.row(k));
        if self.is_normalised() { product * self.inverse[k] * scale } else { self.bias[k] + product }
    }

    /// Converts the gradient `dz` of a logit to the gradient of the product of features and weights.
    fn slope(&self, k: usize, dz: f32, scale: f32) -> f32 {
        if self.is_normalised() { dz * (scale * self.inverse[k]) } else { dz }
    }

    /// Computes the gradients `df` of the features `f` of some samples, from their logits `z` and the
    /// gradients `dz` of the logits.
    fn d_features(&self, [f, scales, z, dz]: [&[f32]; 4], df: &mut [f32]) {
        let classes = self.bias.len();
        let len = self.weight.len() / classes;
        df.fill(0.0);
        for k in 0..classes {
            for (n, df) in df.chunks_exact_mut(len).enumerate() {
                let slope = self.slope(k, dz[n * classes + k], scales[n]);
                df.iter_mut().zip(self.row(k)).for_each(|(df, w)| *df += slope * w);
            }
        }
        if self.is_normalised() {
            // Remove the component along the features: a cosine ignores their length.
            let rows = z.chunks_exact(classes).zip(dz.chunks_exact(classes));
            for ((f, df), (z, dz)) in f.chunks_exact(len).zip(df.chunks_exact_mut(len)).zip(rows) {
                let inverse_f = inverse_norm(f);
                let along = dz.iter().zip(z).fold(0.0, |along, (dz, z)| along + dz * z);
                let back = along * inverse_f * inverse_f;
                df.iter_mut().zip(f).for_each(|(df, f)| *df -= back * f);
            }
        }
    }

    /// Computes the gradients `dw` and `db` of a class's weights and bias: sums over chunks of samples, in
    /// order.
    fn d_row(&self, k: usize, [features, scales, z, dz]: [&[f32]; 4], dw: &mut [f32], db: &mut f32) {
        let (classes, len) = (self.bias.len(), dw.len());
        let mut part = vec![0.0; len];
        dw.fill(0.0);
        *db = 0.0;
        for (chunk, features) in features.chunks(CHUNK * len).enumerate() {
            part.fill(0.0);
            let mut bias = 0.0;
            for (n, f) in (chunk * CHUNK..).zip(features.chunks_exact(len)) {
                let dz = dz[n * classes + k];
                if self.is_normalised() {
                    // Remove the component along the weights: a cosine ignores their length.
                    let back = dz * z[n * classes + k] * self.inverse[k] * self.inverse[k];
                    part.iter_mut().zip(self.row(k)).for_each(|(part, w)| *part -= back * w);
                } else {
                    bias += dz;
                }
                let slope = self.slope(k, dz, scales[n]);
                part.iter_mut().zip(f).for_each(|(part, f)| *part += slope * f);
            }
            dw.iter_mut().zip(&part).for_each(|(dw, part)| *dw += part);
            *db += bias;
        }
    }
}

/// Returns `1/‖v‖`, with PyTorch's minimum norm of 1e-12.
pub(super) fn inverse_norm(v: &[f32]) -> f32 {
    1.0 / dot(v, v).sqrt().max(1e-12)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    // Use eight partial sums, because the compiler may not reorder the additions of a single one.
    let mut acc = [0f32; LANES];
    let (xs, ys) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in xs.zip(ys) {
        for i in 0..LANES {
            acc[i] += a[i] * b[i];
        }
    }
    rest + acc.iter().sum::<f32>()
}

#[cfg(test)]
mod tests;
