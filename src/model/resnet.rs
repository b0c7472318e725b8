//! The training step of a CIFAR ResNet: explicit forward and backward over tensors that are allocated once.
//!
//! Parameters, gradients and velocities are three flat tensors; layers hold views of them. Between the layers only raw
//! convolution outputs and block outputs are stored (see [`crate::ops::conv`]).

use std::collections::BTreeSet;

use candle_core::{DType, Result, Tensor};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};

use super::{Arch, Named};
use crate::methods::loss::{Criterion, Targets};
use crate::ops::blend::{self, Pairs};
use crate::ops::conv::{self, Geometry, InputGrad, Residual, Shortcut, Source};
use crate::ops::head::{Head, Loss};
use crate::ops::sgd::{self, Rates};
use crate::ops::{norm, pool, write, zeros, zeros_of};
use crate::rng::{Purpose, stream};

/// A convolution with its batch norm.
pub struct ConvBn {
    pub(crate) named: Named,
    /// (3, 3, cin, cout), a view of the parameters.
    pub(super) weight: Tensor,
    d_weight: Tensor,
    /// γ and β, (2, cout), a view of the parameters.
    pub(super) gamma_beta: Tensor,
    d_gamma_beta: Tensor,
    /// Running mean and variance, (2, cout).
    pub(crate) running: Tensor,
    stat: Tensor,
    affine: Tensor,
    /// Raw output of the convolution, (batch, H', W', cout).
    pub(crate) y: Tensor,
}

impl ConvBn {
    fn geo(&self) -> Geometry {
        self.named.geo
    }

    fn normed<'a>(&'a self, shortcut: Shortcut<&'a Tensor>) -> Source<&'a Tensor> {
        Source::Norm { y: &self.y, affine: &self.affine, shortcut }
    }
}

/// A residual block; `out` is its output after the last ReLU.
struct Block {
    first: ConvBn,
    second: ConvBn,
    out: Tensor,
}

/// Hidden states that are mixed: what leaves a stage, 1 or 2.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a> {
    /// The stage, from 1.
    pub stage: usize,
    /// Who is mixed with whom.
    pub pairs: Pairs<'a>,
}

/// Where the parameters of a layer are in the flat tensors.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub conv: Named,
    pub weight: usize,
    pub gamma_beta: usize,
}

/// A network with everything that a training step needs, for batches up to a size.
pub struct Net {
    pub(crate) arch: Arch,
    pub(crate) classes: usize,
    /// The loss, cross-entropy at first; a normalised classifier also has other names and shapes in files, and fresh values.
    pub criterion: Criterion,
    /// Input images, (batch, H, W, C), normalised.
    pub x: Tensor,
    /// All parameters.
    pub(crate) params: Tensor,
    grads: Tensor,
    /// SGD's velocities, in the order of the parameters.
    pub(crate) velocity: Tensor,
    pub(crate) slots: Vec<Slot>,
    pub(crate) linear_at: usize,
    stem: ConvBn,
    stem_out: Tensor,
    blocks: Vec<Block>,
    /// A stage's output before it was mixed, where it is.
    unmixed: Tensor,
    features: Tensor,
    linear: Tensor,
    d_linear: Tensor,
    head: Head,
    /// Gradient behind the last batch norm of a block, and the one in its middle, for each size of image.
    d_out: Vec<Tensor>,
    d_mid: Vec<Tensor>,
    sums: Tensor,
    coef: Tensor,
    work: conv::Work,
}

/// Floats to a cache line: parameters start on one.
const LINE: usize = 16;

