//! The engine of the CPU: a training step over tensors that are allocated once.
//!
//! Parameters, gradients and velocities are three flat tensors; layers hold views of them. Between the layers only raw convolution
//! outputs and inputs of blocks are stored (see [`crate::ops::conv`]).

use std::cell::Cell;

use candle_core::{DType, Error, Result, Tensor};

use super::{Engine, Gradient, Input, InputGrad, Mixed, Plan, Residual, Shortcut};
use crate::methods::loss::{Criterion, Targets};
use crate::net::params::Slot;
use crate::net::{ClassifierKind, Geometry, Network, Params};
use crate::ops::blend::{self, Pairs};
use crate::ops::conv::{self, Source};
use crate::ops::head::{Head, Loss};
use crate::ops::sgd::{self, Rates};
use crate::ops::{norm, pool, zeros, zeros_of};

/// A convolution with its batch norm.
pub(crate) struct Layer {
    geo: Geometry,
    /// (height, width, cin, cout), a view of the parameters.
    weight: Tensor,
    d_weight: Tensor,
    /// γ and β, (2, cout), a view of the parameters.
    gamma_beta: Tensor,
    d_gamma_beta: Tensor,
    /// Running mean and variance, (2, cout), a view of those of the network.
    running: Tensor,
    stat: Tensor,
    affine: Tensor,
    /// Raw output of the convolution, (batch, H', W', cout).
    pub(crate) y: Tensor,
}

/// What leaves a stage is mixed.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a> {
    /// The stage, from 1.
    pub stage: usize,
    /// Who is mixed with whom.
    pub pairs: Pairs<'a>,
}

/// A network with everything that a training step needs, for batches up to a size.
pub struct Net {
    /// The parameters.
    pub params: Params,
    /// The loss.
    pub criterion: Criterion,
    plan: Plan,
    /// Input images, (batch, H, W, C), normalised.
    pub x: Tensor,
    grads: Tensor,
    layers: Vec<Layer>,
    /// The input of each block, and the output of the last.
    kept: Vec<Tensor>,
    /// A stage's output before it was mixed, where it is.
    unmixed: Tensor,
    features: Tensor,
    classifier: Tensor,
    d_classifier: Tensor,
    head: Head,
    /// Two buffers for gradients in each stage.
    gradients: Vec<[Tensor; 2]>,
    sums: Tensor,
    coef: Tensor,
    work: conv::Work,
}

impl Net {
    /// A network with these parameters and this loss, for images of `shape` `[H, W, C]` and batches up to `batch`. Images,
    /// activations and their gradients are stored as `dtype`, `f32` or bf16.
    ///
    /// # Errors
    /// Candle's; a network or images that there is no engine for; another type.
    pub fn new(
        params: Params,
        criterion: Criterion,
        shape: [usize; 3],
        batch: usize,
        dtype: DType,
    ) -> Result<Self> {
        let plan = Plan::new(params.network(), shape).map_err(Error::msg)?;
        let classes = params.classes();
        let is_cosine = params.network().classifier.kind == ClassifierKind::Cosine;
        if criterion.normalised != is_cosine || criterion.offsets.len() != classes {
            candle_core::bail!("the loss is made for another classifier than that of the network");
        }
        let grads = zeros(&[params.values.elem_count()])?;
        let layer = |(&geo, slot): (&Geometry, &Slot)| -> Result<Layer> {
            let Geometry { kernel, cin, cout, .. } = geo;
            let weight = |of: &Tensor| {
                of.narrow(0, slot.weight, geo.weight_len())?.reshape((kernel, kernel, cin, cout))
            };
            let pair = |of: &Tensor, at: usize| of.narrow(0, at, 2 * cout)?.reshape((2, cout));
            Ok(Layer {
                geo,
                weight: weight(&params.values)?,
                d_weight: weight(&grads)?,
                gamma_beta: pair(&params.values, slot.gamma_beta)?,
                d_gamma_beta: pair(&grads, slot.gamma_beta)?,
                running: pair(&params.running, slot.running)?,
                stat: zeros(&[2, cout])?,
                affine: zeros(&[2, cout])?,
                y: output(dtype, batch, geo)?,
            })
        };
        let layers = plan.layers.iter().zip(params.slots()).map(layer).collect::<Result<Vec<_>>>()?;
        let kept = kept(&plan).map(|len| zeros_of(dtype, &[batch, len])).collect::<Result<Vec<_>>>()?;
        let stages = 0..plan.stages();
        let gradient = |stage| output(dtype, batch, plan.end_of(stage));
        let gradients = stages.map(|s| Ok([gradient(s)?, gradient(s)?])).collect::<Result<Vec<_>>>()?;
        let widest = plan.layers.iter().map(|geo| geo.cout).max().unwrap_or(0);
        let features = params.network().features();
        let classifier = |of: &Tensor| of.narrow(0, params.classifier(), params.classifier_len());
        Ok(Net {
            criterion,
            x: zeros_of(dtype, &[batch, shape[0], shape[1], shape[2]])?,
            unmixed: output(dtype, batch, plan.end_of(0))?,
            features: zeros(&[batch, features])?,
            classifier: classifier(&params.values)?,
            d_classifier: classifier(&grads)?,
            head: Head::new(batch, features, classes)?,
            sums: zeros(&[batch, 2, widest])?,
            coef: zeros(&[3, widest])?,
            work: conv::Work::new(&plan.layers, batch)?,
            params,
            plan,
            grads,
            layers,
            kept,
            gradients,
        })
    }

