//! Manifold Mixup's mixing of hidden states, in which the output of a block is mixed with that of another
//! image, and its gradient.

use candle_core::{Result, Tensor};

use super::source::Source;
use super::{for_each_image, for_each_image_of_two, mask};
use crate::simd::value::Value;
use crate::tensor::{read_as, with_value};

/// Which images of a batch are mixed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// Position in the batch of the image that each image is mixed with: a permutation.
    pub partner: &'a [u32],
    /// The share λ of each image itself in the mixture.
    pub lambda: &'a [f32],
}

/// Computes `out` = the source's values and `mixed[n] = λ_n·out[n] + (1 − λ_n)·out[partner_n]`; both are (N,
/// H, W, C).
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout, rank or device.
pub fn forward(pairs: Pairs, source: Source, out: &Tensor, mixed: &Tensor) -> Result<()> {
    let (_, _, width, channels) = mixed.dims4()?;
    let (batch, len) = (pairs.partner.len(), image_len(mixed)?);
    with_value!(out, T => {
        let lent = source.read::<T>()?;
        for_each_image(batch, out, len, |n, out: &mut [T]| lent.slices().fill(n, width, channels, out))?;
        let out = read_as::<T>(out)?;
        for_each_image(batch, mixed, len, |n, mixed: &mut [T]| {
            let (own, other) = (&out[n * len..], &out[pairs.partner[n] as usize * len..]);
            let l = pairs.lambda[n];
            for (mixed, (own, other)) in mixed.iter_mut().zip(own.iter().zip(other)) {
                *mixed = T::rounded(l * own.to_f32() + (1.0 - l) * other.to_f32());
            }
        })
    })
}

/// Computes the gradient of the output of the last batch norm of a block whose output was mixed:
/// `dz = (out > 0) · (λ_n·g[n] + (1 − λ_m)·g[m])`, where m is the image whose partner is n, and `Σ dz` and
/// `Σ dz·y` by channel for each image.
///
/// `g` is the gradient of the `mixed` of [`forward`]. It may be zero where `mixed` is zero, because there
/// `out` is zero in both images. Shapes are those of [`forward`]; `sums` is (N, 2, C).
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout, rank or device.
pub fn backward(
    pairs: Pairs,
    g: &Tensor,
    out: &Tensor,
    y: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    let (len, channels) = (image_len(y)?, y.dim(y.rank() - 1)?);
    let mut mixed_into = vec![0; pairs.partner.len()];
    for (m, &n) in pairs.partner.iter().enumerate() {
        mixed_into[n as usize] = m;
    }
    with_value!(dz, T => {
        let (g, out, y) = (read_as::<T>(g)?, read_as::<T>(out)?, read_as::<T>(y)?);
        let image = |n: usize, dz: &mut [T], sums: &mut [f32]| {
            let (at, m) = (n * len..(n + 1) * len, mixed_into[n]);
            let (own, other) = (pairs.lambda[n], 1.0 - pairs.lambda[m]);
            let grads = g[at.clone()].iter().zip(&g[m * len..]);
            let grads = grads.map(|(g, h)| own * g.to_f32() + other * h.to_f32());
            mask(grads, &out[at.clone()], &y[at], dz, sums);
        };
        for_each_image_of_two(mixed_into.len(), [dz, sums], [len, 2 * channels], image)
    })
}

/// Returns the number of values in an image of a batch.
fn image_len(batch: &Tensor) -> Result<usize> {
    Ok(batch.elem_count() / batch.dim(0)?)
}
