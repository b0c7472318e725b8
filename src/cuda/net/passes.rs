//! The launches of a training step and of inference. What is launched when, and between which tensors, follows
//! `model/resnet.rs`.

use super::{DeviceNet, FEATURES, Feed, Layer, Segments};
use crate::cuda::Result;
use crate::cuda::args::{
    BackwardArgs, BlendArgs, FoldArgs, ForwardArgs, Gradient, HeadArgs, LoadArgs, Source, StepArgs,
};
use crate::cuda::kernels::{BACKWARD, BLEND, FOLD, FORWARD, HEAD, LOAD, STEP, THREADS, UNBLEND};
use crate::cuda::tiles::SCRATCH;

impl DeviceNet {
    /// Lays the weights out as the kernels take them; `moves` takes the step of SGD before.
    pub(super) fn lay_out(&self, segments: &Segments, rates: u64, moves: bool) -> Result<()> {
        let args = StepArgs {
            params: self.params.at(0),
            grads: self.grads.at(0),
            velocity: self.velocity.at(0),
            segments: segments.table.at(0),
            rates,
            count: segments.table.count() as i32,
            move_: moves.into(),
        };
        // SAFETY: the net's own memory.
        unsafe { self.device.launch(STEP, segments.blocks, 0, &args) }
    }

