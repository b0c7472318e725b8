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
    T::rounded(if sum < 0.0 { 0.0 } else { sum })
}

impl<T: Value> Slices<'_, T> {
    /// Writes the values of one image, of `width` columns and `channels` channels, pixel by pixel.
    pub fn fill(&self, image: usize, width: usize, channels: usize, out: &mut [T]) {
        let len = out.len();
        let (of, shortcut) = match self {
            Input::Plain(x) => return out.copy_from_slice(x.image(image)),
            Input::Normed { of, shortcut } => (of, shortcut),
        };
        let y = &of.y[image * len..(image + 1) * len];
        let (scale, shift) = of.affine.split_at(channels);
        for (n, (out, y)) in out.chunks_exact_mut(channels).zip(y.chunks_exact(channels)).enumerate() {
            let norm = |c: usize| y[c].to_f32() * scale[c] + shift[c];
            match shortcut {
                Shortcut::None => (0..channels).for_each(|c| out[c] = relu(norm(c))),
                Shortcut::Identity(x) => {
                    let x = &x.image(image)[n * channels..];
                    (0..channels).for_each(|c| out[c] = relu(norm(c) + x[c].to_f32()));
                }
                Shortcut::Padded(x) => {
                    let ([_, wide, narrow], x) = (x.size, x.image(image));
                    let front = (channels - narrow) / 2;
                    let x = &x[(2 * (n / width) * wide + 2 * (n % width)) * narrow..][..narrow];
                    for (c, out) in out.iter_mut().enumerate() {
                        let x = c.checked_sub(front).and_then(|c| x.get(c)).map_or(0.0, |x| x.to_f32());
                        *out = relu(norm(c) + x);
                    }
                }
                Shortcut::Projected(p) => {
                    let (scale, shift) = p.affine.split_at(channels);
                    let p = &p.y[image * len + n * channels..];
                    let p = |c: usize| p[c].to_f32() * scale[c] + shift[c];
                    (0..channels).for_each(|c| out[c] = relu(norm(c) + p(c)));
                }
            }
        }
    }
}
