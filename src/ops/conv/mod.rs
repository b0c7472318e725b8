//! 3×3 convolution (padding 1, stride 1 or 2, no bias) with what stands before and behind it in a ResNet.
//!
//! A step is bound by memory as much as by arithmetic, so the op takes in all that can be done while an image is in the
//! cache. Forward: the input `a = relu(y·scale + shift + shortcut)` is made from the previous convolution's raw output,
//! convolved, and the raw output's sums for the next batch norm are taken on the way. Backward: the gradient of the raw
//! output `g = c1·dz + c2·y + c3` is made from the one behind the batch norm, `a` is made again, and the input gradient leaves
//! masked by the ReLU and summed for the batch norm before. No activation between a batch norm and its convolution
//! is ever stored.

pub(crate) mod cpu;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor, bail};

use super::value::Value;
use super::{Lent, chunks, read, read_as, simd::Isa, with_value, write_parts};
use crate::net::Geometry;
use cpu::winograd;

impl Geometry {
    /// Lanes of an input image with its halo.
    fn padded_in<T: Value>(&self) -> usize {
        (self.height + 2) * (self.width + 2) * T::lanes(self.cin)
    }

    /// Lanes of an output image with a halo.
    fn padded_out<T: Value>(&self) -> usize {
        (self.out_height() + 2) * (self.out_width() + 2) * T::lanes(self.cout)
    }
}

/// The shortcut added before a block's last ReLU (He et al. 2016, option A).
#[derive(Clone, Copy, Debug)]
pub enum Shortcut<T> {
    /// None.
    None,
    /// The block's input, (N, H, W, C).
    Same(T),
    /// Every second pixel of the block's input (N, 2H, 2W, C/2), with C/4 zero channels before and behind.
    Half(T),
}

/// Where the input of a convolution comes from.
#[derive(Clone, Copy, Debug)]
pub enum Source<T, A = T> {
    /// (N, H, W, C) as it is: images, or a stored block output.
    Plain(T),
    /// `relu(y·scale + shift + shortcut)`.
    Norm {
        /// Raw output of the convolution before, (N, H, W, C).
        y: T,
        /// Rows `scale` and `shift`, (2, C).
        affine: A,
        /// Shortcut.
        shortcut: Shortcut<T>,
    },
}

impl Source<&Tensor> {
    /// The same source with its tensors lent.
    fn read<T: Value>(&self) -> Result<Source<Lent<'_, T>, Lent<'_>>> {
        Ok(match *self {
            Source::Plain(x) => Source::Plain(read_as(x)?),
            Source::Norm { y, affine, shortcut } => Source::Norm {
                y: read_as(y)?,
                affine: read(affine)?,
                shortcut: match shortcut {
                    Shortcut::None => Shortcut::None,
                    Shortcut::Same(x) => Shortcut::Same(read_as(x)?),
                    Shortcut::Half(x) => Shortcut::Half(read_as(x)?),
                },
            },
        })
    }
}

impl<T: Value> Source<Lent<'_, T>, Lent<'_>> {
    /// The same source as slices.
    fn slices(&self) -> Source<&[T], &[f32]> {
        match self {
            Source::Plain(x) => Source::Plain(x),
            Source::Norm { y, affine, shortcut } => Source::Norm {
                y,
                affine,
                shortcut: match shortcut {
                    Shortcut::None => Shortcut::None,
                    Shortcut::Same(x) => Shortcut::Same(x),
                    Shortcut::Half(x) => Shortcut::Half(x),
                },
            },
        }
    }
}

/// `out = conv(source, weight)`, and for each image the sums of `out` and of its squares by channel.
///
/// - `weight` (3, 3, cin, cout), `out` (N, H', W', cout), `sums` (N, 2, cout);
/// - `store` (N, H, W, cin), if given, receives the source's values; `work` is work space.
///
/// Images are `f32`, or all of them bf16: then the source's values and the weights are rounded to bf16, their products are
/// added in `f32`, and the sums are those of the output before it is rounded.
///
/// # Errors
/// Tensors of another type or device.
///
/// # Panics
/// Tensors of another size.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    geo: Geometry,
    batch: usize,
    source: Source<&Tensor>,
    weight: &Tensor,
    work: &Work,
    store: Option<&Tensor>,
    out: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    with_value!(out, T => forward_of::<T>(geo, batch, source, weight, work, store, out, sums))
}

