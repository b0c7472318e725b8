//! Pooling: the mean over all pixels before the classifier, and the 3×3 max-pool with stride 2 and padding 1 behind a stem.

use candle_core::{Result, Tensor};

use super::source::Source;
use super::{chunk_range, for_each_chunk};
use crate::simd::value::Value;
use crate::tensor::{read, read_as, with_value, write_parts};

/// `out` = the source's values, (N, H, W, C), `features = mean over pixels of out`, (N, C).
///
/// # Errors
/// Tensors of another type, size or device.
pub fn mean(batch: usize, source: Source, out: &Tensor, features: &Tensor) -> Result<()> {
    with_value!(out, T => mean_of::<T>(batch, source, out, features))
}

fn mean_of<T: Value>(batch: usize, source: Source, out: &Tensor, features: &Tensor) -> Result<()> {
    let lent = source.read::<T>()?;
    let (_, height, width, channels) = out.dims4()?;
    let len = height * width * channels;
    write_parts(&[out, features], |parts| {
        let (out, features) = (parts[0], parts[1]);
        for_each_chunk(batch, |chunk| {
            for n in chunk_range(chunk, batch) {
                // SAFETY: one image each.
                let (out, mean): (&mut [T], &mut [f32]) = unsafe {
                    (out.part(n * len..(n + 1) * len), features.part(n * channels..(n + 1) * channels))
                };
                lent.slices().fill(n, width, channels, out);
                mean.fill(0.0);
                for out in out.chunks_exact(channels) {
                    mean.iter_mut().zip(out).for_each(|(mean, out)| *mean += out.to_f32());
                }
                let pixels = (height * width) as f32;
                mean.iter_mut().for_each(|m| *m /= pixels);
            }
        });
        Ok(())
    })
}

/// The gradient of [`mean`]: `dz = (out > 0) · d_features / pixels`, with `Σ dz` and `Σ dz·y` by channel for each image, (N, 2, C), `y` being
/// the raw output that the source is made of.
///
/// # Errors
/// Tensors of another type, size or device.
pub fn mean_backward(
    batch: usize,
    d_features: &Tensor,
    out: &Tensor,
    y: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    with_value!(dz, T => mean_backward_of::<T>(batch, d_features, out, y, dz, sums))
}

fn mean_backward_of<T: Value>(
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

/// Images and what a max-pool makes of them.
#[derive(Clone, Copy)]
struct Sizes {
    height: usize,
    width: usize,
    channels: usize,
    out_width: usize,
}

impl Sizes {
    fn new(source: &Tensor, pooled: &Tensor) -> Result<(Self, usize, usize)> {
        let (_, height, width, channels) = source.dims4()?;
        let (_, out_height, out_width, _) = pooled.dims4()?;
        let sizes = Sizes { height, width, channels, out_width };
        Ok((sizes, height * width * channels, out_height * out_width * channels))
    }

    /// Calls `f` with the place of each pixel of the window behind a pooled pixel, row by row.
    fn window(self, pixel: usize, mut f: impl FnMut(usize)) {
        let (row, col) = (2 * (pixel / self.out_width), 2 * (pixel % self.out_width));
        for row in row.saturating_sub(1)..(row + 2).min(self.height) {
            for col in col.saturating_sub(1)..(col + 2).min(self.width) {
                f((row * self.width + col) * self.channels);
            }
        }
    }
}

/// `out` = the largest of each 3×3 pixels of the source's values, around every second one. `y`, of the source, is (N, H, W, C), `out`
/// (N, ⌈H/2⌉, ⌈W/2⌉, C).
///
/// # Errors
/// Tensors of another type, size or device.
pub fn max(batch: usize, source: Source, y: &Tensor, out: &Tensor) -> Result<()> {
    with_value!(out, T => max_of::<T>(batch, source, y, out))
}

fn max_of<T: Value>(batch: usize, source: Source, y: &Tensor, out: &Tensor) -> Result<()> {
    let lent = source.read::<T>()?;
    let (sizes, len, out_len) = Sizes::new(y, out)?;
    let channels = sizes.channels;
    write_parts(&[out], |parts| {
        for_each_chunk(batch, |chunk| {
            let mut values = vec![T::ZERO; len];
            for n in chunk_range(chunk, batch) {
                lent.slices().fill(n, sizes.width, channels, &mut values);
                // SAFETY: one image each.
                let out: &mut [T] = unsafe { parts[0].part(n * out_len..(n + 1) * out_len) };
                // No value is negative.
                out.fill(T::ZERO);
                for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
                    sizes.window(pixel, |at| {
                        for (out, value) in out.iter_mut().zip(&values[at..at + channels]) {
                            let (new, old) = (value.to_f32(), out.to_f32());
                            // NaN stays NaN.
                            *out = if new > old || new.is_nan() { *value } else { *out };
                        }
                    });
                }
            }
        });
        Ok(())
    })
}

