//! The end of the last block: `relu(y·scale + shift + x)` averaged over its pixels, and the gradient of that.

use candle_core::{Result, Tensor};

use super::value::Value;
use super::{chunk_range, for_each_chunk, read, read_as, with_value, write_parts};

/// `out = relu(y·scale + shift + x)`, `features = mean over pixels of out`.
///
/// `y`, `x` and `out` are (N, pixels, C), `affine` (2, C), `features` (N, C).
///
/// # Errors
/// Tensors of another type, size or device.
pub fn forward(
    batch: usize,
    y: &Tensor,
    affine: &Tensor,
    x: &Tensor,
    out: &Tensor,
    features: &Tensor,
) -> Result<()> {
    with_value!(out, T => forward_of::<T>(batch, y, affine, x, out, features))
}

fn forward_of<T: Value>(
    batch: usize,
    y: &Tensor,
    affine: &Tensor,
    x: &Tensor,
    out: &Tensor,
    features: &Tensor,
) -> Result<()> {
    let (y, affine, x) = (read_as::<T>(y)?, read(affine)?, read_as::<T>(x)?);
    let channels = affine.len() / 2;
    let len = y.len() / features.dim(0)?;
    write_parts(&[out, features], |parts| {
        let (out, features) = (parts[0], parts[1]);
        let (scale, shift) = affine.split_at(channels);
        for_each_chunk(batch, |chunk| {
            for n in chunk_range(chunk, batch) {
                let at = n * len..(n + 1) * len;
                // SAFETY: one image each.
                let (out, mean): (&mut [T], &mut [f32]) =
                    unsafe { (out.part(at.clone()), features.part(n * channels..(n + 1) * channels)) };
                mean.fill(0.0);
                let rows = y[at.clone()].chunks_exact(channels).zip(x[at].chunks_exact(channels));
                for (out, (y, x)) in out.chunks_exact_mut(channels).zip(rows) {
                    for c in 0..channels {
                        let sum = y[c].to_f32() * scale[c] + shift[c] + x[c].to_f32();
                        out[c] = T::from_f32(if sum < 0.0 { 0.0 } else { sum });
                        mean[c] += out[c].to_f32();
                    }
                }
                let pixels = (len / channels) as f32;
                mean.iter_mut().for_each(|m| *m /= pixels);
            }
        });
        Ok(())
    })
}

/// `dz = (out > 0) · d_features / pixels`, with `Σ dz` and `Σ dz·y` by channel for each image.
///
/// Shapes as in [`forward`]; `sums` is (N, 2, C).
///
/// # Errors
/// Tensors of another type, size or device.
pub fn backward(
    batch: usize,
    d_features: &Tensor,
    out: &Tensor,
    y: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    with_value!(dz, T => backward_of::<T>(batch, d_features, out, y, dz, sums))
}

fn backward_of<T: Value>(
    batch: usize,
    d_features: &Tensor,
    out: &Tensor,
    y: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    let channels = d_features.dim(1)?;
    let (d_features, out, y) = (read(d_features)?, read_as::<T>(out)?, read_as::<T>(y)?);
    write_parts(&[dz, sums], |parts| {
        let (dz, sums) = (parts[0], parts[1]);
        let len = y.len() / (d_features.len() / channels);
        let pixels = (len / channels) as f32;
        for_each_chunk(batch, |chunk| {
            for n in chunk_range(chunk, batch) {
                let at = n * len..(n + 1) * len;
                // SAFETY: one image each.
                let (dz, sums): (&mut [T], &mut [f32]) =
                    unsafe { (dz.part(at.clone()), sums.part(n * 2 * channels..(n + 1) * 2 * channels)) };
                sums.fill(0.0);
                let (sum, product) = sums.split_at_mut(channels);
                let d = &d_features[n * channels..(n + 1) * channels];
                let rows = y[at.clone()].chunks_exact(channels).zip(out[at].chunks_exact(channels));
                for (dz, (y, out)) in dz.chunks_exact_mut(channels).zip(rows) {
                    for c in 0..channels {
                        let grad = if out[c].to_f32() > 0.0 { d[c] / pixels } else { 0.0 };
                        dz[c] = T::from_f32(grad);
                        sum[c] += grad;
                        product[c] += grad * y[c].to_f32();
                    }
                }
            }
        });
        Ok(())
    })
}
