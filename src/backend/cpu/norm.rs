//! The part of batch norm that is not fused into the convolution: from sums by channel to coefficients by
//! channel.
//!
//! Forward, `z = y·scale + shift` with `scale = γ/√(σ² + ε)`, `shift = β − μ·scale` (Ioffe and Szegedy 2015).
//! Backward, with `x̂ = (y − μ)/√(σ² + ε)` over M values: `dβ = Σ dz`, `dγ = Σ dz·x̂`,
//! `dy = γ/√(σ² + ε) · (dz − dβ/M − x̂·dγ/M)`, which is linear in `dz` and `y`: three coefficients per
//! channel. The images' sums are added in `f64`.
//!
//! The kernels sum each image in `f32`, so `σ² = E[y²] − μ²` and `Σ dz·(y − μ)` lose their digits where |μ|
//! is many times σ. Such channels are rare; their sums are taken again from the values themselves.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::for_each_image;
use crate::net::{EPS, MOMENTUM};
use crate::simd::value::Value;
use crate::tensor::{read, read_as, with_value, write};

/// Ratio of a channel's mean to √(σ² + ε) above which its sums are taken again. An image's sums are off by
/// about one part in a million, so up to here the variance is off by about one part in ten thousand.
const MAX_RATIO: f64 = 10.0;

/// Returns whether the sums of a channel with this mean and 1/√(σ² + ε) have cancelled.
fn has_cancelled(mean: f64, inv: f64) -> bool {
    (mean * inv).abs() > MAX_RATIO
}

/// Adds up the sums of all images, (2, C), in `f64` and in the order of the images.
fn totals(sums: &[f32], images: usize, channels: usize) -> Vec<f64> {
    let mut totals = vec![0f64; 2 * channels];
    for row in sums.chunks_exact(2 * channels).take(images) {
        totals.iter_mut().zip(row).for_each(|(total, x)| *total += f64::from(*x));
    }
    totals
}

/// Returns the values of one channel of a (…, C) tensor.
fn channel<T: Value>(values: &[T], channels: usize, c: usize) -> impl Iterator<Item = f64> {
    values[c..].iter().step_by(channels).map(|v| f64::from(v.to_f32()))
}

/// Returns mean and variance of each channel from the sums, or from the values where the sums have cancelled.
fn moments(totals: &[f64], y: &Tensor, count: usize) -> Result<Vec<(f64, f64)>> {
    fn exact<T: Value>(y: &[T], channels: usize, c: usize) -> (f64, f64) {
        // Differences from any one of the values do not cancel.
        let shift = f64::from(y[c].to_f32());
        let (mut sum, mut squares) = (0.0, 0.0);
        for d in channel(y, channels, c).map(|v| v - shift) {
            sum += d;
            squares += d * d;
        }
        let n = (y.len() / channels) as f64;
        let mean = sum / n;
        (shift + mean, (squares / n - mean * mean).max(0.0))
    }
    let channels = totals.len() / 2;
    let n = count as f64;
    let one = |c: usize| {
        let mean = totals[c] / n;
        (mean, (totals[channels + c] / n - mean * mean).max(0.0))
    };
    let cancelled = |&(mean, var): &(f64, f64)| has_cancelled(mean, 1.0 / (var + EPS).sqrt());
    let mut all: Vec<_> = (0..channels).map(one).collect();
    if all.iter().any(cancelled) {
        with_value!(y, T => {
            let y = read_as::<T>(y)?;
            let y = &y[..count * channels];
            let again = |(c, moments): (usize, &mut (f64, f64))| *moments = exact(y, channels, c);
            all.par_iter_mut().enumerate().filter(|(_, m)| cancelled(m)).for_each(again);
        });
    }
    Ok(all)
}

/// The batch norm of a layer of `C` channels.
pub struct Norm {
    /// γ and β, (2, C).
    pub gamma_beta: Tensor,
    /// Their gradients.
    pub d_gamma_beta: Tensor,
    /// Running mean and unbiased variance, (2, C), which are updated with [`MOMENTUM`].
    pub running: Tensor,
    /// μ and 1/√(σ² + ε) of the batch, (2, C).
    pub stat: Tensor,
    /// Scale and shift, (2, C).
    pub affine: Tensor,
}

