//! The classifier and its loss: linear layer, soft-target loss, and all their gradients.
//!
//! `z = W·f + b`, or where the classifier is normalised `z = 30·cos(w_k, f)`; `loss = Σ_s coef_a·ℓ(z_s, a_s) + coef_b·ℓ(z_s, b_s)` with the ℓ of
//! [`crate::methods::loss`]. Mixing, class weights and the division by the batch are all in the coefficients, offsets, margins and the focal γ in
//! the [`Criterion`], so every method is this one op.

use candle_core::{Result, Tensor};

use super::{add_up, chunk_range, chunks, for_each_chunk, read, write, write_parts, zeros};
use crate::methods::loss::{Criterion, SCALE, Targets};

/// Buffers of the head for batches up to a size.
pub struct Head {
    classes: usize,
    len: usize,
    partial: Tensor,
    samples: Tensor,
    logits: Tensor,
    /// Gradient of the features, (batch, len), as [`Head::step`] left it.
    pub d_features: Tensor,
}

/// The result of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// `Σ_s coef_a·ℓ(a) + coef_b·ℓ(b)`.
    pub loss: f64,
    /// Number of right predictions, where a mixed label counts by its share of the sample's coefficients.
    pub right: f64,
}

impl Head {
    /// Buffers for batches up to `batch` images of `len` features in `classes` classes.
    ///
    /// # Errors
    /// Candle's.
    pub fn new(batch: usize, len: usize, classes: usize) -> Result<Self> {
        Ok(Head {
            classes,
            len,
            partial: zeros(&[chunks(batch), classes * (len + 1)])?,
            samples: zeros(&[batch, 2])?,
            logits: zeros(&[batch, classes])?,
            d_features: zeros(&[batch, len])?,
        })
    }

    /// The logits of the last [`Head::step`], (batch, classes).
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Loss of a batch and its gradients. `features` (N, len); `linear` is the weight (classes, len) followed by the bias
    /// (classes), in one tensor, and so is `d_linear`, which is written. A normalised classifier's bias is not used.
    ///
    /// # Errors
    /// Tensors of another type, size or device.
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
        let (classifier, margins) =
            (Classifier { weight, bias, normalised: criterion.normalised }, criterion.has_margins());
        write_parts(&[&self.partial, &self.samples, &self.logits, &self.d_features], |parts| {
            for_each_chunk(batch, |chunk| {
                let width = classes * (len + 1);
                // SAFETY: chunks do not overlap.
                let partial = unsafe { parts[0].part(chunk * width..(chunk + 1) * width) };
                partial.fill(0.0);
                let (dw, db) = partial.split_at_mut(classes * len);
                for n in chunk_range(chunk, batch) {
                    let f = &features[n * len..(n + 1) * len];
                    // SAFETY: one sample each.
                    let (sample, z, df) = unsafe {
                        (
                            parts[1].part(2 * n..2 * n + 2),
                            parts[2].part(n * classes..(n + 1) * classes),
                            parts[3].part(n * len..(n + 1) * len),
                        )
                    };
                    classifier.logits(f, z);
                    let (la, lb) = (targets.label_a[n] as usize, targets.label_b[n] as usize);
                    let (ca, cb) = (targets.coef_a[n], targets.coef_b[n]);
                    let top = argmax(z);
                    let (a, b) = (Label::new(criterion, z, la, ca), Label::new(criterion, z, lb, cb));
                    sample[0] = a.loss + b.loss;
                    let hit = if top == la { ca } else { 0.0 } + if top == lb { cb } else { 0.0 };
                    sample[1] = if hit > 0.0 { hit / (ca + cb) } else { 0.0 };
                    df.fill(0.0);
                    // Of a normalised classifier the gradients have no part along the features or the weights.
                    let (mut along, inverse_f) =
                        (0.0, if criterion.normalised { inverse_norm(f) } else { 1.0 });
                    for k in 0..classes {
                        let mut dz = match margins {
                            false => (a.weight + b.weight) * a.p(criterion, z, k),
                            true => a.weight * a.p(criterion, z, k) + b.weight * b.p(criterion, z, k),
                        };
                        if k == la {
                            dz -= a.weight;
                        }
                        if k == lb {
                            dz -= b.weight;
                        }
                        let row = k * len..(k + 1) * len;
                        let (dw, w) = (&mut dw[row.clone()], &weight[row]);
                        let mut slope = dz;
                        if criterion.normalised {
                            let inverse_w = inverse_norm(w);
                            slope *= SCALE * inverse_f * inverse_w;
                            along += dz * z[k];
                            let back = dz * z[k] * inverse_w * inverse_w;
                            dw.iter_mut().zip(w).for_each(|(dw, w)| *dw -= back * w);
                        } else {
                            db[k] += dz;
                        }
                        for ((df, dw), (w, f)) in df.iter_mut().zip(dw).zip(w.iter().zip(f)) {
                            *df += slope * w;
                            *dw += slope * f;
                        }
                    }
                    if criterion.normalised {
                        let back = along * inverse_f * inverse_f;
                        df.iter_mut().zip(f).for_each(|(df, f)| *df -= back * f);
                    }
                }
            });
            Ok(())
        })?;
        let partial = read(&self.partial)?;
        write(d_linear, |d| {
            add_up(d, &partial[..chunks(batch) * d.len()]);
            Ok(())
        })?;
        let samples = read(&self.samples)?;
        let sum = |at: usize| samples[..2 * batch].iter().skip(at).step_by(2).map(|&x| f64::from(x)).sum();
        Ok(Loss { loss: sum(0), right: sum(1) })
    }
}

