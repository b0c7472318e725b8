//! The launches of a training step and of inference: the operations of [`Engine`], in the order of
//! [`backend::forward`] and [`backend::backward`].

use super::{DeviceNet, FEATURES, Feed, Layer, Segments, TrainingFeed};
use crate::backend::cuda::Result;
use crate::backend::cuda::args::{
    BackwardArgs, BlendArgs, FoldArgs, ForwardArgs, Gradient, HeadArgs, IDENTITY, IN_PLACE, LoadArgs,
    NO_RESIDUAL, NORMED, PADDED, PLAIN, Source, StepArgs, THROUGH_PADDED,
};
use crate::backend::cuda::device::Memory;
use crate::backend::cuda::kernels::{BACKWARD, BLEND, FOLD, FORWARD, HEAD, LOAD, STEP, UNBLEND};
use crate::backend::cuda::tiles::{SCRATCH, THREADS};
use crate::backend::{self, Engine, Input, InputGrad, Mixed, Residual, Shortcut, Stored, Training};

impl DeviceNet {
    /// Copies the weights into the kernels' layout; with `rates`, takes the step of SGD first.
    ///
    /// # Safety
    /// The segments must be those of this network. With `rates`, the contract of [`DeviceNet::step`] applies.
    pub(super) unsafe fn lay_out(&self, segments: &Segments, rates: Option<&Memory<f32>>) -> Result<()> {
        let args = StepArgs {
            params: self.params.at(0),
            grads: self.grads.at(0),
            velocity: self.velocity.at(0),
            segments: segments.table.at(0),
            rates: rates.map_or(0, |rates| rates.at(0)),
            count: segments.table.count() as i32,
            moves: rates.is_some().into(),
        };
        // SAFETY: the caller's contract; the other addresses are those of the network's own memory.
        unsafe { self.device.launch(STEP, segments.blocks, 0, &args) }
    }

    /// Launches a training step on the first `images` rows of the plan's current step, which are mixed at
    /// `mix_point`, see [`crate::methods::mix::Mix::mix_points`].
    ///
    /// # Safety
    /// The network must have been created with a criterion and for batches of `images` images or more, and
    /// `segments` must be the result of its [`DeviceNet::segments`] for `images`. Whenever the step runs, all
    /// of this memory must be live, and `feed` and `training` must be large enough for the step's number. In
    /// the step's rows, `index` must be the position of an image in `feed.pixels`, both labels must be below
    /// the number of classes, and `partner` must be below `images`. At mix points other than 0, the partners
    /// must also be a permutation.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub unsafe fn step(
        &self,
        feed: &Feed,
        training: &TrainingFeed,
        images: usize,
        mix_point: usize,
        segments: &Segments,
    ) -> Result<()> {
        let pass = Pass { net: self, feed, training: Some(training), images, mix_point };
        let mixed = self.plan.mixed(mix_point);
        // SAFETY: the caller's contract.
        unsafe { pass.load()? };
        backend::forward(&self.plan, &pass, mixed)?;
        backend::backward(&self.plan, &pass, mixed)?;
        // SAFETY: the caller's contract.
        unsafe { self.lay_out(segments, Some(&training.rates)) }
    }

    /// Launches inference on the first `images` rows of the plan's current step, with the running statistics
    /// that [`DeviceNet::fold`] has prepared.
    ///
    /// # Safety
    /// The contract of [`DeviceNet::step`] applies, except for what concerns training.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub unsafe fn infer(&self, feed: &Feed, images: usize) -> Result<()> {
        let pass = Pass { net: self, feed, training: None, images, mix_point: 0 };
        // SAFETY: the caller's contract.
        unsafe { pass.load()? };
        backend::evaluate(&self.plan, &pass)
    }

    /// Computes the scales and shifts of inference from the running statistics.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub fn fold(&self) -> Result<()> {
        let args = FoldArgs { norms: self.norms.at(0), channels: self.channels.at(0) };
        // SAFETY: the addresses are those of the network's own memory.
        unsafe { self.device.launch(FOLD, self.layers.len(), 0, &args) }
    }
}

/// A pass over the first images of the plan's current step.
struct Pass<'a> {
    net: &'a DeviceNet,
    feed: &'a Feed,
    /// `None` in inference.
    training: Option<&'a TrainingFeed>,
    images: usize,
    /// Where the step is mixed, see [`crate::methods::mix::Mix::mix_points`].
    mix_point: usize,
}

