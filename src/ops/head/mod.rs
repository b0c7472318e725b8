//! The classifier and its loss: linear layer, soft-target cross-entropy, and all their gradients.
//!
//! `z = W·f + b`; `loss = Σ_s coef_a·ℓ(z_s, a_s) + coef_b·ℓ(z_s, b_s)` with `ℓ(z, k) = log Σ_j exp z_j − z_k`. Mixing, class weights and the
//! division by the batch are all in the coefficients, so ERM, Mixup, Remix and RW are this one op.
//! Its gradient is `dz = (coef_a + coef_b)·softmax(z) − coef_a·e_a − coef_b·e_b`.

use candle_core::{Result, Tensor};

use super::{add_up, chunk_range, chunks, for_each_chunk, read, write, write_parts, zeros};
use crate::methods::loss::Targets;

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
    /// (classes), in one tensor, and so is `d_linear`, which is written.
    ///
    /// # Errors
    /// Tensors of another type, size or device.
    pub fn step(
        &self,
        features: &Tensor,
        linear: &Tensor,
        targets: Targets,
        d_linear: &Tensor,
    ) -> Result<Loss> {
        let (features, linear) = (read(features)?, read(linear)?);
        let batch = targets.label_a.len();
        let (classes, len) = (self.classes, self.len);
        let (weight, bias) = linear.split_at(classes * len);
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
                    logits(f, weight, bias, z);
                    let (a, b) = (targets.label_a[n] as usize, targets.label_b[n] as usize);
                    let (ca, cb) = (targets.coef_a[n], targets.coef_b[n]);
                    let top = argmax(z);
                    let max = z[top];
                    let lse = max + z.iter().map(|z| (z - max).exp()).sum::<f32>().ln();
                    sample[0] = ca * (lse - z[a]) + cb * (lse - z[b]);
                    let hit = if top == a { ca } else { 0.0 } + if top == b { cb } else { 0.0 };
                    sample[1] = if hit > 0.0 { hit / (ca + cb) } else { 0.0 };
                    df.fill(0.0);
                    for k in 0..classes {
                        let mut dz = (ca + cb) * (z[k] - lse).exp();
                        if k == a {
                            dz -= ca;
                        }
                        if k == b {
                            dz -= cb;
                        }
                        let row = k * len..(k + 1) * len;
                        for ((df, dw), (w, f)) in
                            df.iter_mut().zip(&mut dw[row.clone()]).zip(weight[row].iter().zip(f))
                        {
                            *df += dz * w;
                            *dw += dz * f;
                        }
                        db[k] += dz;
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

/// `z = W·f + b` for one sample.
pub fn logits(f: &[f32], weight: &[f32], bias: &[f32], z: &mut [f32]) {
    const LANES: usize = 8;
    for ((z, b), w) in z.iter_mut().zip(bias).zip(weight.chunks_exact(f.len())) {
        // Eight partial sums: the compiler may not reorder one.
        let mut acc = [0f32; LANES];
        let (fs, ws) = (f.chunks_exact(LANES), w.chunks_exact(LANES));
        let rest: f32 = fs.remainder().iter().zip(ws.remainder()).map(|(f, w)| f * w).sum();
        for (f, w) in fs.zip(ws) {
            for i in 0..LANES {
                acc[i] += f[i] * w[i];
            }
        }
        *z = b + rest + acc.iter().sum::<f32>();
    }
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