impl Net {
    /// A network with all parameters zero, for images of `shape` `[H, W, C]` and batches up to `batch`. Images, activations and
    /// their gradients are stored as `dtype`, `f32` or bf16.
    ///
    /// # Errors
    /// Candle's; images whose sides are not multiples of 4; another type.
    pub fn new(arch: Arch, shape: [usize; 3], classes: usize, batch: usize, dtype: DType) -> Result<Self> {
        if !shape[0].is_multiple_of(4) || !shape[1].is_multiple_of(4) || shape[2] == 0 {
            candle_core::bail!("images are {shape:?}; {arch} needs sides that are multiples of 4");
        }
        let mut len = 0;
        let mut reserve = |n: usize| {
            let at = len;
            len += n.next_multiple_of(LINE);
            at
        };
        let slots: Vec<Slot> = arch
            .convs(shape)
            .into_iter()
            .map(|conv| Slot {
                weight: reserve(conv.geo.weight_len()),
                gamma_beta: reserve(2 * conv.geo.cout),
                conv,
            })
            .collect();
        let features = arch.feature_len();
        let linear_len = classes * (features + 1);
        let linear_at = reserve(linear_len);
        let (params, grads, velocity) = (zeros(&[len])?, zeros(&[len])?, zeros(&[len])?);

        let conv_bn = |slot: &Slot| -> Result<ConvBn> {
            let geo = slot.conv.geo;
            let weight =
                |of: &Tensor| of.narrow(0, slot.weight, geo.weight_len())?.reshape((3, 3, geo.cin, geo.cout));
            let gamma_beta =
                |of: &Tensor| of.narrow(0, slot.gamma_beta, 2 * geo.cout)?.reshape((2, geo.cout));
            Ok(ConvBn {
                named: slot.conv.clone(),
                weight: weight(&params)?,
                d_weight: weight(&grads)?,
                gamma_beta: gamma_beta(&params)?,
                d_gamma_beta: gamma_beta(&grads)?,
                running: zeros(&[2, geo.cout])?,
                stat: zeros(&[2, geo.cout])?,
                affine: zeros(&[2, geo.cout])?,
                y: output(dtype, batch, geo)?,
            })
        };
        let mut layers = slots.iter().map(conv_bn);
        let mut next = || layers.next().unwrap_or_else(|| candle_core::bail!("too few layers"));
        let stem = next()?;
        let blocks = (0..slots.len() / 2)
            .map(|_| {
                let (first, second) = (next()?, next()?);
                let out = output(dtype, batch, second.geo())?;
                Ok(Block { first, second, out })
            })
            .collect::<Result<Vec<_>>>()?;

        let stage_ends: Vec<Geometry> =
            (1..=3).map(|s| blocks[s * blocks.len() / 3 - 1].second.geo()).collect();
        let gradients = || stage_ends.iter().map(|&g| output(dtype, batch, g)).collect::<Result<Vec<_>>>();
        let widest = stage_ends[2].cout;
        let geos: Vec<Geometry> = slots.iter().map(|s| s.conv.geo).collect();
        Ok(Net {
            arch,
            classes,
            criterion: Criterion::cross_entropy(classes),
            x: zeros_of(dtype, &[batch, shape[0], shape[1], shape[2]])?,
            stem_out: output(dtype, batch, stem.geo())?,
            unmixed: output(dtype, batch, stage_ends[0])?,
            features: zeros(&[batch, features])?,
            linear: params.narrow(0, linear_at, linear_len)?,
            d_linear: grads.narrow(0, linear_at, linear_len)?,
            head: Head::new(batch, features, classes)?,
            d_out: gradients()?,
            d_mid: gradients()?,
            sums: zeros(&[batch, 2, widest])?,
            coef: zeros(&[3, widest])?,
            work: conv::Work::new(&geos, batch)?,
            params,
            grads,
            velocity,
            slots,
            linear_at,
            stem,
            blocks,
        })
    }

    /// Bytes of a network's activations and their gradients, which are nearly all that it takes.
    pub fn bytes(arch: Arch, shape: [usize; 3], batch: usize, dtype: DType) -> u64 {
        let outputs: Vec<usize> = arch.convs(shape).iter().map(|c| c.geo.out_len()).collect();
        // Every convolution's output; that of the stem and of each block once more, after its ReLU, and of the first stage before it is mixed; of
        // three stages two gradients.
        let blocks = outputs.iter().step_by(2);
        let stages = blocks.clone().collect::<BTreeSet<_>>().into_iter();
        let values = outputs.iter().chain(blocks).sum::<usize>() + outputs[0] + 2 * stages.sum::<usize>();
        (values * batch * dtype.size_in_bytes()) as u64
    }