/// The gradient of [`max`]: that of a pooled value goes to the first of the largest values, in the order of the rows, as in PyTorch. `dz` is
/// the gradient behind the batch norm of `y`, with `Σ dz` and `Σ dz·y` by channel for each image, (N, 2, C).
///
/// # Errors
/// Tensors of another type, size or device.
pub fn max_backward(
    batch: usize,
    source: Source,
    y: &Tensor,
    d_out: &Tensor,
    out: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    with_value!(out, T => max_backward_of::<T>(batch, source, y, d_out, out, dz, sums))
}

fn max_backward_of<T: Value>(
    batch: usize,
    source: Source,
    y: &Tensor,
    d_out: &Tensor,
    out: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    let (sizes, len, out_len) = Sizes::new(y, out)?;
    let channels = sizes.channels;
    let (lent, y, d_out, out) =
        (source.read::<T>()?, read_as::<T>(y)?, read_as::<T>(d_out)?, read_as::<T>(out)?);
    write_parts(&[dz, sums], |parts| {
        for_each_chunk(batch, |chunk| {
            let (mut values, mut grads) = (vec![T::ZERO; len], vec![0f32; len]);
            for n in chunk_range(chunk, batch) {
                lent.slices().fill(n, sizes.width, channels, &mut values);
                grads.fill(0.0);
                let at = n * out_len..(n + 1) * out_len;
                let pooled = out[at.clone()].chunks_exact(channels).zip(d_out[at].chunks_exact(channels));
                for (pixel, (out, d_out)) in pooled.enumerate() {
                    // What is left of each channel's gradient once its largest value was met.
                    let mut left: Vec<f32> = d_out.iter().map(|d| d.to_f32()).collect();
                    sizes.window(pixel, |at| {
                        let values = values[at..at + channels].iter().zip(out);
                        let grads = grads[at..at + channels].iter_mut().zip(&mut left);
                        for ((value, out), (grad, left)) in values.zip(grads) {
                            if value.to_f32() == out.to_f32() {
                                *grad += *left;
                                *left = 0.0;
                            }
                        }
                    });
                }
                // SAFETY: one image each.
                let (dz, sums): (&mut [T], &mut [f32]) = unsafe {
                    (
                        parts[0].part(n * len..(n + 1) * len),
                        parts[1].part(2 * n * channels..2 * (n + 1) * channels),
                    )
                };
                sums.fill(0.0);
                let (sum, product) = sums.split_at_mut(channels);
                let pixels = grads.chunks_exact(channels).zip(values.chunks_exact(channels));
                let pixels = pixels.zip(y[n * len..(n + 1) * len].chunks_exact(channels));
                for (dz, ((grads, values), y)) in dz.chunks_exact_mut(channels).zip(pixels) {
                    for c in 0..channels {
                        let grad = if values[c].to_f32() > 0.0 { grads[c] } else { 0.0 };
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
