//! The launches of a training step and of inference. What is launched when, and between which tensors, follows
//! `model/resnet.rs`.

use super::{DeviceNet, FEATURES, Feed, Layer, Segments};
use crate::cuda::Result;
use crate::cuda::args::{
    BackwardArgs, FoldArgs, ForwardArgs, Gradient, HeadArgs, LoadArgs, Source, StepArgs,
};
use crate::cuda::device::Memory;
use crate::cuda::kernels::{BACKWARD, FOLD, FORWARD, HEAD, LOAD, STEP, THREADS};
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

    /// Launches a training step on the first `images` rows of the plan's current step.
    ///
    /// # Safety
    /// The addresses of `feed` are of live memory, large enough for the plan's steps, whose rows are in bounds.
    ///
    /// # Errors
    /// The driver's.
    pub unsafe fn step(&self, feed: &Feed, images: usize, segments: &Segments) -> Result<()> {
        // SAFETY: the caller's contract.
        unsafe {
            self.forward(feed, images, true)?;
            self.backward(images)?;
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
        unsafe { self.forward(feed, images, false) }
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

    unsafe fn forward(&self, feed: &Feed, images: usize, train: bool) -> Result<()> {
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
            unused: 0,
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
            self.conv(first, self.normed(first - 1, shortcut, kind), images, train)?;
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
        let store = if n > 0 && (train || n % 2 == 1) { layer.x.at(0) } else { 0 };
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

    unsafe fn backward(&self, images: usize) -> Result<()> {
        let mut stage = 2;
        for first in (1..self.layers.len()).step_by(2).rev() {
            self.grad(first + 1, &self.d_out[stage], &self.d_mid[stage], 0, 0, images)?;
            let d_mid = &self.d_mid[stage];
            let (mut residual, mut half) = (1, 0);
            if self.layers[first].geo.stride == 2 {
                (residual, half) = (2, self.d_out[stage].at(0));
                stage -= 1;
            }
            self.grad(first, d_mid, &self.d_out[stage], residual, half, images)?;
        }
        self.grad(0, &self.d_out[0], &self.d_out[0], 0, 0, images)
    }

    /// Both gradients of a layer; of the stem only that of the weights, `to` is not touched.
    fn grad(
        &self,
        n: usize,
        dz: &Memory<u8>,
        to: &Memory<u8>,
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
                dz: dz.at(0),
                y: y.at(0),
                height: geo.out_height() as i32,
                width: geo.out_width() as i32,
            },
            norm: *norm,
            weight: flipped.as_ref().map_or(0, |w| w.at(0)),
            dz: to.at(0),
            half,
            y_before: before.y.at(0),
            sums_before: before.norm.d_sums,
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