impl Pass<'_> {
    /// Launches the loading of the images. All later launches of the pass use the feed as well.
    ///
    /// # Safety
    /// The contract of [`DeviceNet::step`] or, in inference, of [`DeviceNet::infer`] applies.
    unsafe fn load(&self) -> Result<()> {
        let net = self.net;
        let [height, width, _] = net.shape;
        let args = LoadArgs {
            pixels: self.feed.pixels.at(0),
            plan: self.feed.plan.at(0),
            step: self.feed.step.at(0),
            levels: self.feed.levels.at(0),
            x: net.layers[0].x.at(0),
            sums: net.sums.at(0),
            images: self.images as i32,
            batch: net.batch as i32,
            height: height as i32,
            width: width as i32,
            count: self.training.map_or(0, |_| net.sums.count() as i32),
            mixes: (self.mix_point == 0).into(),
        };
        // SAFETY: the caller's contract; the other addresses are those of the network's own memory.
        unsafe { net.device.launch(LOAD, (self.images * height * width).div_ceil(THREADS), 0, &args) }
    }

    /// Returns the address of the stored input of a block.
    fn stored(&self, block: usize) -> u64 {
        self.net.layers[self.net.plan.blocks[block].first].x.at(0)
    }

    fn gradient(&self, gradient: backend::Gradient) -> u64 {
        self.net.gradients[gradient].at(0)
    }

    fn source(&self, input: backend::Source) -> Source {
        let net = self.net;
        let of = |address: u64, height: usize, width: usize| Source {
            y: address,
            kind: PLAIN,
            height: height as i32,
            width: width as i32,
            ..Source::default()
        };
        match input {
            Input::Plain(Stored::Images) => of(net.layers[0].x.at(0), net.shape[0], net.shape[1]),
            Input::Plain(Stored::Input(block)) => {
                let geo = net.plan.stored(block);
                of(self.stored(block), geo.height, geo.width)
            }
            Input::Normed { of: layer, shortcut } => {
                let Layer { geo, y, norm, .. } = &net.layers[layer];
                let (shortcut, kind) = match shortcut {
                    Shortcut::Identity(Stored::Input(block)) => (self.stored(block), IDENTITY),
                    Shortcut::Padded(Stored::Input(block)) => (self.stored(block), PADDED),
                    _ => (0, NORMED),
                };
                let source = of(y.at(0), geo.out_height(), geo.out_width());
                Source { affine: norm.affine, shortcut, kind, ..source }
            }
        }
    }

    /// Returns the arguments of the kernels of Manifold Mixup.
    fn blend(&self, Mixed { block, layer }: Mixed) -> BlendArgs {
        let net = self.net;
        let source = self.source(backend::output(&net.plan, block));
        BlendArgs {
            source: Source { store: net.unmixed.at(0), ..source },
            norm: net.layers[layer].norm,
            plan: self.feed.plan.at(0),
            step: self.feed.step.at(0),
            mixed: self.stored(block),
            images: self.images as i32,
            batch: net.batch as i32,
            ..BlendArgs::default()
        }
    }
}