#[allow(clippy::too_many_arguments)]
fn forward_of<T: Value>(
    geo: Geometry,
    batch: usize,
    source: Source<&Tensor>,
    weight: &Tensor,
    work: &Work,
    store: Option<&Tensor>,
    out: &Tensor,
    sums: &Tensor,
) -> Result<()> {
    let isa = T::isa();
    let winograd = winograd::fits(geo, isa, 2);
    let lent = source.read::<T>()?;
    let weight = work.arrange::<T>(isa, weight, geo.cin, &[9], geo, winograd)?;
    let written = [out, sums, store.unwrap_or(out)];
    write_parts(&written[..2 + usize::from(store.is_some())], |parts| {
        let op = cpu::Forward {
            geo,
            batch,
            source: lent.slices(),
            weight: &weight,
            winograd,
            out: parts[0],
            sums: parts[1],
            store: parts.get(2).copied(),
        };
        op.run(isa);
        Ok(())
    })
}

/// How the gradient of the input is finished.
pub struct InputGrad<'a> {
    /// Receives `dz = mask · (dx + residual)`, (N, H, W, cin): the gradient behind the batch norm before this layer.
    pub dz: &'a Tensor,
    /// The gradient that comes through the shortcut.
    pub residual: Residual<'a>,
    /// Raw output of the convolution before, (N, H, W, cin), for `sums`.
    pub y: &'a Tensor,
    /// Receives `Σ dz` and `Σ dz·y` by channel for each image, (N, 2, cin).
    pub sums: &'a Tensor,
}

/// The shortcut's part of an input gradient.
#[derive(Clone, Copy)]
pub enum Residual<'a> {
    /// None.
    None,
    /// What `dz` holds already.
    InPlace,
    /// The gradient of a half-size block output (N, H/2, W/2, 2·cin) under [`Shortcut::Half`].
    Half(&'a Tensor),
}

/// The gradients of [`forward`].
///
/// - `source`: what `forward` had, or the stored values as [`Source::Plain`];
/// - `dz` (N, H', W', cout): gradient behind the batch norm of the output, `y` the raw output,
///   `coef` (3, cout) so that the gradient of the raw output is `coef[0]·dz + coef[1]·y + coef[2]`;
/// - `dw` (3, 3, cin, cout) is written; `work` is work space.
///
/// In bf16 the gradient of the raw output is rounded to it as the input and the weights are.
///
/// # Errors
/// Tensors of another type or device; a half-size shortcut of an odd size.
///
/// # Panics
/// Tensors of another size.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    geo: Geometry,
    batch: usize,
    source: Source<&Tensor>,
    weight: &Tensor,
    dz: &Tensor,
    y: &Tensor,
    coef: &Tensor,
    work: &Work,
    dw: &Tensor,
    input: Option<InputGrad>,
) -> Result<()> {
    with_value!(dz, T => backward_of::<T>(geo, batch, source, weight, dz, y, coef, work, dw, input))
}

