//! A network in a GPU's memory, and the launches of a training step and of inference.
//!
//! Parameters, velocities and running statistics are laid out as in [`Net`], so weights files and states are read and written
//! through it. What is launched when, and between which tensors, follows `model/resnet.rs`.

use super::args::{
    BackwardArgs, FoldArgs, ForwardArgs, Gradient, HeadArgs, LoadArgs, Norm, Segment, Source, StepArgs,
};
use super::device::{Device, Memory};
use super::kernels::{NAMES, THREADS};
use super::tiles::{Tiles, bytes_of, padded};
use super::{Error, Result};
use crate::model::resnet::Net;
use crate::ops::conv::Geometry;
use crate::ops::{read, write};

/// Length of the features.
const FEATURES: usize = 64;

/// The kernels of the steps, as [`NAMES`] numbers them.
const LOAD: usize = 0;
const FORWARD: usize = 1;
const HEAD: usize = 7;
const BACKWARD: usize = 8;
const STEP: usize = 14;
const FOLD: usize = 15;

/// A convolution with its batch norm.
struct Layer {
    geo: Geometry,
    /// Place in the lists of kernels, from 0.
    kind: usize,
    /// Raw output, (batch, H', W', cout).
    y: Memory<u8>,
    /// What `norm` and `folded` point into.
    _channels: Memory<f32>,
    norm: Norm,
    /// Scale and shift from the running statistics.
    folded: u64,
    /// Weights as the kernels take them.
    weight: Memory<u8>,
    flipped: Memory<u8>,
    /// Parts of the weight gradient.
    parts: Memory<f32>,
    weight_at: usize,
    gamma_beta_at: usize,
}

/// Where a step finds its images; addresses of device memory.
#[derive(Clone, Copy, Default)]
pub struct Feed {
    /// (N, H, W, 3) bytes.
    pub pixels: u64,
    /// Rows of the plan; a step's begin at step · batch.
    pub plan: u64,
    /// Number of the step, which it advances.
    pub step: u64,
    /// (3, 256) values of the bytes.
    pub levels: u64,
    /// Features: of the step in training, of all rows of the plan in inference.
    pub features: u64,
    /// Logits, likewise.
    pub logits: u64,
    /// (steps, 2): loss and right predictions; training only.
    pub losses: u64,
    /// Learning rate, momentum, weight decay; training only.
    pub rates: u64,
}

/// Parameters that the last kernel of a step moves, for one size of batch.
pub struct Segments {
    table: Memory<Segment>,
    blocks: usize,
}

/// A network with everything that a step needs, for batches up to a size.
pub struct DeviceNet {
    device: Device,
    classes: usize,
    batch: usize,
    shape: [usize; 3],
    params: Memory<f32>,
    /// Gradients, flat as the parameters.
    pub grads: Memory<f32>,
    velocity: Memory<f32>,
    running: Memory<f32>,
    linear_at: usize,
    /// The stem, then two a block.
    layers: Vec<Layer>,
    /// (batch, H, W, 4).
    x: Memory<u8>,
    /// Inputs of the blocks.
    outs: Vec<Memory<u8>>,
    d_out: Vec<Memory<u8>>,
    d_mid: Vec<Memory<u8>>,
    linear_parts: Memory<f32>,
    samples: Memory<f32>,
    partial: Memory<f32>,
    counter: Memory<u32>,
    norms: Memory<Norm>,
    channels: Memory<i32>,
}

impl DeviceNet {
    /// A network laid out as `net`, without its values, for images of `shape` and batches up to `batch`.
    ///
    /// # Errors
    /// Sizes that the kernels do not take; [`Error::Memory`].
    pub fn new(device: &Device, net: &Net, shape: [usize; 3], batch: usize) -> Result<DeviceNet> {
        let [height, width, channels] = shape;
        if channels != 3 || width > 256 {
            return Err(Error::Size(format!("images are {shape:?}; the GPU's kernels take (H, W ≤ 256, 3)")));
        }
        let bytes = bytes_of(device.precision());
        let reals = |len: usize| device.zeros::<u8>(len * bytes);
        let slots = &net.slots;
        let len = net.params.elem_count();
        let params = device.zeros::<f32>(len)?;
        let grads = device.zeros::<f32>(len)?;
        let running = device.zeros(slots.iter().map(|s| 2 * s.conv.geo.cout).sum())?;
        let (mut layers, mut running_at, mut partial) = (vec![], 0, batch * 2 * FEATURES);
        for slot in slots {
            let geo = slot.conv.geo;
            let (c, tiles) = (geo.cout, Tiles::new(geo, batch, bytes));
            let shared = tiles.forward_shared.max(tiles.backward_shared);
            if shared > device.shared() {
                let (has, n) = (device.shared(), &slot.conv.conv);
                return Err(Error::Size(format!(
                    "{n} needs {shared} bytes of shared memory, a block has {has}"
                )));
            }
            let own = device.zeros::<f32>(9 * c)?;
            let norm = Norm {
                gamma_beta: params.at(slot.gamma_beta),
                stat: own.at(0),
                affine: own.at(2 * c),
                running: running.at(running_at),
                d_gamma_beta: grads.at(slot.gamma_beta),
                coef: own.at(4 * c),
            };
            let names = ["3_16_1", "16_16_1", "16_32_2", "32_32_1", "32_64_2", "64_64_1"];
            let name = format!("{}_{}_{}", geo.cin, geo.cout, geo.stride);
            let Some(kind) = names.iter().position(|n| *n == name) else {
                return Err(Error::Size(format!("{}: there is no kernel for {geo:?}", slot.conv.conv)));
            };
            debug_assert!(NAMES[FORWARD + kind].ends_with(&name) && NAMES[BACKWARD + kind].ends_with(&name));
            running_at += 2 * c;
            partial = partial.max(tiles.forward_blocks * 2 * c).max(tiles.input_blocks * 2 * padded(geo));
            layers.push(Layer {
                geo,
                kind,
                y: reals(batch * geo.out_len())?,
                folded: own.at(7 * c),
                _channels: own,
                norm,
                weight: reals(9 * padded(geo) * c)?,
                flipped: reals(if kind == 0 { 0 } else { geo.weight_len() })?,
                parts: device.zeros(tiles.groups * 9 * padded(geo) * c)?,
                weight_at: slot.weight,
                gamma_beta_at: slot.gamma_beta,
            });
        }
        let table: Vec<Norm> = layers.iter().map(|l| Norm { affine: l.folded, ..l.norm }).collect();
        let channels: Vec<i32> = layers.iter().map(|l| l.geo.cout as i32).collect();
        let blocks = layers.len() / 2;
        let end = |stage: usize| layers[2 * ((stage + 1) * blocks / 3)].geo.out_len();
        let gradients = || (0..3).map(|s| reals(batch * end(s))).collect::<Result<Vec<_>>>();
        Ok(DeviceNet {
            classes: net.classes,
            batch,
            shape,
            velocity: device.zeros(len)?,
            linear_at: net.linear_at,
            x: reals(batch * height * width * 4)?,
            outs: (0..blocks)
                .map(|b| reals(batch * layers[2 * b + 1].geo.in_len()))
                .collect::<Result<_>>()?,
            d_out: gradients()?,
            d_mid: gradients()?,
            linear_parts: device.zeros(batch * net.classes * (FEATURES + 1))?,
            samples: device.zeros(2 * batch)?,
            partial: device.zeros(partial)?,
            counter: device.zeros(1)?,
            norms: device.upload(&table)?,
            channels: device.upload(&channels)?,
            device: device.clone(),
            params,
            grads,
            running,
            layers,
        })
    }

