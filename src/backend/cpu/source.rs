//! The [`Input`] of a layer as tensors, which an operation borrows, and as slices, which a kernel reads.

use candle_core::Tensor;

use crate::backend::{Input, Shortcut};
use crate::simd::value::Value;
use crate::tensor::{Lent, read, read_as};

/// A layer's raw output, (N, H, W, C), and the coefficients of its batch norm for the batch: rows `scale` and
/// `shift`, (2, C).
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The raw output.
    pub y: &'a Tensor,
    /// `norm(y) = y·scale + shift`.
    pub affine: &'a Tensor,
}

/// An input made of tensors; stored values are (N, H, W, C).
pub type Source<'a> = Input<&'a Tensor, Raw<'a>>;

/// Images of one size, as a slice for a kernel.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    /// The values of all images.
    pub values: &'a [T],
    /// Height, width and channels.
    pub size: [usize; 3],
}

impl<'a, T> View<'a, T> {
    /// Returns the number of values in an image.
    pub fn image_len(&self) -> usize {
        self.size.iter().product()
    }

    /// Returns image `n`.
    #[inline(always)]
    pub fn image(&self, n: usize) -> &'a [T] {
        &self.values[n * self.image_len()..(n + 1) * self.image_len()]
    }
}

/// A raw output with its `scale` and `shift`, as slices for a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a, T> {
    /// The raw outputs of all images.
    pub y: &'a [T],
    /// `scale`, then `shift`.
    pub affine: &'a [f32],
}

/// An input made of slices.
pub type Slices<'a, T> = Input<View<'a, T>, Values<'a, T>>;

/// A [`Source`] whose tensors are borrowed for reading.
pub struct Reading<'a, T>(Input<Stored<'a, T>, LentRaw<'a, T>>);

/// Borrowed values, and the height, width and channels of an image.
type Stored<'a, T> = (Lent<'a, T>, [usize; 3]);
/// A borrowed raw output, with its scale and shift.
type LentRaw<'a, T> = (Lent<'a, T>, Lent<'a>);

impl<'a> Source<'a> {
    /// Borrows the values of the tensors.
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout, rank or device.
    pub fn read<T: Value>(&self) -> candle_core::Result<Reading<'a, T>> {
        let stored = |x: &'a Tensor| {
            let (_, height, width, channels) = x.dims4()?;
            Ok::<_, candle_core::Error>((read_as(x)?, [height, width, channels]))
        };
        Ok(Reading(self.try_map(stored, |raw| Ok((read_as(raw.y)?, read(raw.affine)?)))?))
    }
}

impl<T: Value> Reading<'_, T> {
    /// Returns the input as slices.
    pub fn slices<'a>(&'a self) -> Slices<'a, T> {
        let stored = |(values, size): &'a Stored<T>| View { values, size: *size };
        self.0.as_ref().map(stored, |(y, affine)| Values { y, affine })
    }
}

/// Converts a value to `T`, or returns 0 if it is negative; NaN stays NaN.
#[inline(always)]
pub fn relu<T: Value>(sum: f32) -> T {
    T::from_f32(if sum < 0.0 { 0.0 } else { sum })
}

impl<T: Value> Slices<'_, T> {
    /// Writes the values of one image, of `width` columns and `channels` channels, pixel by pixel.
    pub fn fill(&self, image: usize, width: usize, channels: usize, out: &mut [T]) {
        let len = out.len();
        let pixels = out.chunks_exact_mut(channels).enumerate();
        let (of, shortcut) = match self {
            Input::Plain(x) => return out.copy_from_slice(x.image(image)),
            Input::Normed { of, shortcut } => (of, shortcut),
        };
        let y = &of.y[image * len..(image + 1) * len];
        let (scale, shift) = of.affine.split_at(channels);
        match shortcut {
            Shortcut::None => {
                for (n, out) in pixels {
                    let y = &y[n * channels..];
                    (0..channels).for_each(|c| out[c] = relu(y[c].to_f32() * scale[c] + shift[c]));
                }
            }
            Shortcut::Identity(x) => {
                let x = x.image(image);
                for (n, out) in pixels {
                    let (y, x) = (&y[n * channels..], &x[n * channels..]);
                    for c in 0..channels {
                        out[c] = relu(y[c].to_f32() * scale[c] + shift[c] + x[c].to_f32());
                    }
                }
            }
            Shortcut::Padded(x) => {
                let ([_, wide, narrow], x) = (x.size, x.image(image));
                let front = (channels - narrow) / 2;
                for (n, out) in pixels {
                    let y = &y[n * channels..];
                    let x = &x[(2 * (n / width) * wide + 2 * (n % width)) * narrow..][..narrow];
                    for c in 0..channels {
                        let x = c.checked_sub(front).and_then(|c| x.get(c)).map_or(0.0, |x| x.to_f32());
                        out[c] = relu(y[c].to_f32() * scale[c] + shift[c] + x);
                    }
                }
            }
            Shortcut::Projected(p) => {
                let (p, (p_scale, p_shift)) = (&p.y[image * len..], p.affine.split_at(channels));
                for (n, out) in pixels {
                    let (y, p) = (&y[n * channels..], &p[n * channels..]);
                    for c in 0..channels {
                        let x = p[c].to_f32() * p_scale[c] + p_shift[c];
                        out[c] = relu(y[c].to_f32() * scale[c] + shift[c] + x);
                    }
                }
            }
        }
    }
}