#[allow(clippy::too_many_arguments)]
fn backward_of<T: Value>(
    geo: Geometry,
    batch: usize,
    source: Source<&Tensor>,
    weight: &Tensor,
    dz: &Tensor,
    y: &Tensor,
    coef: &Tensor,
    work: &Work,
    dw: &Tensor,
    input: Option<InputGrad>,
) -> Result<()> {
    let lent = source.read::<T>()?;
    let (dz, y, coef) = (read_as::<T>(dz)?, read_as::<T>(y)?, read(coef)?);
    let isa = T::isa();
    let winograd = winograd::fits(geo, isa, 2);
    let flipped = if let Some(i) = &input {
        if matches!(i.residual, Residual::Half(_)) && !(geo.height | geo.width).is_multiple_of(2) {
            bail!("an image of {}×{} has no half-size shortcut", geo.height, geo.width);
        }
        let weight = read(weight)?;
        super::write(&work.flipped, |flipped| {
            cpu::flip(geo, &weight, flipped);
            Ok(())
        })?;
        work.arrange::<T>(isa, &work.flipped, geo.cout, cpu::walks(geo), geo, winograd)?
    } else {
        read(&work.flipped)?
    };
    let written = match &input {
        Some(i) => &[&work.partial, i.dz, i.sums][..],
        None => &[&work.partial],
    };
    let (y_before, half) = match &input {
        None => (None, None),
        Some(i) => (
            Some(read_as::<T>(i.y)?),
            if let Residual::Half(t) = i.residual { Some(read_as(t)?) } else { None },
        ),
    };
    write_parts(written, |parts| {
        let op = cpu::Backward {
            geo,
            batch,
            source: lent.slices(),
            flipped: &flipped,
            winograd,
            dz: &dz,
            y: &y,
            coef: &coef,
            partial: parts[0],
            input: y_before.as_deref().map(|y| cpu::Input {
                dz: parts[1],
                sums: parts[2],
                y,
                half: half.as_deref(),
                in_place: matches!(&input, Some(InputGrad { residual: Residual::InPlace, .. })),
            }),
        };
        op.run(isa);
        Ok(())
    })?;
    drop(flipped);
    let partial = read(&work.partial)?;
    let len = cpu::grad_len(geo, winograd);
    let sum = |total: &mut [f32]| {
        if cpu::by_blocks(geo) {
            cpu::weight_grad::<T>(isa, cpu::Panels::new::<T>(geo, winograd, batch), &partial, total);
        } else {
            super::add_up(total, &partial[..chunks(batch) * len]);
        }
    };
    super::write(dw, |dw| {
        if !winograd {
            sum(dw);
            return Ok(());
        }
        super::write(&work.arranged, |du| {
            sum(&mut du[..len]);
            winograd::restore_weight(isa, du, dw);
            Ok(())
        })
    })
}

/// Work space of [`forward`] and [`backward`], shared by all layers.
pub struct Work {
    /// Weight gradients of the chunks, or what a wide layer's is made of.
    partial: Tensor,
    /// Weights of an input gradient.
    flipped: Tensor,
    /// Weights as the kernels take them, or their gradient as [`winograd`] has it.
    arranged: Tensor,
}

impl Work {
    /// Space for some layers.
    ///
    /// # Errors
    /// Candle's.
    pub fn new(layers: &[Geometry], batch: usize) -> Result<Self> {
        let space = |len: &dyn Fn(Geometry) -> usize| {
            super::zeros(&[layers.iter().map(|&geo| len(geo)).max().unwrap_or_default()])
        };
        Ok(Work {
            partial: space(&|geo| cpu::partial_len(geo, batch))?,
            flipped: space(&|geo| geo.weight_len())?,
            arranged: space(&|geo| cpu::grad_len(geo, true))?,
        })
    }

    /// Weights of walks over so many `taps` of `rows` rows as the kernels take them: as they are, transformed for [`winograd`], or in panels.
    fn arrange<'a, T: Value>(
        &'a self,
        isa: Isa,
        weight: &'a Tensor,
        rows: usize,
        taps: &[usize],
        geo: Geometry,
        winograd: bool,
    ) -> Result<Lent<'a>> {
        let lent = read(weight)?;
        let cols = geo.weight_len() / 9 / rows;
        if !winograd && T::PACK == 1 && cols <= cpu::tile::PANEL {
            // One panel.
            return Ok(lent);
        }
        super::write(&self.arranged, |arranged| {
            let weight = &lent[..geo.weight_len()];
            if winograd {
                winograd::transform_weight::<T, winograd::Two, 4, 2>(isa, weight, cols, arranged);
            } else {
                cpu::panels::<T>(isa, weight, rows, taps, arranged);
            }
            Ok(())
        })?;
        read(&self.arranged)
    }
}
