//! The launches of a training step and of inference. What is launched when, and between which tensors, follows
//! `model/resnet.rs`.

use super::{DeviceNet, FEATURES, Feed, Layer, Segments};
use crate::cuda::Result;
use crate::cuda::args::{
    BackwardArgs, FoldArgs, ForwardArgs, Gradient, HeadArgs, LoadArgs, Source, StepArgs,
};
use crate::cuda::device::Memory;
use crate::cuda::kernels::{BACKWARD, FOLD, FORWARD, HEAD, LOAD, STEP, THREADS};
use crate::cuda::tiles::{Tiles, bytes_of};
use crate::ops::conv::Geometry;

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
    fn normed(&self, layer: usize, shortcut: u64, kind: i32, train: bool) -> Source {
        let Layer { geo, y, norm, folded, .. } = &self.layers[layer];
        let affine = if train { norm.affine } else { *folded };
        let (height, width) = (geo.out_height() as i32, geo.out_width() as i32);
        Source { y: y.at(0), affine, shortcut, store: 0, kind, height, width, unused: 0 }
    }

    /// Values as they are.
    fn plain(&self, from: &Memory<u8>, geo: Geometry) -> Source {
        let (height, width) = (geo.height as i32, geo.width as i32);
        Source { y: from.at(0), height, width, ..Source::default() }
    }

    unsafe fn forward(&self, feed: &Feed, images: usize, train: bool) -> Result<()> {
        let [height, width, _] = self.shape;
        let args = LoadArgs {
            pixels: feed.pixels,
            plan: feed.plan,
            step: feed.step,
            levels: feed.levels,
            x: self.x.at(0),
            images: images as i32,
            batch: self.batch as i32,
            height: height as i32,
            width: width as i32,
        };
        // SAFETY: the caller's contract, and the net's own memory.
        unsafe { self.device.launch(LOAD, (images * height * width).div_ceil(THREADS), 0, &args)? };
        self.conv(0, self.plain(&self.x, self.layers[0].geo), images, train)?;
        let (mut shortcut, mut kind) = (0, 1);
        for (block, out) in self.outs.iter().enumerate() {
            let first = 2 * block + 1;
            let source = Source { store: out.at(0), ..self.normed(first - 1, shortcut, kind, train) };
            self.conv(first, source, images, train)?;
            self.conv(first + 1, self.normed(first, 0, 1, train), images, train)?;
            (shortcut, kind) = (out.at(0), if self.layers[first].geo.stride == 1 { 2 } else { 3 });
        }
        let last = self.layers.len() - 1;
        let args = HeadArgs {
            source: self.normed(last, shortcut, 2, train),
            plan: feed.plan,
            step: feed.step,
            linear: self.params.at(self.linear_at),
            features: feed.features,
            logits: feed.logits,
            losses: feed.losses,
            samples: self.samples.at(0),
            dz: self.d_out[2].at(0),
            linear_parts: self.linear_parts.at(0),
            partial: self.partial.at(0),
            counter: self.counter.at(0),
            norm: self.layers[last].norm,
            images: images as i32,
            batch: self.batch as i32,
            classes: self.classes as i32,
            train: train.into(),
        };
        let shared = (16 * THREADS + 2 * FEATURES + self.classes) * 4;
        // SAFETY: as above.
        unsafe { self.device.launch(HEAD, images, shared, &args) }
    }

    fn conv(&self, n: usize, source: Source, images: usize, train: bool) -> Result<()> {
        let layer = &self.layers[n];
        let tiles = Tiles::new(layer.geo, images, bytes_of(self.device.precision()));
        let args = ForwardArgs {
            source,
            weight: layer.weight.at(0),
            out: layer.y.at(0),
            partial: self.partial.at(0),
            counter: self.counter.at(0),
            norm: layer.norm,
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
        for block in (0..self.outs.len()).rev() {
            let (first, second) = (2 * block + 1, 2 * block + 2);
            let mid = BackwardArgs {
                source: self.normed(first, 0, 1, true),
                dz: self.d_mid[stage].at(0),
                norm: self.layers[first].norm,
                ..BackwardArgs::default()
            };
            self.grad(second, &self.d_out[stage], mid, images)?;
            let d_mid = &self.d_mid[stage];
            let (mut residual, mut half) = (1, 0);
            if self.layers[first].geo.stride == 2 {
                (residual, half) = (2, self.d_out[stage].at(0));
                stage -= 1;
            }
            let before = &self.layers[first - 1];
            let out = BackwardArgs {
                source: self.plain(&self.outs[block], self.layers[first].geo),
                dz: self.d_out[stage].at(0),
                y_before: before.y.at(0),
                norm: before.norm,
                residual,
                half,
                ..BackwardArgs::default()
            };
            self.grad(first, d_mid, out, images)?;
        }
        let source = self.plain(&self.x, self.layers[0].geo);
        self.grad(0, &self.d_out[0], BackwardArgs { source, ..BackwardArgs::default() }, images)
    }

    /// Both gradients of a layer; of the stem only that of the weights.
    fn grad(&self, n: usize, dz: &Memory<u8>, args: BackwardArgs, images: usize) -> Result<()> {
        let Layer { geo, kind, y, norm, flipped, parts, .. } = &self.layers[n];
        let tiles = Tiles::new(*geo, images, bytes_of(self.device.precision()));
        let args = BackwardArgs {
            gradient: Gradient {
                dz: dz.at(0),
                y: y.at(0),
                coef: norm.coef,
                height: geo.out_height() as i32,
                width: geo.out_width() as i32,
            },
            weight: flipped.at(0),
            partial: self.partial.at(0),
            counter: self.counter.at(0),
            weight_parts: parts.at(0),
            images: images as i32,
            rows: tiles.input as i32,
            out_rows: tiles.forward as i32,
            groups: tiles.groups as i32,
            weight_blocks: tiles.weight_blocks as i32,
            ..args
        };
        let blocks = tiles.weight_blocks + if *kind == 0 { 0 } else { tiles.input_blocks };
        // SAFETY: the net's own memory, as large as the layer's sizes and the batch ask.
        unsafe { self.device.launch(BACKWARD + kind, blocks, tiles.backward_shared, &args) }
    }
}