    /// Fresh parameters: Kaiming-normal weights (fan in, gain √2) for convolutions and the classifier, its bias uniform in
    /// ±1/√features, γ = 1, β = 0, running statistics 0 and 1; velocities zero. A normalised classifier's weights are uniform, then scaled
    /// to length 1, as in the code of LDAM, and its bias is 0.
    ///
    /// # Errors
    /// Candle's.
    pub fn init(&self, seed: u64) -> Result<()> {
        write(&self.params, |params| {
            let normal = |params: &mut [f32], tensor: usize, fan_in: usize| {
                let std = (2.0 / fan_in as f64).sqrt();
                let mut rng = stream(seed, Purpose::Init, 0, tensor as u64);
                for p in params {
                    let z: f64 = StandardNormal.sample(&mut rng);
                    *p = (z * std) as f32;
                }
            };
            for (n, slot) in self.slots.iter().enumerate() {
                let geo = slot.conv.geo;
                normal(&mut params[slot.weight..][..geo.weight_len()], n, 9 * geo.cin);
                params[slot.gamma_beta..][..geo.cout].fill(1.0);
                params[slot.gamma_beta + geo.cout..][..geo.cout].fill(0.0);
            }
            let len = self.arch.feature_len();
            let (weight, bias) =
                params[self.linear_at..][..self.classes * (len + 1)].split_at_mut(self.classes * len);
            if self.criterion.normalised {
                let mut rng = stream(seed, Purpose::Init, 0, self.slots.len() as u64);
                for row in weight.chunks_exact_mut(len) {
                    row.iter_mut().for_each(|w| *w = rng.random_range(-1.0..1.0));
                    let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt();
                    row.iter_mut().for_each(|w| *w /= norm);
                }
                bias.fill(0.0);
                return Ok(());
            }
            normal(weight, self.slots.len(), len);
            let bound = 1.0 / (len as f32).sqrt();
            let mut rng = stream(seed, Purpose::Init, 0, self.slots.len() as u64 + 1);
            bias.iter_mut().for_each(|b| *b = rng.random_range(-bound..bound));
            Ok(())
        })?;
        for layer in self.layers() {
            write(&layer.running, |running| {
                let (mean, var) = running.split_at_mut(layer.geo().cout);
                mean.fill(0.0);
                var.fill(1.0);
                Ok(())
            })?;
        }
        write(&self.velocity, |v| {
            v.fill(0.0);
            Ok(())
        })
    }

