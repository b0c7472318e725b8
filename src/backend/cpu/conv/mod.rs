//! Convolution (square kernels of odd size, padding of half the kernel size, stride 1 or 2, no bias), fused
//! with the operations around it in a ResNet.
//!
//! A step is bound by memory as much as by arithmetic, so the operation includes everything that can be done
//! while an image is in the cache. Forward: the input `a = relu(y·scale + shift + shortcut)` is computed from
//! the previous convolution's raw output and convolved, and the raw output's sums for the next batch norm are
//! taken on the way. Backward: the gradient of the raw output `g = c1·dz + c2·y + c3` is computed from the
//! gradient `dz` of the batch norm's output, `a` is computed again, and the input gradient is masked by the
//! ReLU and summed for the preceding batch norm before it is stored. Inside a block, no activation between a
//! batch norm and its convolution is ever stored.

pub(crate) mod kernel;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};

use super::chunks;
use super::source::{Source, View};
use crate::backend::Residual;
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::tensor::{Lent, read, read_as, with_value, write, write_parts, zeros};
use kernel::winograd;

impl Geometry {
    /// Returns the number of lanes of an input image with its halo.
    fn padded_in<T: Value>(&self) -> usize {
        let halo = 2 * self.padding();
        (self.height + halo) * (self.width + halo) * T::lanes(self.cin)
    }

    /// Returns the number of lanes of an output image with a halo.
    fn padded_out<T: Value>(&self) -> usize {
        let halo = 2 * self.padding();
        (self.out_height() + halo) * (self.out_width() + halo) * T::lanes(self.cout)
    }
}

/// The forward pass: `out = conv(source, weight)`, and for each image the sums of `out` and of its squares by
/// channel.
///
/// Images are either all `f32` or all bf16. In bf16, the source's values and the weights are rounded to bf16,
/// their products are added in `f32`, and the sums are those of the output before it is rounded.
pub struct Forward<'a> {
    /// Sizes of the layer.
    pub geo: Geometry,
    /// Number of images.
    pub batch: usize,
    /// The input.
    pub source: Source<'a>,
    /// The weight, (kernel, kernel, cin, cout).
    pub weight: &'a Tensor,
    /// Receives the source's values, (N, H, W, cin), if they are to be stored.
    pub store: Option<&'a Tensor>,
    /// Receives the output, (N, H', W', cout).
    pub out: &'a Tensor,
    /// Receives the sums of the output and of its squares, (N, 2, cout).
    pub sums: &'a Tensor,
}

impl Forward<'_> {
    /// Runs the forward pass.
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout, rank or device.
    ///
    /// # Panics
    /// Panics if a tensor has the wrong size.
    pub fn run(&self, work: &Work) -> Result<()> {
        with_value!(self.out, T => self.run_as::<T>(work))
    }

    fn run_as<T: Value>(&self, work: &Work) -> Result<()> {
        let Forward { geo, batch, out, sums, .. } = *self;
        let winograd = winograd::fits(geo, T::isa(), 2);
        let lent = self.source.read::<T>()?;
        let weight = work.arrange::<T>(self.weight, geo.cin, &[geo.taps()], geo, winograd)?;
        let written = [out, sums, self.store.unwrap_or(out)];
        write_parts(&written[..2 + usize::from(self.store.is_some())], |parts| {
            let op = kernel::Forward {
                geo,
                batch,
                source: lent.slices(),
                weight: &weight,
                winograd,
                out: parts[0],
                sums: parts[1],
                store: parts.get(2).copied(),
            };
            op.run()
        })
    }
}

/// The output for the gradient of the input, and the tensors that complete it.
pub struct InputGrad<'a> {
    /// Receives `dz = mask · (dx + residual)`, (N, H, W, cin): the gradient of the output of the batch norm
    /// before this layer.
    pub dz: &'a Tensor,
    /// The gradient that comes through the shortcut.
    pub residual: Residual<&'a Tensor>,
    /// The raw output of the previous convolution, (N, H, W, cin), for `sums`.
    pub y: &'a Tensor,
    /// Receives `Σ dz` and `Σ dz·y` by channel for each image, (N, 2, cin).
    pub sums: &'a Tensor,
}

/// The backward pass: the gradients of [`Forward`].
///
/// The gradient of the raw output is `coef[0]·dz + coef[1]·y + coef[2]`. In bf16 it is rounded like the input
/// and the weights.
pub struct Backward<'a> {
    /// Sizes of the layer.
    pub geo: Geometry,
    /// Number of images.
    pub batch: usize,
    /// The source of [`Forward`], or [`Source::Plain`] with the values that it stored.
    pub source: Source<'a>,
    /// The weight, (kernel, kernel, cin, cout).
    pub weight: &'a Tensor,
    /// The gradient of the output of the batch norm after this layer, (N, H', W', cout).
    pub dz: &'a Tensor,
    /// The raw output, (N, H', W', cout).
    pub y: &'a Tensor,
    /// The coefficients of the raw output's gradient, (3, cout).
    pub coef: &'a Tensor,
    /// Receives the gradient of the weight.
    pub dw: &'a Tensor,
    /// Where the gradient of the input goes, if it is needed.
    pub input: Option<InputGrad<'a>>,
}