impl Engine for Pass<'_> {
    type Error = crate::backend::cuda::Error;

    fn conv(&self, n: usize, input: backend::Source, store: Option<usize>) -> Result<()> {
        let (net, layer) = (self.net, &self.net.layers[n]);
        let tiles = net.tiles(layer.geo, self.images);
        // The backward pass expects every input that is computed from a raw output to be stored with its
        // layer.
        let made = matches!(input, Input::Normed { .. });
        let store = if store.is_some() || (made && self.training.is_some()) { layer.x.at(0) } else { 0 };
        let args = ForwardArgs {
            source: Source { store, ..self.source(input) },
            before: net.layers[n.saturating_sub(1)].norm,
            weight: layer.weight.at(0),
            out: layer.y.at(0),
            sums: layer.norm.sums,
            images: self.images as i32,
            rows: tiles.forward as i32,
            train: self.training.is_some().into(),
            unused: 0,
        };
        // SAFETY: the addresses are those of the network's own memory, which is as large as the layer's sizes
        // and the batch require.
        unsafe { net.device.launch(FORWARD + layer.kind, tiles.forward_blocks, tiles.forward_shared, &args) }
    }

    fn pool(&self, _: backend::Source) -> Result<()> {
        unreachable!("`supports` refuses networks with a max-pool")
    }

    fn head(&self, input: backend::Source, dz: backend::Gradient) -> Result<()> {
        let (net, feed) = (self.net, self.feed);
        let args = HeadArgs {
            source: self.source(input),
            plan: feed.plan.at(0),
            step: feed.step.at(0),
            linear: net.params.at(net.linear_at),
            features: feed.features.at(0),
            logits: feed.logits.at(0),
            losses: self.training.map_or(0, |training| training.losses.at(0)),
            samples: net.samples.at(0),
            dz: self.gradient(dz),
            linear_parts: net.linear_parts.at(0),
            counter: net.counter.at(0),
            norm: net.layers[net.layers.len() - 1].norm,
            offsets: net.classwise.at(0),
            margins: if net.has_margins { net.classwise.at(net.classes) } else { 0 },
            scales: if net.has_scales { net.classwise.at(2 * net.classes) } else { 0 },
            images: self.images as i32,
            batch: net.batch as i32,
            classes: net.classes as i32,
            train: self.training.is_some().into(),
            gamma: net.gamma,
            normalised: net.normalised.into(),
        };
        let shared = (SCRATCH + 2 * FEATURES + 4 * net.classes) * 4;
        // SAFETY: the addresses are those of the network's own memory and of the feeds, for which the
        // contract of `load` was upheld.
        unsafe { net.device.launch(HEAD, self.images, shared, &args) }
    }
}

impl Training for Pass<'_> {
    fn mix(&self, mixed: Mixed, _: backend::Source) -> Result<()> {
        let args = self.blend(mixed);
        // SAFETY: `blend` uses the network's own memory and the feed, for which the contract of `load` was
        // upheld.
        unsafe { self.net.device.launch(BLEND + self.mix_point - 1, self.images, 0, &args) }
    }

    fn grad(&self, n: usize, _: backend::Source, dz: backend::Gradient, to: Option<InputGrad>) -> Result<()> {
        let net = self.net;
        let Layer { geo, kind, y, x, norm, flipped, parts, .. } = &net.layers[n];
        let tiles = net.tiles(*geo, self.images);
        let mut args = BackwardArgs {
            x: x.at(0),
            gradient: Gradient {
                dz: self.gradient(dz),
                y: y.at(0),
                height: geo.out_height() as i32,
                width: geo.out_width() as i32,
            },
            norm: *norm,
            weight_parts: parts.at(0),
            height: geo.height as i32,
            width: geo.width as i32,
            images: self.images as i32,
            out_rows: tiles.weight_rows as i32,
            groups: tiles.groups as i32,
            weight_blocks: tiles.weight_blocks as i32,
            ..BackwardArgs::default()
        };
        let mut blocks = tiles.weight_blocks;
        // The gradient of the stem's input is not computed.
        if let Some(InputGrad { to, residual, sums_of }) = to {
            blocks += tiles.input_blocks;
            args.weight = flipped.as_ref().expect("every layer but the stem has flipped weights").at(0);
            args.dz = self.gradient(to);
            (args.residual, args.half) = match residual {
                Residual::None => (NO_RESIDUAL, 0),
                Residual::InPlace => (IN_PLACE, 0),
                Residual::Padded(of, _) => (THROUGH_PADDED, self.gradient(of)),
            };
            args.y_before = net.layers[sums_of.unwrap_or(n - 1)].y.at(0);
            args.sums_before = sums_of.map_or(net.unread.at(0), |layer| net.layers[layer].norm.d_sums);
            args.rows = tiles.input as i32;
        }
        // SAFETY: the addresses are those of the network's own memory, which is as large as the layer's sizes
        // and the batch require.
        unsafe { net.device.launch(BACKWARD + kind, blocks, tiles.backward_shared, &args) }
    }

    fn unmix(&self, mixed: Mixed, from: backend::Gradient, to: backend::Gradient) -> Result<()> {
        let args = BlendArgs { gradient: self.gradient(from), dz: self.gradient(to), ..self.blend(mixed) };
        // SAFETY: the gradients are in the network's own memory. `blend` uses this memory and the feed, for
        // which the contract of `load` was upheld.
        unsafe { self.net.device.launch(UNBLEND + self.mix_point - 1, self.images, SCRATCH * 4, &args) }
    }

    fn unpool(&self, _: backend::Source, _: backend::Gradient, _: backend::Gradient) -> Result<()> {
        unreachable!("`supports` refuses networks with a max-pool")
    }
}