    /// All convolutions in the order of the parameters.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &ConvBn> {
        let blocks = self.blocks.iter().flat_map(|b| [&b.first, &b.second]);
        std::iter::once(&self.stem).chain(blocks)
    }

    /// Forward and backward over the images in `x`, with hidden states mixed or not; leaves the gradients, moves the running statistics.
    ///
    /// # Errors
    /// Candle's.
    pub fn gradients(&self, targets: Targets, hidden: Option<Hidden>) -> Result<Loss> {
        if let Some(Hidden { stage, .. }) = hidden
            && !(1..=2).contains(&stage)
        {
            candle_core::bail!("what leaves stage {stage} cannot be mixed, only that of 1 or 2");
        }
        let batch = targets.label_a.len();
        self.forward(batch, hidden)?;
        let loss = self.head.step(&self.features, &self.linear, &self.criterion, targets, &self.d_linear)?;
        self.backward(batch, hidden)?;
        Ok(loss)
    }

    /// One training step on the images in `x`.
    ///
    /// # Errors
    /// Candle's.
    pub fn step(&self, targets: Targets, hidden: Option<Hidden>, rates: Rates) -> Result<Loss> {
        // On a thread of the pool: a caller outside would be put to sleep and woken again for each of the ops.
        rayon::scope(|_| {
            let loss = self.gradients(targets, hidden)?;
            sgd::step(&self.params, &self.grads, &self.velocity, rates)?;
            Ok(loss)
        })
    }

    /// The logits of the last batch, (batch, classes).
    pub fn logits(&self) -> &Tensor {
        self.head.logits()
    }

    /// The gradients, flat as the parameters; see [`Net::named`] for names and layouts.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// The block whose input is mixed.
    fn mixes<'a>(&self, hidden: Option<Hidden<'a>>) -> Option<(usize, Pairs<'a>)> {
        hidden.map(|h| (h.stage * self.blocks.len() / 3, h.pairs))
    }

    fn forward(&self, batch: usize, hidden: Option<Hidden>) -> Result<()> {
        self.conv(&self.stem, batch, Source::Plain(&self.x), None)?;
        let (mut before, mut shortcut, mut out) = (&self.stem, Shortcut::None, &self.stem_out);
        for (n, block) in self.blocks.iter().enumerate() {
            match (self.mixes(hidden), shortcut) {
                (Some((at, pairs)), Shortcut::Same(x)) if at == n => {
                    blend::forward(pairs, &before.y, &before.affine, x, &self.unmixed, out)?;
                    self.conv(&block.first, batch, Source::Plain(out), None)?;
                }
                _ => self.conv(&block.first, batch, before.normed(shortcut), Some(out))?,
            }
            self.conv(&block.second, batch, block.first.normed(Shortcut::None), None)?;
            shortcut = if block.first.geo().stride == 1 { Shortcut::Same(out) } else { Shortcut::Half(out) };
            (before, out) = (&block.second, &block.out);
        }
        let Shortcut::Same(x) = shortcut else { candle_core::bail!("the last block changes the size") };
        pool::forward(batch, &before.y, &before.affine, x, out, &self.features)
    }

    fn conv(
        &self,
        layer: &ConvBn,
        batch: usize,
        source: Source<&Tensor>,
        store: Option<&Tensor>,
    ) -> Result<()> {
        let geo = layer.geo();
        conv::forward(geo, batch, source, &layer.weight, &self.work, store, &layer.y, &self.sums)?;
        let count = batch * geo.out_height() * geo.out_width();
        norm::forward(
            &self.sums,
            batch,
            count,
            &layer.y,
            &layer.gamma_beta,
            &layer.stat,
            &layer.affine,
            &layer.running,
        )
    }

    fn backward(&self, batch: usize, hidden: Option<Hidden>) -> Result<()> {
        let mut stage = 2;
        let mut buffers: Vec<_> = self.d_out.iter().zip(&self.d_mid).collect();
        let last = &self.blocks[self.blocks.len() - 1];
        pool::backward(
            batch,
            &self.head.d_features,
            &last.out,
            &last.second.y,
            buffers[stage].0,
            &self.sums,
        )?;
        for n in (0..self.blocks.len()).rev() {
            let Block { first, second, .. } = &self.blocks[n];
            let (before, x) = match n.checked_sub(1).map(|n| &self.blocks[n]) {
                Some(block) => (&block.second, &block.out),
                None => (&self.stem, &self.stem_out),
            };
            let (d_out, d_mid) = buffers[stage];
            self.grad(
                second,
                batch,
                first.normed(Shortcut::None),
                d_out,
                Some(InputGrad { dz: d_mid, residual: Residual::None, y: &first.y, sums: &self.sums }),
            )?;
            let residual = if first.geo().stride == 1 {
                Residual::InPlace
            } else {
                stage -= 1;
                Residual::Half(d_out)
            };
            let input = InputGrad { dz: buffers[stage].0, residual, y: &before.y, sums: &self.sums };
            self.grad(first, batch, Source::Plain(x), d_mid, Some(input))?;
            if let Some((at, pairs)) = self.mixes(hidden)
                && at == n
            {
                // The gradient of the mixed output, zero where that is; its sums are not used.
                let (g, dz) = buffers[stage];
                blend::backward(pairs, g, &self.unmixed, &before.y, dz, &self.sums)?;
                buffers[stage] = (dz, g);
            }
        }
        self.grad(&self.stem, batch, Source::Plain(&self.x), buffers[0].0, None)
    }

    /// Gradients of one layer; `self.sums` holds those of `dz` before, and those of the input's `dz` after.
    fn grad(
        &self,
        layer: &ConvBn,
        batch: usize,
        source: Source<&Tensor>,
        dz: &Tensor,
        input: Option<InputGrad>,
    ) -> Result<()> {
        let geo = layer.geo();
        let count = batch * geo.out_height() * geo.out_width();
        norm::backward(
            &self.sums,
            batch,
            count,
            [dz, &layer.y],
            &layer.gamma_beta,
            &layer.stat,
            &layer.d_gamma_beta,
            &self.coef,
        )?;
        conv::backward(
            geo,
            batch,
            source,
            &layer.weight,
            dz,
            &layer.y,
            &self.coef,
            &self.work,
            &layer.d_weight,
            input,
        )
    }
}

fn output(dtype: DType, batch: usize, geo: Geometry) -> Result<Tensor> {
    zeros_of(dtype, &[batch, geo.out_height(), geo.out_width(), geo.cout])
}
