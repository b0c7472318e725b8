//! The CPU engine: a training step over tensors that are allocated once.
//!
//! Parameters, gradients and velocities are three flat tensors; layers hold views of them. Between the layers
//! only raw convolution outputs and inputs of blocks are stored (see [`crate::backend::cpu::conv`]).

use std::cell::Cell;

use candle_core::{DType, Error, Result, Tensor};

use crate::backend::cpu::blend::{self, Pairs};
use crate::backend::cpu::conv;
use crate::backend::cpu::head::{Head, Loss};
use crate::backend::cpu::norm::{self, Norm};
use crate::backend::cpu::pool;
use crate::backend::cpu::sgd;
use crate::backend::cpu::source::{self, Raw};
use crate::backend::{
    self, Engine, Gradient, Input, InputGrad, Mixed, Plan, Rates, Residual, Source, Stored, Training,
};
use crate::methods::loss::{Criterion, Targets};
use crate::net::params::Slot;
use crate::net::{Geometry, Network, Params};
use crate::tensor::{zeros, zeros_of};

/// A convolution with its batch norm.
pub(crate) struct Layer {
    geo: Geometry,
    /// The weight, (kernel, kernel, cin, cout), a view of the parameters.
    weight: Tensor,
    d_weight: Tensor,
    /// The batch norm; its parameters, their gradients and its running statistics are views as well.
    norm: Norm,
    /// Raw output of the convolution, (batch, H', W', cout).
    pub(crate) y: Tensor,
}

/// The mixing of the hidden states that leave a stage.
#[derive(Clone, Copy, Debug)]
pub struct Hidden<'a> {
    /// The stage, counted from 1.
    pub stage: usize,
    /// Which images are mixed, and how.
    pub pairs: Pairs<'a>,
}

/// A network with everything that a training step needs, for batches up to a size.
pub struct Net {
    /// The parameters.
    pub params: Params,
    /// The loss.
    pub criterion: Criterion,
    plan: Plan,
    /// Whether only the classifier is trained; the other layers then run as in evaluation.
    frozen: bool,
    /// Input images, (batch, H, W, C), normalised.
    pub x: Tensor,
    grads: Tensor,
    layers: Vec<Layer>,
    /// The input of each block, and the output of the last block.
    stored: Vec<Tensor>,
    /// Hidden states before mixing, if they are mixed.
    unmixed: Tensor,
    features: Tensor,
    classifier: Tensor,
    d_classifier: Tensor,
    head: Head,
    gradients: Vec<Tensor>,
    /// Sums of the gradient that is passed on, for the batch norm that it reaches; and sums for projections.
    sums: [Tensor; 2],
    coef: Tensor,
    work: conv::Work,
}