impl Norm {
    /// Prepares for training: takes the statistics of a batch of `images` images from `sums`, (N, 2, C),
    /// which holds `Σ y` and `Σ y²` of each image, and updates the running statistics. `count` values per
    /// channel in all, the first ones of `y` (…, C), are normalised.
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout or device.
    ///
    /// # Panics
    /// Panics if a tensor is too small.
    pub fn forward(&self, sums: &Tensor, images: usize, count: usize, y: &Tensor) -> Result<()> {
        let (sums, gamma_beta) = (read(sums)?, read(&self.gamma_beta)?);
        let channels = gamma_beta.len() / 2;
        let moments = moments(&totals(&sums, images, channels), y, count)?;
        let n = count as f64;
        write(&self.running, |running| {
            for (c, &(mean, var)) in moments.iter().enumerate() {
                let unbiased = var * n / (n - 1.0).max(1.0);
                let moved = |old: f32, new: f64| ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * new) as f32;
                running[c] = moved(running[c], mean);
                running[channels + c] = moved(running[channels + c], unbiased);
            }
        })?;
        self.take(&moments)
    }

    /// Prepares for evaluation: takes the running statistics as they are.
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout or device.
    pub fn evaluate(&self) -> Result<()> {
        let moments: Vec<_> = {
            let running = read(&self.running)?;
            let (mean, var) = running.split_at(running.len() / 2);
            mean.iter().zip(var).map(|(&mean, &var)| (f64::from(mean), f64::from(var))).collect()
        };
        self.take(&moments)
    }

    /// Computes `stat` and `affine` from means and variances.
    fn take(&self, moments: &[(f64, f64)]) -> Result<()> {
        let channels = moments.len();
        write(&self.stat, |stat| {
            for (c, (mean, var)) in moments.iter().enumerate() {
                stat[c] = *mean as f32;
                stat[channels + c] = (1.0 / (var + EPS).sqrt()) as f32;
            }
        })?;
        let (stat, gamma_beta) = (read(&self.stat)?, read(&self.gamma_beta)?);
        write(&self.affine, |affine| {
            for c in 0..channels {
                let scale = gamma_beta[c] * stat[channels + c];
                affine[c] = scale;
                affine[channels + c] = gamma_beta[channels + c] - stat[c] * scale;
            }
        })
    }

    /// Computes the gradients of γ and β, and `coef` (3, C) such that
    /// `dy = coef[0]·dz + coef[1]·y + coef[2]`, from `sums`, (N, 2, C), which holds `Σ dz` and `Σ dz·y` of
    /// each image. There are `count` values per channel in all, the first ones of `dz` and `y` (…, C).
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout or device.
    ///
    /// # Panics
    /// Panics if a tensor is too small.
    pub fn backward(
        &self,
        sums: &Tensor,
        images: usize,
        count: usize,
        [dz, y]: [&Tensor; 2],
        coef: &Tensor,
    ) -> Result<()> {
        let (sums, gamma_beta, stat) = (read(sums)?, read(&self.gamma_beta)?, read(&self.stat)?);
        let channels = gamma_beta.len() / 2;
        let totals = totals(&sums, images, channels);
        let stat_of = |c: usize| (f64::from(stat[c]), f64::from(stat[channels + c]));
        // Σ dz·(y − μ).
        let mut centred: Vec<f64> =
            (0..channels).map(|c| totals[channels + c] - stat_of(c).0 * totals[c]).collect();
        let cancelled = |c: usize| has_cancelled(stat_of(c).0, stat_of(c).1);
        if (0..channels).any(cancelled) {
            with_value!(y, T => {
                let (dz, y) = (read_as::<T>(dz)?, read_as::<T>(y)?);
                let (dz, y) = (&dz[..count * channels], &y[..count * channels]);
                let again = |(c, sum): (usize, &mut f64)| {
                    let pairs = channel(dz, channels, c).zip(channel(y, channels, c));
                    *sum = pairs.map(|(dz, y)| dz * (y - stat_of(c).0)).sum();
                };
                centred.par_iter_mut().enumerate().filter(|(c, _)| cancelled(*c)).for_each(again);
            });
        }
        let grads = |c: usize| (stat_of(c).1 * centred[c], totals[c]);
        write(&self.d_gamma_beta, |out| {
            for c in 0..channels {
                let (gamma, beta) = grads(c);
                out[c] = gamma as f32;
                out[channels + c] = beta as f32;
            }
        })?;
        write(coef, |coef| {
            for c in 0..channels {
                let (d_gamma, d_beta) = grads(c);
                let (mean, inv) = stat_of(c);
                let scale = f64::from(gamma_beta[c]) * inv;
                let slope = scale * inv * d_gamma / count as f64;
                coef[c] = scale as f32;
                coef[channels + c] = -slope as f32;
                coef[2 * channels + c] = (slope * mean - scale * d_beta / count as f64) as f32;
            }
        })
    }
}

/// Computes `Σ dz` and `Σ dz·y` by channel for each image, (N, 2, C), where the operation that computed `dz`
/// has not done so. `dz` and `y` are (N, …, C), with `len` values per image.
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout or device.
pub fn sums(batch: usize, len: usize, channels: usize, dz: &Tensor, y: &Tensor, sums: &Tensor) -> Result<()> {
    with_value!(y, T => {
        let (dz, y) = (read_as::<T>(dz)?, read_as::<T>(y)?);
        for_each_image(batch, sums, 2 * channels, |n, sums: &mut [f32]| {
            sums.fill(0.0);
            let (sum, product) = sums.split_at_mut(channels);
            let at = n * len..(n + 1) * len;
            let rows = dz[at.clone()].chunks_exact(channels).zip(y[at].chunks_exact(channels));
            for (dz, y) in rows {
                for c in 0..channels {
                    sum[c] += dz[c].to_f32();
                    product[c] += dz[c].to_f32() * y[c].to_f32();
                }
            }
        })
    })
}
