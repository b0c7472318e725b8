//! Pooling: the mean over all pixels before the classifier, and the 3×3 max-pool with stride 2 and padding 1
//! after a stem.

use candle_core::{Result, Tensor};

use super::source::Source;
use super::{chunk_range, for_each_chunk, for_each_image_of_two, mask};
use crate::simd::value::Value;
use crate::tensor::{read, read_as, with_value, write_parts};

/// Computes `out` = the source's values, (N, H, W, C), and `features` = the mean of `out` over the pixels,
/// (N, C).
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout, rank or device.
///
/// # Panics
/// Panics if a tensor is too small for the batch.
pub fn mean(batch: usize, source: Source, out: &Tensor, features: &Tensor) -> Result<()> {
    let (_, height, width, channels) = out.dims4()?;
    let (len, pixels) = (height * width * channels, (height * width) as f32);
    with_value!(out, T => {
        let lent = source.read::<T>()?;
        let image = |n: usize, out: &mut [T], mean: &mut [f32]| {
            lent.slices().fill(n, width, channels, out);
            mean.fill(0.0);
            for out in out.chunks_exact(channels) {
                mean.iter_mut().zip(out).for_each(|(mean, out)| *mean += out.to_f32());
            }
            mean.iter_mut().for_each(|m| *m /= pixels);
        };
        for_each_image_of_two(batch, [out, features], [len, channels], image)
    })
}

/// Computes the gradient of [`mean`]: `dz = (out > 0) · d_features / pixels`, and `Σ dz` and `Σ dz·y` by
/// channel for each image, (N, 2, C), where `y` is the raw output that the source is made of.
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout, rank or device.
///
/// # Panics
/// Panics if a tensor is too small for the batch.
pub fn mean_backward(
    batch: usize,
    d_features: &Tensor,
    out: &Tensor,
    y: &Tensor,
    dz: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    // The tensors may have room for more images than the batch has.
    let (room, channels) = d_features.dims2()?;
    let d_features = read(d_features)?;
    with_value!(dz, T => {
        let (out, y) = (read_as::<T>(out)?, read_as::<T>(y)?);
        let len = y.len() / room;
        let pixels = (len / channels) as f32;
        let image = |n: usize, dz: &mut [T], sums: &mut [f32]| {
            let at = n * len..(n + 1) * len;
            let d = d_features[n * channels..].iter().map(|d| d / pixels).take(channels).cycle();
            mask(d, &out[at.clone()], &y[at], dz, sums);
        };
        for_each_image_of_two(batch, [dz, sums], [len, 2 * channels], image)
    })
}

/// The size of the input of a max-pool, and the width of its output.
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

    /// Calls `f` with the offset of each input pixel in the window of a pooled pixel, row by row.
    fn window(self, pixel: usize, mut f: impl FnMut(usize)) {
        let (row, col) = (2 * (pixel / self.out_width), 2 * (pixel % self.out_width));
        for row in row.saturating_sub(1)..(row + 2).min(self.height) {
            for col in col.saturating_sub(1)..(col + 2).min(self.width) {
                f((row * self.width + col) * self.channels);
            }
        }
    }
}

/// Computes `out`, the maximum of the source's values over the 3×3 window around every second row and column.
/// `y`, the raw output that the source is made of, is (N, H, W, C), and `out` is (N, ⌈H/2⌉, ⌈W/2⌉, C).
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout, rank or device.
///
/// # Panics
/// Panics if a tensor is too small for the batch.
pub fn max(batch: usize, source: Source, y: &Tensor, out: &Tensor) -> Result<()> {
    let (sizes, len, out_len) = Sizes::new(y, out)?;
    let channels = sizes.channels;
    with_value!(out, T => {
        let lent = source.read::<T>()?;
        write_parts(&[out], |parts| {
            for_each_chunk(batch, |chunk| {
                let mut values = vec![T::ZERO; len];
                for n in chunk_range(chunk, batch) {
                    lent.slices().fill(n, sizes.width, channels, &mut values);
                    // SAFETY: each image is taken once, and the parts of different images do not overlap.
                    let out: &mut [T] = unsafe { parts[0].part(n * out_len..(n + 1) * out_len) };
                    // No value is negative, so the maximum can start from zero.
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
            })
        })
    })
}

/// Computes the gradient of [`max`]. The gradient of a pooled value goes to the first of the largest values
/// of its window, in row order, as in PyTorch. `dz` is the gradient of the output of the batch norm of `y`,
/// with `Σ dz` and `Σ dz·y` by channel for each image, (N, 2, C).
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout, rank or device.
///
/// # Panics
/// Panics if a tensor is too small for the batch.
pub fn max_backward(
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
    with_value!(out, T => {
        let (lent, y) = (source.read::<T>()?, read_as::<T>(y)?);
        let (d_out, out) = (read_as::<T>(d_out)?, read_as::<T>(out)?);
        write_parts(&[dz, sums], |parts| {
            for_each_chunk(batch, |chunk| {
                let (mut values, mut grads) = (vec![T::ZERO; len], vec![0f32; len]);
                for n in chunk_range(chunk, batch) {
                    lent.slices().fill(n, sizes.width, channels, &mut values);
                    grads.fill(0.0);
                    let at = n * out_len..(n + 1) * out_len;
                    let pooled = out[at.clone()].chunks_exact(channels).zip(d_out[at].chunks_exact(channels));
                    for (pixel, (out, d_out)) in pooled.enumerate() {
                        // The gradient of each channel, set to zero once its largest value has been met.
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
                    // SAFETY: each image is taken once, and the parts of different images do not overlap.
                    let (dz, sums): (&mut [T], &mut [f32]) = unsafe {
                        (
                            parts[0].part(n * len..(n + 1) * len),
                            parts[1].part(2 * n * channels..2 * (n + 1) * channels),
                        )
                    };
                    mask(grads.iter().copied(), &values, &y[n * len..(n + 1) * len], dz, sums);
                }
            })
        })
    })
}