/// One label of a sample: its part of the loss, and what its gradient is made of.
struct Label {
    label: usize,
    /// The largest of the logits with offsets and the label's margin.
    max: f32,
    /// log Σ exp(u − max). Kept apart from `max`: their sum would lose it where the logits are large.
    log_rest: f32,
    /// `coef·ℓ`.
    loss: f32,
    /// `coef·h`, see [`crate::methods::loss`].
    weight: f32,
}

impl Label {
    fn new(criterion: &Criterion, z: &[f32], label: usize, coef: f32) -> Self {
        let u = |k| adjusted(criterion, z, k, label);
        let max = (0..z.len()).map(u).fold(f32::NEG_INFINITY, f32::max);
        let log_rest = (0..z.len()).map(|k| (u(k) - max).exp()).sum::<f32>().ln();
        // −log p of the label.
        let ce = log_rest + (max - u(label));
        let Criterion { gamma, .. } = *criterion;
        let (mut loss, mut weight) = (coef * ce, coef);
        if gamma > 0.0 {
            let (p, rest) = ((-ce).exp(), -(-ce).exp_m1());
            let factor = rest.powf(gamma);
            loss *= factor;
            // At p = 1 the limit.
            let slope = if rest > 0.0 { ce / rest } else { 1.0 };
            weight *= factor * (1.0 + gamma * p * slope);
        }
        Label { label, max, log_rest, loss, weight }
    }

    /// Probability of a class, as this label sees it.
    fn p(&self, criterion: &Criterion, z: &[f32], k: usize) -> f32 {
        (adjusted(criterion, z, k, self.label) - self.max - self.log_rest).exp()
    }
}

/// The logit of a class with its offset, and with its margin if it is the label's.
fn adjusted(criterion: &Criterion, z: &[f32], k: usize, label: usize) -> f32 {
    z[k] + criterion.offsets[k] - if k == label { criterion.margins[k] } else { 0.0 }
}

/// What makes features into logits.
#[derive(Clone, Copy)]
pub struct Classifier<'a> {
    /// (classes, features).
    pub weight: &'a [f32],
    /// (classes); not used where it is normalised.
    pub bias: &'a [f32],
    /// `z = SCALE·cos(w_k, f)`, not `W·f + b`.
    pub normalised: bool,
}

impl Classifier<'_> {
    /// The logits of one sample.
    pub fn logits(&self, f: &[f32], z: &mut [f32]) {
        let inverse_f = if self.normalised { SCALE * inverse_norm(f) } else { 1.0 };
        for ((z, b), w) in z.iter_mut().zip(self.bias).zip(self.weight.chunks_exact(f.len())) {
            *z = if self.normalised { dot(f, w) * inverse_norm(w) * inverse_f } else { b + dot(f, w) };
        }
    }
}

/// `1/‖v‖`, with PyTorch's least norm of 1e-12.
fn inverse_norm(v: &[f32]) -> f32 {
    1.0 / dot(v, v).sqrt().max(1e-12)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 8;
    // Eight partial sums: the compiler may not reorder one.
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

/// The first index of the largest value.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, v) in values.iter().enumerate() {
        if *v > values[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests;