    /// Bytes of a network's activations and their gradients, which are nearly all that it takes.
    ///
    /// # Errors
    /// A network or images that there is no engine for.
    pub fn bytes(network: &Network, shape: [usize; 3], batch: usize, dtype: DType) -> Result<u64> {
        let plan = Plan::new(network, shape).map_err(Error::msg)?;
        let raw: usize = plan.layers.iter().map(Geometry::out_len).sum();
        // One stage's output before it was mixed; two gradients of each stage.
        let ends: usize = (0..plan.stages()).map(|stage| plan.end_of(stage).out_len()).sum();
        let values = raw + kept(&plan).sum::<usize>() + plan.end_of(0).out_len() + 2 * ends;
        Ok((values * batch * dtype.size_in_bytes()) as u64)
    }

    /// Forward and backward over the images in `x`, with hidden states mixed or not; leaves the gradients, moves the running statistics.
    ///
    /// # Errors
    /// Candle's; a stage whose output cannot be mixed.
    pub fn gradients(&self, targets: Targets, hidden: Option<Hidden>) -> Result<Loss> {
        let mixed = match hidden {
            None => None,
            Some(Hidden { stage, .. }) => Some(self.plan.mixed(stage).ok_or_else(|| {
                Error::msg(format!(
                    "what leaves stage {stage} cannot be mixed, only that of 1 to the last but one"
                ))
            })?),
        };
        let pairs = hidden.map(|h| h.pairs);
        let pass = Pass { net: self, batch: targets.label_a.len(), targets, pairs, loss: Cell::new(None) };
        super::forward(&self.plan, &pass, mixed)?;
        super::backward(&self.plan, &pass, mixed)?;
        pass.loss.take().ok_or_else(|| Error::msg("a pass without a loss"))
    }

    /// One training step on the images in `x`.
    ///
    /// # Errors
    /// Candle's.
    pub fn step(&self, targets: Targets, hidden: Option<Hidden>, rates: Rates) -> Result<Loss> {
        // On a thread of the pool: a caller outside would be put to sleep and woken again for each of the ops.
        rayon::scope(|_| {
            let loss = self.gradients(targets, hidden)?;
            sgd::step(&self.params.values, &self.grads, &self.params.velocity, rates)?;
            Ok(loss)
        })
    }

    /// The logits of the last batch, (batch, classes).
    pub fn logits(&self) -> &Tensor {
        self.head.logits()
    }

    /// The gradients, flat as the parameters; see [`Params::named`] for names and layouts.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// All layers, in the order of the parameters.
    #[cfg(all(test, feature = "cuda"))]
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

/// Values of what is kept of an image: the input of each block, and the output of the last.
fn kept(plan: &Plan) -> impl Iterator<Item = usize> {
    let last = plan.end_of(plan.stages() - 1).out_len();
    (0..plan.blocks()).map(|block| plan.kept(block).in_len()).chain([last])
}

/// A step on a batch.
struct Pass<'a> {
    net: &'a Net,
    batch: usize,
    targets: Targets<'a>,
    /// Who is mixed with whom, where hidden states are.
    pairs: Option<Pairs<'a>>,
    loss: Cell<Option<Loss>>,
}

