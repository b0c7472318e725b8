//! The input of a layer as the layers before have left it: stored values, or raw outputs that are normalised,
//! added and cut off at zero when they are read.
//!
//! The types are generic in what stands for stored values and for a layer's raw output: numbers in a plan,
//! tensors in an operation, slices in a kernel.

use std::convert::Infallible;

use candle_core::Tensor;

use crate::simd::value::Value;
use crate::tensor::{Lent, read, read_as};

/// The input of a layer: of stored values `K`, and of raw outputs of layers `L`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<K, L> {
    /// Values as they are.
    Plain(K),
    /// `relu(norm(y) + shortcut)`.
    Normed {
        /// The layer whose raw output `y` is, with its batch norm.
        of: L,
        /// What is added.
        shortcut: Shortcut<K, L>,
    },
}

/// What is added before a ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut<K, L> {
    /// Nothing.
    None,
    /// Stored values of the same size.
    Identity(K),
    /// Every second pixel of stored values, with zeros for the channels that are new, half of them in front.
    Padded(K),
    /// The raw output of a projection, with its batch norm.
    Projected(L),
}

impl<K, L> Input<K, L> {
    /// The same input in other terms.
    ///
    /// # Errors
    /// Those of the functions.
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

    /// The same input in other terms.
    pub fn map<K2, L2>(self, stored: impl Fn(K) -> K2, layer: impl Fn(L) -> L2) -> Input<K2, L2> {
        let Ok(mapped) = self.try_map(|x| Ok::<_, Infallible>(stored(x)), |y| Ok(layer(y)));
        mapped
    }

    /// The same input by reference.
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

/// A layer's raw output, (N, H, W, C), and what its batch norm has made of the batch: rows `scale` and
/// `shift`, (2, C).
#[derive(Clone, Copy, Debug)]
pub struct Raw<'a> {
    /// The raw output.
    pub y: &'a Tensor,
    /// `norm(y) = y·scale + shift`.
    pub affine: &'a Tensor,
}

/// An input of tensors; stored values are (N, H, W, C).
pub type Source<'a> = Input<&'a Tensor, Raw<'a>>;

/// Images of one size as a kernel has them.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    /// The values of all images.
    pub values: &'a [T],
    /// Height, width and channels.
    pub size: [usize; 3],
}

impl<'a, T> View<'a, T> {
    /// Values of an image.
    pub fn image_len(&self) -> usize {
        self.size.iter().product()
    }

    /// One of the images.
    #[inline(always)]
    pub fn image(&self, n: usize) -> &'a [T] {
        &self.values[n * self.image_len()..(n + 1) * self.image_len()]
    }
}

/// A raw output as a kernel has it, with `scale` and `shift`.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a, T> {
    /// The raw outputs of all images.
    pub y: &'a [T],
    /// `scale`, then `shift`.
    pub affine: &'a [f32],
}

/// An input of slices.
pub type Slices<'a, T> = Input<View<'a, T>, Values<'a, T>>;

/// A [`Source`] whose tensors are lent.
pub struct Reading<'a, T>(Input<Stored<'a, T>, LentRaw<'a, T>>);

/// Lent values, and the height, width and channels of an image.
type Stored<'a, T> = (Lent<'a, T>, [usize; 3]);
/// A lent raw output, with scale and shift.
type LentRaw<'a, T> = (Lent<'a, T>, Lent<'a>);

impl<'a> Source<'a> {
    /// Lends the tensors.
    ///
    /// # Errors
    /// Tensors of another type or device.
    pub fn read<T: Value>(&self) -> candle_core::Result<Reading<'a, T>> {
        let stored = |x: &'a Tensor| {
            let (_, height, width, channels) = x.dims4()?;
            Ok::<_, candle_core::Error>((read_as(x)?, [height, width, channels]))
        };
        Ok(Reading(self.try_map(stored, |raw| Ok((read_as(raw.y)?, read(raw.affine)?)))?))
    }
}

impl<T: Value> Reading<'_, T> {
    /// As slices.
    pub fn slices<'a>(&'a self) -> Slices<'a, T> {
        let stored = |(values, size): &'a Stored<T>| View { values, size: *size };
        self.0.as_ref().map(stored, |(y, affine)| Values { y, affine })
    }
}

/// A value, 0 where it is negative; NaN stays NaN.
#[inline(always)]
pub fn positive<T: Value>(sum: f32) -> T {
    T::from_f32(if sum < 0.0 { 0.0 } else { sum })
}

impl<T: Value> Slices<'_, T> {
    /// The values of one image of some channels, pixel by pixel.
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
                    (0..channels).for_each(|c| out[c] = positive(y[c].to_f32() * scale[c] + shift[c]));
                }
            }
            Shortcut::Identity(x) => {
                let x = x.image(image);
                for (n, out) in pixels {
                    let (y, x) = (&y[n * channels..], &x[n * channels..]);
                    for c in 0..channels {
                        out[c] = positive(y[c].to_f32() * scale[c] + shift[c] + x[c].to_f32());
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
                        out[c] = positive(y[c].to_f32() * scale[c] + shift[c] + x);
                    }
                }
            }
            Shortcut::Projected(p) => {
                let (p, (p_scale, p_shift)) = (&p.y[image * len..], p.affine.split_at(channels));
                for (n, out) in pixels {
                    let (y, p) = (&y[n * channels..], &p[n * channels..]);
                    for c in 0..channels {
                        let x = p[c].to_f32() * p_scale[c] + p_shift[c];
                        out[c] = positive(y[c].to_f32() * scale[c] + shift[c] + x);
                    }
                }
            }
        }
    }
}