    /// Launches a training step on the first `images` rows of the plan's current step, which are mixed at `place`, see
    /// [`crate::methods::mix::Mix::places`].
    ///
    /// # Safety
    /// The addresses of `feed` are of live memory, large enough for the plan's steps, whose rows are in bounds.
    ///
    /// # Errors
    /// The driver's.
    pub unsafe fn step(&self, feed: &Feed, images: usize, place: usize, segments: &Segments) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe {
            self.forward(feed, images, place, true)?;
            self.backward(feed, images, place)?;
        }
        self.lay_out(segments, feed.rates, true)
    }

    /// Launches inference on the first `images` rows of the plan's current step, by the running statistics that
    /// [`DeviceNet::fold`] took.
    ///
    /// # Safety
    /// As [`DeviceNet::step`].
    ///
    /// # Errors
    /// The driver's.
    pub unsafe fn infer(&self, feed: &Feed, images: usize) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe { self.forward(feed, images, 0, false) }
    }

    /// Takes the running statistics for inference.
    ///
    /// # Errors
    /// The driver's.
    pub fn fold(&self) -> Result<()> {
        let args = FoldArgs { norms: self.norms.at(0), channels: self.channels.at(0) };
        // SAFETY: the net's own memory.
        unsafe { self.device.launch(FOLD, self.layers.len(), 0, &args) }
    }

    /// `relu(y·scale + shift + shortcut)` of a layer.
    fn normed(&self, layer: usize, shortcut: u64, kind: i32) -> Source {
        let Layer { geo, y, norm, .. } = &self.layers[layer];
        let (height, width) = (geo.out_height() as i32, geo.out_width() as i32);
        Source { y: y.at(0), affine: norm.affine, shortcut, store: 0, kind, height, width, unused: 0 }
    }

    /// The first layer of the block whose input is mixed at `place`; 0 where that is none.
    fn mixed(&self, place: usize) -> usize {
        if place == 0 { 0 } else { 1 + place * (self.layers.len() / 2 / 3) * 2 }
    }

    /// What the kernels of Manifold Mixup take, for the output of the layer before `first`.
    fn blend(&self, feed: &Feed, first: usize, images: usize) -> BlendArgs {
        let source = self.normed(first - 1, self.layers[first - 2].x.at(0), 2);
        BlendArgs {
            source: Source { store: self.unmixed.at(0), ..source },
            norm: self.layers[first - 1].norm,
            plan: feed.plan,
            step: feed.step,
            mixed: self.layers[first].x.at(0),
            images: images as i32,
            batch: self.batch as i32,
            ..BlendArgs::default()
        }
    }

    unsafe fn forward(&self, feed: &Feed, images: usize, place: usize, train: bool) -> Result<()> {
        let [height, width, _] = self.shape;
        let args = LoadArgs {
            pixels: feed.pixels,
            plan: feed.plan,
            step: feed.step,
            levels: feed.levels,
            x: self.layers[0].x.at(0),
            sums: self.sums.at(0),
            images: images as i32,
            batch: self.batch as i32,
            height: height as i32,
            width: width as i32,
            count: if train { self.sums.count() as i32 } else { 0 },
            mixes: (place == 0).into(),
        };
        // SAFETY: the caller's contract, and the net's own memory.
        unsafe { self.device.launch(LOAD, (images * height * width).div_ceil(THREADS), 0, &args)? };
        self.conv(
            0,
            Source { y: args.x, height: args.height, width: args.width, ..Source::default() },
            images,
            train,
        )?;
        let (mut shortcut, mut kind) = (0, 1);
        for first in (1..self.layers.len()).step_by(2) {
            if first == self.mixed(place) {
                let args = self.blend(feed, first, images);
                // SAFETY: the net's own memory, of a stage's output; the caller's contract.
                unsafe { self.device.launch(BLEND + place - 1, images, 0, &args)? };
                let source = Source { y: args.mixed, kind: 0, ..args.source };
                self.conv(first, source, images, train)?;
            } else {
                self.conv(first, self.normed(first - 1, shortcut, kind), images, train)?;
            }
            self.conv(first + 1, self.normed(first, 0, 1), images, train)?;
            (shortcut, kind) =
                (self.layers[first].x.at(0), if self.layers[first].geo.stride == 1 { 2 } else { 3 });
        }
        let last = self.layers.len() - 1;
        let args = HeadArgs {
            source: self.normed(last, shortcut, 2),
            plan: feed.plan,
            step: feed.step,
            linear: self.params.at(self.linear_at),
            features: feed.features,
            logits: feed.logits,
            losses: feed.losses,
            samples: self.samples.at(0),
            dz: self.d_out[2].at(0),
            linear_parts: self.linear_parts.at(0),
            counter: self.counter.at(0),
            norm: self.layers[last].norm,
            offsets: self.classwise.at(0),
            margins: if self.has_margins { self.classwise.at(self.classes) } else { 0 },
            images: images as i32,
            batch: self.batch as i32,
            classes: self.classes as i32,
            train: train.into(),
            gamma: self.gamma,
            normalised: self.normalised.into(),
        };
        let shared = (SCRATCH + 2 * FEATURES + 4 * self.classes) * 4;
        // SAFETY: as above.
        unsafe { self.device.launch(HEAD, images, shared, &args) }
    }

    fn conv(&self, n: usize, source: Source, images: usize, train: bool) -> Result<()> {
        let layer = &self.layers[n];
        let tiles = self.tiles(layer.geo, images);
        // Where the input is made of a raw output, it is stored: for backward, and of a block's first layer for the shortcut.
        let store = if source.kind > 0 && (train || n % 2 == 1) { layer.x.at(0) } else { 0 };
        let args = ForwardArgs {
            source: Source { store, ..source },
            before: self.layers[n.saturating_sub(1)].norm,
            weight: layer.weight.at(0),
            out: layer.y.at(0),
            sums: layer.norm.sums,
            images: images as i32,
            rows: tiles.forward as i32,
            train: train.into(),
            unused: 0,
        };
        // SAFETY: the net's own memory, as large as the layer's sizes and the batch ask.
        unsafe { self.device.launch(FORWARD + layer.kind, tiles.forward_blocks, tiles.forward_shared, &args) }
    }

    unsafe fn backward(&self, feed: &Feed, images: usize, place: usize) -> Result<()> {
        let mut stage = 2;
        let mut buffers: Vec<_> =
            self.d_out.iter().zip(&self.d_mid).map(|(o, m)| (o.at(0), m.at(0))).collect();
        for first in (1..self.layers.len()).step_by(2).rev() {
            let (d_out, d_mid) = buffers[stage];
            self.grad(first + 1, d_out, d_mid, self.layers[first].norm.d_sums, 0, 0, images)?;
            let (mut residual, mut half) = (1, 0);
            if self.layers[first].geo.stride == 2 {
                (residual, half) = (2, d_out);
                stage -= 1;
            }
            let (to, mixed) = (buffers[stage].0, first == self.mixed(place));
            // The gradient of a mixed output is zero where that is, and its sums mean nothing.
            let sums = if mixed { self.unread.at(0) } else { self.layers[first - 1].norm.d_sums };
            self.grad(first, d_mid, to, sums, residual, half, images)?;
            if mixed {
                let dz = buffers[stage].1;
                let args = BlendArgs { gradient: to, dz, ..self.blend(feed, first, images) };
                // SAFETY: the net's own memory, of a stage's output; the caller's contract.
                unsafe { self.device.launch(UNBLEND + place - 1, images, SCRATCH * 4, &args)? };
                buffers[stage] = (dz, to);
            }
        }
        self.grad(0, buffers[0].0, buffers[0].0, 0, 0, 0, images)
    }

    /// Both gradients of a layer, and the sums of its input's; of the stem only that of the weights, `to` and `sums` are not touched.
    #[allow(clippy::too_many_arguments)]
    fn grad(
        &self,
        n: usize,
        dz: u64,
        to: u64,
        sums: u64,
        residual: i32,
        half: u64,
        images: usize,
    ) -> Result<()> {
        let Layer { geo, kind, y, x, norm, flipped, parts, .. } = &self.layers[n];
        let tiles = self.tiles(*geo, images);
        let before = &self.layers[n.saturating_sub(1)];
        let args = BackwardArgs {
            x: x.at(0),
            gradient: Gradient {
                dz,
                y: y.at(0),
                height: geo.out_height() as i32,
                width: geo.out_width() as i32,
            },
            norm: *norm,
            weight: flipped.as_ref().map_or(0, |w| w.at(0)),
            dz: to,
            half,
            y_before: before.y.at(0),
            sums_before: sums,
            weight_parts: parts.at(0),
            height: geo.height as i32,
            width: geo.width as i32,
            images: images as i32,
            rows: tiles.input as i32,
            residual,
            out_rows: tiles.weight_rows as i32,
            groups: tiles.groups as i32,
            weight_blocks: tiles.weight_blocks as i32,
        };
        let blocks = tiles.weight_blocks + if *kind == 0 { 0 } else { tiles.input_blocks };
        // SAFETY: the net's own memory, as large as the layer's sizes and the batch ask.
        unsafe { self.device.launch(BACKWARD + kind, blocks, tiles.backward_shared, &args) }
    }
}