impl Net {
    /// Creates a network with the given parameters and loss, for images of `shape` `[H, W, C]` and batches of
    /// up to `batch` images. Images, activations and their gradients are stored as `dtype`, `f32` or bf16.
    ///
    /// # Errors
    /// Returns an error if there is no engine for the network, the images or `dtype`, if the loss is made for
    /// another classifier, or if a tensor cannot be allocated.
    pub fn new(
        params: Params,
        criterion: Criterion,
        shape: [usize; 3],
        batch: usize,
        dtype: DType,
    ) -> Result<Self> {
        let plan = Plan::new(params.network(), shape).map_err(Error::msg)?;
        let classes = params.classes();
        if criterion.classifier != params.network().classifier.kind || criterion.offsets.len() != classes {
            candle_core::bail!("the loss does not match the network's classifier");
        }
        let grads = zeros(&[params.values.elem_count()])?;
        let images =
            |[height, width, channels]: [usize; 3]| zeros_of(dtype, &[batch, height, width, channels]);
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
                norm: Norm {
                    gamma_beta: pair(&params.values, slot.gamma_beta)?,
                    d_gamma_beta: pair(&grads, slot.gamma_beta)?,
                    running: pair(&params.running, slot.running)?,
                    stat: zeros(&[2, cout])?,
                    affine: zeros(&[2, cout])?,
                },
                y: images(geo.out_shape())?,
            })
        };
        let layers = plan.layers.iter().zip(params.slots()).map(layer).collect::<Result<Vec<_>>>()?;
        let widest = plan.layers.iter().map(|geo| geo.cout).max().unwrap_or(0);
        let features = params.network().features();
        let classifier = |of: &Tensor| of.narrow(0, params.classifier(), params.classifier_len());
        let sums = || zeros(&[batch, 2, widest]);
        Ok(Net {
            criterion,
            frozen: false,
            x: images(shape)?,
            stored: stored(&plan).map(images).collect::<Result<_>>()?,
            unmixed: zeros_of(dtype, &[batch, plan.largest_mixed()])?,
            features: zeros(&[batch, features])?,
            classifier: classifier(&params.values)?,
            d_classifier: classifier(&grads)?,
            head: Head::new(batch, features, classes)?,
            gradients: plan
                .gradients
                .iter()
                .map(|&len| zeros_of(dtype, &[batch, len]))
                .collect::<Result<_>>()?,
            sums: [sums()?, sums()?],
            coef: zeros(&[3, widest])?,
            work: conv::Work::new(&plan.layers, batch)?,
            params,
            plan,
            grads,
            layers,
        })
    }

    /// Trains only the classifier from now on: batch norm runs as in evaluation, and no other parameter
    /// changes.
    #[must_use]
    pub fn frozen(self) -> Self {
        Net { frozen: true, ..self }
    }

    /// Returns the number of bytes that a network's activations, their gradients and its parameters take in
    /// training, which is nearly all of its memory.
    ///
    /// # Errors
    /// Returns an error if there is no engine for the network or the images.
    pub fn bytes(
        network: &Network,
        shape: [usize; 3],
        classes: usize,
        batch: usize,
        dtype: DType,
    ) -> Result<u64> {
        let plan = Plan::new(network, shape).map_err(Error::msg)?;
        let raw: usize = plan.layers.iter().map(Geometry::out_len).sum();
        let stored: usize = stored(&plan).map(|size| size.iter().product::<usize>()).sum();
        let values = raw + stored + plan.largest_mixed() + plan.gradients.iter().sum::<usize>();
        let weights: usize = plan.layers.iter().map(Geometry::weight_len).sum();
        // Values, gradients and velocities; logits and their gradients.
        let floats = 3 * (weights + classes * (network.features() + 1)) + 2 * batch * classes;
        let floats = floats + conv::Work::floats(&plan.layers, batch);
        Ok((values * batch * dtype.size_in_bytes() + 4 * floats) as u64)
    }

    /// Runs forward and backward over the images in `x`, with or without mixing of hidden states. Stores the
    /// gradients and updates the running statistics.
    ///
    /// # Errors
    /// Returns an error if the output of the stage cannot be mixed, or if an operation fails.
    pub fn gradients(&self, targets: Targets, hidden: Option<Hidden>) -> Result<Loss> {
        let mixed = match hidden {
            None => None,
            Some(Hidden { stage, .. }) => Some(self.plan.mixed(stage).ok_or_else(|| {
                Error::msg(format!(
                    "the output of stage {stage} cannot be mixed; \
                     only those of stage 1 to the last but one can"
                ))
            })?),
        };
        let pairs = hidden.map(|h| h.pairs);
        let pass = Pass { net: self, batch: targets.label_a.len(), targets, pairs, loss: Cell::new(None) };
        backend::forward(&self.plan, &pass, mixed)?;
        if !self.frozen {
            backend::backward(&self.plan, &pass, mixed)?;
        }
        pass.loss.take().ok_or_else(|| Error::msg("internal error: the forward pass computed no loss"))
    }

    /// Performs one training step on the images in `x`.
    ///
    /// # Errors
    /// Returns an error if the output of the stage cannot be mixed, or if an operation fails.
    pub fn step(&self, targets: Targets, hidden: Option<Hidden>, rates: Rates) -> Result<Loss> {
        // Run on a thread of the pool: a caller outside would be put to sleep and woken again for each of the
        // operations.
        rayon::scope(|_| {
            let loss = self.gradients(targets, hidden)?;
            let Params { values, velocity, .. } = &self.params;
            if self.frozen {
                let len = self.params.classifier_len();
                let velocity = velocity.narrow(0, self.params.classifier(), len)?;
                sgd::step(&self.classifier, &self.d_classifier, &velocity, rates)?;
            } else {
                sgd::step(values, &self.grads, velocity, rates)?;
            }
            Ok(loss)
        })
    }

    /// Returns the logits of the last batch, (batch, classes).
    pub fn logits(&self) -> &Tensor {
        self.head.logits()
    }

    /// Returns the gradients, flat like the parameters; see [`Params::named`] for names and layouts.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// Returns all layers, in the order of the parameters.
    #[cfg(test)]
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

/// Returns the height, width and channels of each stored tensor: the input of each block, and the output of
/// the last block.
fn stored(plan: &Plan) -> impl Iterator<Item = [usize; 3]> {
    let input = |block| {
        let Geometry { height, width, cin, .. } = plan.stored(block);
        [height, width, cin]
    };
    (0..plan.blocks.len()).map(input).chain([plan.top_layer().out_shape()])
}

/// The forward and backward pass of a batch.
struct Pass<'a> {
    net: &'a Net,
    batch: usize,
    targets: Targets<'a>,
    /// Which images are mixed, if hidden states are mixed.
    pairs: Option<Pairs<'a>>,
    loss: Cell<Option<Loss>>,
}

