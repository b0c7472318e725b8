//! Batch norm, as far as it is not inside the convolution: from sums by channel to coefficients by channel.
//!
//! Forward, `z = y·scale + shift` with `scale = γ/√(σ² + ε)`, `shift = β − μ·scale` (Ioffe and Szegedy 2015). Backward, with
//! `x̂ = (y − μ)/√(σ² + ε)` over M values: `dβ = Σ dz`, `dγ = Σ dz·x̂`, `dy = γ/√(σ² + ε) · (dz − dβ/M − x̂·dγ/M)`, which is linear in `dz`
//! and `y`: three coefficients a channel. Sums of chunks are added in `f64`.

use candle_core::{Result, Tensor};

use super::{Lent, read, write};

/// PyTorch's default ε.
pub const EPS: f64 = 1e-5;

/// PyTorch's default weight of a new batch in the running statistics.
pub const MOMENTUM: f64 = 0.1;

/// The two sums of a channel over all chunks.
fn totals(sums: &Lent, chunks: usize, channels: usize, c: usize) -> (f64, f64) {
    (0..chunks).fold((0.0, 0.0), |(a, b), chunk| {
        let row = &sums[chunk * 2 * channels..][..2 * channels];
        (a + f64::from(row[c]), b + f64::from(row[channels + c]))
    })
}

/// Training: statistics of a batch from `Σ y` and `Σ y²` of each chunk.
///
/// - `sums` (chunks, 2, C) over `count` values a channel; `gamma_beta` (2, C);
/// - `stat` (2, C) receives μ and 1/√(σ² + ε), `affine` (2, C) scale and shift;
/// - `running` (2, C), mean and unbiased variance, moves by [`MOMENTUM`].
///
/// # Errors
/// Tensors of another type, size or device.
pub fn forward(
    sums: &Tensor,
    chunks: usize,
    count: usize,
    gamma_beta: &Tensor,
    stat: &Tensor,
    affine: &Tensor,
    running: &Tensor,
) -> Result<()> {
    let (sums, gamma_beta) = (read(sums)?, read(gamma_beta)?);
    let channels = gamma_beta.len() / 2;
    let n = count as f64;
    let moments = |c| {
        let (sum, square) = totals(&sums, chunks, channels, c);
        let mean = sum / n;
        (mean, (square / n - mean * mean).max(0.0))
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

/// The gradient's coefficients from `Σ dz` and `Σ dz·y` of each chunk.
///
/// - `sums` (chunks, 2, C) over `count` values a channel, `stat` as [`forward`] left it;
/// - `d_gamma_beta` (2, C) and `coef` (3, C) are written: `dy = coef[0]·dz + coef[1]·y + coef[2]`.
///
/// # Errors
/// Tensors of another type, size or device.
pub fn backward(
    sums: &Tensor,
    chunks: usize,
    count: usize,
    gamma_beta: &Tensor,
    stat: &Tensor,
    d_gamma_beta: &Tensor,
    coef: &Tensor,
) -> Result<()> {
    let (sums, gamma_beta, stat) = (read(sums)?, read(gamma_beta)?, read(stat)?);
    let channels = gamma_beta.len() / 2;
    let grads = |c: usize| {
        let (mean, inv) = (f64::from(stat[c]), f64::from(stat[channels + c]));
        let (dz, dzy) = totals(&sums, chunks, channels, c);
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

#[cfg(test)]
mod tests;