impl Backward<'_> {
    /// Runs the backward pass.
    ///
    /// # Errors
    /// Returns an error if a tensor has the wrong type, layout, rank or device.
    ///
    /// # Panics
    /// Panics if a tensor has the wrong size.
    pub fn run(&self, work: &Work) -> Result<()> {
        with_value!(self.dz, T => self.run_as::<T>(work))
    }

    fn run_as<T: Value>(&self, work: &Work) -> Result<()> {
        let Backward { geo, batch, .. } = *self;
        let lent = self.source.read::<T>()?;
        let (dz, y, coef) = (read_as::<T>(self.dz)?, read_as::<T>(self.y)?, read(self.coef)?);
        let winograd = winograd::fits(geo, T::isa(), 2);
        let flipped = if self.input.is_some() {
            let weight = read(self.weight)?;
            write(&work.flipped, |flipped| kernel::flip(geo, &weight, flipped))?;
            work.arrange::<T>(&work.flipped, geo.cout, &kernel::walks(geo), geo, winograd)?
        } else {
            read(&work.flipped)?
        };
        let written = match &self.input {
            Some(i) => &[&work.partial, i.dz, i.sums][..],
            None => &[&work.partial],
        };
        let y_before = self.input.as_ref().map(|i| read_as::<T>(i.y)).transpose()?;
        let padded = match &self.input {
            Some(InputGrad { residual: Residual::Padded(dz, size), .. }) => Some((read_as::<T>(dz)?, *size)),
            _ => None,
        };
        write_parts(written, |parts| {
            let op = kernel::Backward {
                geo,
                batch,
                source: lent.slices(),
                flipped: &flipped,
                winograd,
                dz: &dz,
                y: &y,
                coef: &coef,
                partial: parts[0],
                input: y_before.as_deref().map(|y| kernel::InputGrad {
                    dz: parts[1],
                    sums: parts[2],
                    y,
                    padded: padded.as_ref().map(|(values, size)| View { values: &values[..], size: *size }),
                    in_place: matches!(&self.input, Some(InputGrad { residual: Residual::InPlace, .. })),
                }),
            };
            op.run()
        })?;
        drop(flipped);
        let partial = read(&work.partial)?;
        let len = kernel::grad_len(geo, winograd);
        let sum = |total: &mut [f32]| {
            if kernel::by_blocks(geo) {
                kernel::weight_grad::<T>(kernel::Panels::new::<T>(geo, winograd, batch), &partial, total);
            } else {
                super::add_up(total, &partial[..chunks(batch) * len]);
            }
        };
        write(self.dw, |dw| {
            if !winograd {
                sum(dw);
                return Ok(());
            }
            write(&work.arranged, |du| {
                sum(&mut du[..len]);
                winograd::restore_weight(du, dw);
            })
        })?
    }
}

/// Work space of [`Forward`] and [`Backward`], shared by all layers.
pub struct Work {
    /// Weight gradients of the chunks, or the panels that a wide layer's weight gradient is computed from.
    partial: Tensor,
    /// Flipped weights, for an input gradient.
    flipped: Tensor,
    /// Weights in the layout that the kernels read, or their gradient as transformed by [`winograd`].
    arranged: Tensor,
}

impl Work {
    /// Allocates work space for some layers.
    ///
    /// # Errors
    /// Returns an error if a tensor cannot be allocated.
    pub fn new(layers: &[Geometry], batch: usize) -> Result<Self> {
        let [partial, flipped, arranged] = Work::lens(layers, batch);
        Ok(Work { partial: zeros(&[partial])?, flipped: zeros(&[flipped])?, arranged: zeros(&[arranged])? })
    }

    /// Returns the number of floats in the work space of some layers.
    pub fn floats(layers: &[Geometry], batch: usize) -> usize {
        Work::lens(layers, batch).iter().sum()
    }

    fn lens(layers: &[Geometry], batch: usize) -> [usize; 3] {
        let most = |len: &dyn Fn(&Geometry) -> usize| layers.iter().map(len).max().unwrap_or_default();
        [
            most(&|geo| kernel::partial_len(*geo, batch)),
            most(&Geometry::weight_len),
            most(&kernel::arranged_len),
        ]
    }

    /// Arranges weights for the kernels: unchanged, transformed for [`winograd`], or in panels. Each element
    /// of `taps` is the number of taps of one walk; a tap has `rows` rows.
    fn arrange<'a, T: Value>(
        &'a self,
        weight: &'a Tensor,
        rows: usize,
        taps: &[usize],
        geo: Geometry,
        winograd: bool,
    ) -> Result<Lent<'a>> {
        let lent = read(weight)?;
        let cols = geo.weight_len() / geo.taps() / rows;
        if !winograd && T::PACK == 1 && cols <= kernel::walk::PANEL {
            // The weights are a single panel.
            return Ok(lent);
        }
        write(&self.arranged, |arranged| {
            let weight = &lent[..geo.weight_len()];
            if winograd {
                winograd::transform_weight::<T, winograd::F2x2, 4, 2>(weight, cols, arranged);
            } else {
                kernel::panels::<T>(weight, rows, taps, arranged);
            }
        })?;
        read(&self.arranged)
    }
}