impl<'a> Pass<'a> {
    fn stored(&self, stored: Stored) -> &'a Tensor {
        match stored {
            Stored::Images => &self.net.x,
            Stored::Input(block) => &self.net.stored[block],
        }
    }

    fn source(&self, input: Source) -> source::Source<'a> {
        let raw = |layer: usize| {
            let Layer { y, norm, .. } = &self.net.layers[layer];
            Raw { y, affine: &norm.affine }
        };
        input.map(|stored| self.stored(stored), raw)
    }

    fn gradient(&self, gradient: Gradient) -> &'a Tensor {
        &self.net.gradients[gradient]
    }

    /// Returns the number of values per channel that a layer's statistics are taken over.
    fn count(&self, geo: Geometry) -> usize {
        self.batch * geo.out_height() * geo.out_width()
    }

    fn pairs(&self) -> Result<Pairs<'a>> {
        self.pairs.ok_or_else(|| Error::msg("internal error: hidden states are mixed without pairs"))
    }
}

impl Engine for Pass<'_> {
    type Error = Error;

    fn conv(&self, layer: usize, input: Source, store: Option<usize>) -> Result<()> {
        let Net { layers, stored, work, sums, .. } = self.net;
        let Layer { geo, weight, norm, y, .. } = &layers[layer];
        let op = conv::Forward {
            geo: *geo,
            batch: self.batch,
            source: self.source(input),
            weight,
            store: store.map(|block| &stored[block]),
            out: y,
            sums: &sums[0],
        };
        op.run(work)?;
        match self.net.frozen {
            true => norm.evaluate(),
            false => norm.forward(&sums[0], self.batch, self.count(*geo), y),
        }
    }

    fn pool(&self, input: Source) -> Result<()> {
        let Net { layers, stored, .. } = self.net;
        pool::max(self.batch, self.source(input), &layers[0].y, &stored[0])
    }

    fn head(&self, input: Source, dz: Gradient) -> Result<()> {
        let Net { plan, layers, stored, features, head, classifier, d_classifier, criterion, sums, .. } =
            self.net;
        let out = &stored[plan.blocks.len()];
        pool::mean(self.batch, self.source(input), out, features)?;
        let loss = head.step(features, classifier, criterion, self.targets, d_classifier)?;
        self.loss.set(Some(loss));
        let y = &layers[plan.before(plan.blocks.len())].y;
        pool::mean_backward(self.batch, &head.d_features, out, y, self.gradient(dz), &sums[0])
    }
}

impl Training for Pass<'_> {
    fn mix(&self, mixed: Mixed, input: Source) -> Result<()> {
        let Net { stored, unmixed, .. } = self.net;
        blend::forward(self.pairs()?, self.source(input), unmixed, &stored[mixed.block])
    }

    fn grad(&self, layer: usize, input: Source, dz: Gradient, to: Option<InputGrad>) -> Result<()> {
        let Net { plan, layers, work, sums: [sums, others], coef, .. } = self.net;
        let Layer { geo, weight, d_weight, norm, y } = &layers[layer];
        let (geo, dz) = (*geo, self.gradient(dz));
        let of_dz = match plan.is_projection(layer) {
            true => {
                norm::sums(self.batch, geo.out_len(), geo.cout, dz, y, others)?;
                others
            }
            false => sums,
        };
        norm.backward(of_dz, self.batch, self.count(geo), [dz, y], coef)?;
        let source = self.source(input);
        let to = to.map(|InputGrad { to, residual, sums_of }| conv::InputGrad {
            dz: self.gradient(to),
            residual: match residual {
                Residual::None => Residual::None,
                Residual::InPlace => Residual::InPlace,
                Residual::Padded(of, size) => Residual::Padded(self.gradient(of), size),
            },
            // The kernel always takes the sums. Where no batch norm comes before, nothing reads them.
            y: match (sums_of, source) {
                (Some(layer), _) => &layers[layer].y,
                (None, Input::Plain(x) | Input::Normed { of: Raw { y: x, .. }, .. }) => x,
            },
            sums: if sums_of.is_some() { sums } else { others },
        });
        let op =
            conv::Backward { geo, batch: self.batch, source, weight, dz, y, coef, dw: d_weight, input: to };
        op.run(work)
    }

    fn unmix(&self, mixed: Mixed, from: Gradient, to: Gradient) -> Result<()> {
        let Net { layers, unmixed, sums, .. } = self.net;
        let y = &layers[mixed.layer].y;
        blend::backward(self.pairs()?, self.gradient(from), unmixed, y, self.gradient(to), &sums[0])
    }

    fn unpool(&self, input: Source, from: Gradient, to: Gradient) -> Result<()> {
        let Net { layers, stored, sums, .. } = self.net;
        let (from, to) = (self.gradient(from), self.gradient(to));
        pool::max_backward(self.batch, self.source(input), &layers[0].y, from, &stored[0], to, &sums[0])
    }
}
