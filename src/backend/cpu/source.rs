//! The input of a layer: stored values, or raw outputs of earlier layers, which are normalised, added and cut
//! off at zero when they are read.
//!
//! The types are generic in the representation of stored values and of a layer's raw output: numbers in a
//! plan, tensors in an operation, slices in a kernel.

use std::convert::Infallible;

use candle_core::Tensor;

use crate::simd::value::Value;
use crate::tensor::{Lent, read, read_as};

/// The input of a layer, made of stored values `K` and of raw outputs of layers `L`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<K, L> {
    /// Stored values, unchanged.
    Plain(K),
    /// `relu(norm(y) + shortcut)`.
    Normed {
        /// The layer with the raw output `y` and its batch norm.
        of: L,
        /// The shortcut that is added.
        shortcut: Shortcut<K, L>,
    },
}

/// The shortcut that is added before a ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut<K, L> {
    /// Nothing.
    None,
    /// Stored values of the same size.
    Identity(K),
    /// Every second row and column of stored values, with zeros for the additional channels, half of them in
    /// front.
    Padded(K),
    /// The raw output of a projection, with its batch norm.
    Projected(L),
}

impl<K, L> Input<K, L> {
    /// Converts stored values and layers with functions that may fail.
    ///
    /// # Errors
    /// Returns the first error that a function returns.
    pub fn try_map<K2, L2, E>(
        self,
        stored: impl Fn(K) -> Result<K2, E>,
        layer: impl Fn(L) -> Result<L2, E>,
    ) -> Result<Input<K2, L2>, E> {
        Ok(match self {
            Input::Plain(x) => Input::Plain(stored(x)?),
            Input::Normed { of, shortcut } => Input::Normed {
                of: layer(of)?,
                shortcut: match shortcut {
                    Shortcut::None => Shortcut::None,
                    Shortcut::Identity(x) => Shortcut::Identity(stored(x)?),
                    Shortcut::Padded(x) => Shortcut::Padded(stored(x)?),
                    Shortcut::Projected(y) => Shortcut::Projected(layer(y)?),
                },
            },
        })
    }

    /// Converts stored values and layers.
    pub fn map<K2, L2>(self, stored: impl Fn(K) -> K2, layer: impl Fn(L) -> L2) -> Input<K2, L2> {
        let Ok(mapped) = self.try_map(|x| Ok::<_, Infallible>(stored(x)), |y| Ok(layer(y)));
        mapped
    }

    /// Borrows the stored values and the layers.
    pub fn as_ref(&self) -> Input<&K, &L> {
        match self {
            Input::Plain(x) => Input::Plain(x),
            Input::Normed { of, shortcut } => Input::Normed {
                of,
                shortcut: match shortcut {
                    Shortcut::None => Shortcut::None,
                    Shortcut::Identity(x) => Shortcut::Identity(x),
                    Shortcut::Padded(x) => Shortcut::Padded(x),
                    Shortcut::Projected(y) => Shortcut::Projected(y),
                },
            },
        }
    }
}

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