    /// Takes parameters, velocities and running statistics from the host.
    ///
    /// # Errors
    /// Candle's and the driver's.
    pub fn take(&self, net: &Net) -> anyhow::Result<()> {
        self.params.write(0, &read(&net.params)?)?;
        self.velocity.write(0, &read(&net.velocity)?)?;
        let mut at = 0;
        for layer in net.layers() {
            let running = read(&layer.running)?;
            self.running.write(at, &running)?;
            at += running.len();
        }
        let segments = self.segments(1)?;
        self.lay_out(&segments, 0, false)?;
        Ok(self.device.wait()?)
    }

    /// Gives parameters, velocities and running statistics to the host.
    ///
    /// # Errors
    /// Candle's and the driver's.
    pub fn give(&self, net: &Net) -> anyhow::Result<()> {
        let copy = |to: &candle_core::Tensor, from: Vec<f32>| {
            write(to, |to| {
                to.copy_from_slice(&from);
                Ok(())
            })
        };
        copy(&net.params, self.params.read(0, self.params.count())?)?;
        copy(&net.velocity, self.velocity.read(0, self.velocity.count())?)?;
        let mut at = 0;
        for layer in net.layers() {
            let len = layer.running.elem_count();
            copy(&layer.running, self.running.read(at, len)?)?;
            at += len;
        }
        Ok(())
    }

    /// The raw outputs of a layer's first `images` images.
    ///
    /// # Errors
    /// The driver's.
    #[cfg(test)]
    pub fn raw(&self, layer: usize, images: usize) -> Result<Vec<f32>> {
        let Layer { geo, y, .. } = &self.layers[layer];
        let bytes = bytes_of(self.device.precision());
        let raw = y.read(0, images * geo.out_len() * bytes)?;
        // The upper half of an f32 is a bf16.
        let value = |b: &[u8]| match *b {
            [a, b] => f32::from_le_bytes([0, 0, a, b]),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("a value has two or four bytes"),
        };
        Ok(raw.chunks_exact(bytes).map(value).collect())
    }

    /// The parameters' treatment in the last kernel of a step of `images` images.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn segments(&self, images: usize) -> Result<Segments> {
        let (mut table, mut blocks) = (vec![], 0);
        let mut push = |s: Segment| {
            table.push(Segment { first_block: blocks as i32, ..s });
            blocks += (s.len as usize).div_ceil(THREADS);
        };
        let bytes = bytes_of(self.device.precision());
        for layer in &self.layers {
            let geo = layer.geo;
            push(Segment {
                parts: layer.parts.at(0),
                forward: layer.weight.at(0),
                backward: if layer.kind == 0 { 0 } else { layer.flipped.at(0) },
                start: layer.weight_at as u32,
                len: geo.weight_len() as u32,
                groups: Tiles::new(geo, images, bytes).groups as i32,
                cin: geo.cin as i32,
                cin_padded: padded(geo) as i32,
                cout: geo.cout as i32,
                ..Segment::default()
            });
            let (start, len) = (layer.gamma_beta_at as u32, 2 * geo.cout as u32);
            push(Segment { start, len, ..Segment::default() });
        }
        push(Segment {
            parts: self.linear_parts.at(0),
            start: self.linear_at as u32,
            len: (self.classes * (FEATURES + 1)) as u32,
            groups: images as i32,
            ..Segment::default()
        });
        Ok(Segments { table: self.device.upload(&table)?, blocks })
    }

    fn lay_out(&self, segments: &Segments, rates: u64, moves: bool) -> Result<()> {
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
