//! Batch norm, as far as it is not inside the convolution: from sums by channel to coefficients by channel.
//!
//! Forward, `z = y·scale + shift` with `scale = γ/√(σ² + ε)`, `shift = β − μ·scale` (Ioffe and Szegedy 2015). Backward, with
//! `x̂ = (y − μ)/√(σ² + ε)` over M values: `dβ = Σ dz`, `dγ = Σ dz·x̂`, `dy = γ/√(σ² + ε) · (dz − dβ/M − x̂·dγ/M)`, which is linear in `dz`
//! and `y`: three coefficients a channel. The images' sums are added in `f64`.

use candle_core::{Result, Tensor};

use super::{read, write};

/// PyTorch's default ε.
pub const EPS: f64 = 1e-5;

/// PyTorch's default weight of a new batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// The sums of all images, (2, C), in `f64` and in the order of the images.
fn totals(sums: &[f32], images: usize, channels: usize) -> Vec<f64> {
    let mut totals = vec![0f64; 2 * channels];
    for row in sums.chunks_exact(2 * channels).take(images) {
        totals.iter_mut().zip(row).for_each(|(total, x)| *total += f64::from(*x));
    }
    totals
}

/// Training: statistics of a batch from `Σ y` and `Σ y²` of each image.
///
/// - `sums` (N, 2, C), `count` values a channel in all; `gamma_beta` (2, C);
/// - `stat` (2, C) receives μ and 1/√(σ² + ε), `affine` (2, C) scale and shift;
/// - `running` (2, C), mean and unbiased variance, moves by [`MOMENTUM`].
///
/// # Errors
/// Tensors of another type, size or device.
pub fn forward(
    sums: &Tensor,
    images: usize,
    count: usize,
    gamma_beta: &Tensor,
    stat: &Tensor,
    affine: &Tensor,
    running: &Tensor,
) -> Result<()> {
    let (sums, gamma_beta) = (read(sums)?, read(gamma_beta)?);
    let channels = gamma_beta.len() / 2;
    let totals = totals(&sums, images, channels);
    let n = count as f64;
    let moments = |c: usize| {
        let mean = totals[c] / n;
        (mean, (totals[channels + c] / n - mean * mean).max(0.0))
    };
    write(stat, |stat| {
        for c in 0..channels {
            let (mean, var) = moments(c);
            stat[c] = mean as f32;
            stat[channels + c] = (1.0 / (var + EPS).sqrt()) as f32;
        }
        Ok(())
    })?;
    write(running, |running| {
        for c in 0..channels {
            let (mean, var) = moments(c);
            let unbiased = var * n / (n - 1.0).max(1.0);
            let moved = |old: f32, new: f64| ((1.0 - MOMENTUM) * f64::from(old) + MOMENTUM * new) as f32;
            running[c] = moved(running[c], mean);
            running[channels + c] = moved(running[channels + c], unbiased);
        }
        Ok(())
    })?;
    let stat = read(stat)?;
    write(affine, |affine| {
        for c in 0..channels {
            let scale = gamma_beta[c] * stat[channels + c];
            affine[c] = scale;
            affine[channels + c] = gamma_beta[channels + c] - stat[c] * scale;
        }
        Ok(())
    })
}

/// The gradient's coefficients from `Σ dz` and `Σ dz·y` of each image.
///
/// - `sums` (N, 2, C), `count` values a channel in all, `stat` as [`forward`] left it;
/// - `d_gamma_beta` (2, C) and `coef` (3, C) are written: `dy = coef[0]·dz + coef[1]·y + coef[2]`.
///
/// # Errors
/// Tensors of another type, size or device.
pub fn backward(
    sums: &Tensor,
    images: usize,
    count: usize,
    gamma_beta: &Tensor,
    stat: &Tensor,
    d_gamma_beta: &Tensor,
    coef: &Tensor,
) -> Result<()> {
    let (sums, gamma_beta, stat) = (read(sums)?, read(gamma_beta)?, read(stat)?);
    let channels = gamma_beta.len() / 2;
    let totals = totals(&sums, images, channels);
    let grads = |c: usize| {
        let (mean, inv) = (f64::from(stat[c]), f64::from(stat[channels + c]));
        let (dz, dzy) = (totals[c], totals[channels + c]);
        (inv * (dzy - mean * dz), dz)
    };
    write(d_gamma_beta, |out| {
        for c in 0..channels {
            let (gamma, beta) = grads(c);
            out[c] = gamma as f32;
            out[channels + c] = beta as f32;
        }
        Ok(())
    })?;
    write(coef, |coef| {
        for c in 0..channels {
            let (d_gamma, d_beta) = grads(c);
            let (mean, inv) = (f64::from(stat[c]), f64::from(stat[channels + c]));
            let scale = f64::from(gamma_beta[c]) * inv;
            let slope = scale * inv * d_gamma / count as f64;
            coef[c] = scale as f32;
            coef[channels + c] = -slope as f32;
            coef[2 * channels + c] = (slope * mean - scale * d_beta / count as f64) as f32;
        }
        Ok(())
    })
}