impl<'a> Pass<'a> {
    fn source(&self, input: Input) -> Source<&'a Tensor> {
        let net = self.net;
        match input {
            Input::Images => Source::Plain(&net.x),
            Input::Kept(block) => Source::Plain(&net.kept[block]),
            Input::Normed { layer, shortcut } => Source::Norm {
                y: &net.layers[layer].y,
                affine: &net.layers[layer].affine,
                shortcut: match shortcut {
                    Shortcut::None => conv::Shortcut::None,
                    Shortcut::Identity(block) => conv::Shortcut::Same(&net.kept[block]),
                    Shortcut::Padded(block) => conv::Shortcut::Half(&net.kept[block]),
                },
            },
        }
    }

    fn gradient(&self, Gradient { stage, second }: Gradient) -> &'a Tensor {
        &self.net.gradients[stage][usize::from(second)]
    }

    /// Values of a batch by which a layer's statistics are divided.
    fn count(&self, geo: Geometry) -> usize {
        self.batch * geo.out_height() * geo.out_width()
    }

    fn pairs(&self) -> Result<Pairs<'a>> {
        self.pairs.ok_or_else(|| Error::msg("hidden states are mixed without pairs"))
    }
}

impl Engine for Pass<'_> {
    type Error = Error;

    fn conv(&self, layer: usize, input: Input, keep: Option<usize>) -> Result<()> {
        let Net { layers, kept, work, sums, .. } = self.net;
        let Layer { geo, weight, gamma_beta, running, stat, affine, y, .. } = &layers[layer];
        let keep = keep.map(|block| &kept[block]);
        conv::forward(*geo, self.batch, self.source(input), weight, work, keep, y, sums)?;
        norm::forward(sums, self.batch, self.count(*geo), y, gamma_beta, stat, affine, running)
    }

    fn mix(&self, Mixed { block, layer }: Mixed) -> Result<()> {
        let Net { layers, kept, unmixed, .. } = self.net;
        let Layer { y, affine, .. } = &layers[layer];
        blend::forward(self.pairs()?, y, affine, &kept[block - 1], unmixed, &kept[block])
    }

    fn head(&self, layer: usize, block: usize, dz: Gradient) -> Result<()> {
        let Net { layers, kept, features, head, classifier, d_classifier, criterion, sums, .. } = self.net;
        let Layer { y, affine, .. } = &layers[layer];
        let (x, out) = (&kept[block], &kept[block + 1]);
        pool::forward(self.batch, y, affine, x, out, features)?;
        let loss = head.step(features, classifier, criterion, self.targets, d_classifier)?;
        self.loss.set(Some(loss));
        pool::backward(self.batch, &head.d_features, out, y, self.gradient(dz), sums)
    }

    fn grad(&self, layer: usize, input: Input, dz: Gradient, to: Option<InputGrad>) -> Result<()> {
        let Net { layers, work, sums, coef, .. } = self.net;
        let Layer { geo, weight, d_weight, gamma_beta, d_gamma_beta, stat, y, .. } = &layers[layer];
        let dz = self.gradient(dz);
        // `sums` holds those of `dz` before, and those of the input's `dz` after.
        norm::backward(sums, self.batch, self.count(*geo), [dz, y], gamma_beta, stat, d_gamma_beta, coef)?;
        let to = to.map(|InputGrad { to, residual, before, .. }| conv::InputGrad {
            dz: self.gradient(to),
            residual: match residual {
                Residual::None => conv::Residual::None,
                Residual::InPlace => conv::Residual::InPlace,
                Residual::Padded(of) => conv::Residual::Half(self.gradient(of)),
            },
            y: &layers[before].y,
            sums,
        });
        conv::backward(*geo, self.batch, self.source(input), weight, dz, y, coef, work, d_weight, to)
    }

    fn unmix(&self, mixed: Mixed, from: Gradient, to: Gradient) -> Result<()> {
        let Net { layers, unmixed, sums, .. } = self.net;
        let y = &layers[mixed.layer].y;
        blend::backward(self.pairs()?, self.gradient(from), unmixed, y, self.gradient(to), sums)
    }
}

fn output(dtype: DType, batch: usize, geo: Geometry) -> Result<Tensor> {
    zeros_of(dtype, &[batch, geo.out_height(), geo.out_width(), geo.cout])
}
