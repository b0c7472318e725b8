//! A network in a GPU's memory; what it launches is in `passes`.
//!
//! Parameters, velocities and running statistics are laid out as in [`Net`], so weights files and states are read and written
//! through it.

mod passes;

use std::sync::Arc;

use super::args::{Norm, Segment};
use super::device::{Device, Memory};
use super::kernels::{BACKWARD, FORWARD, MOST_BLOCKS, NAMES, THREADS};
use super::tiles::{SCRATCH, Tiles, bytes_of, padded};
use super::{Error, Result};
use crate::model::resnet::Net;
use crate::ops::conv::Geometry;
use crate::ops::{read, write};

/// Length of the features.
const FEATURES: usize = 64;

/// Numbers that the sums of a batch norm take in `common.cu`: two limbs in four copies, and a count, of twice the channels.
fn sums_of(channels: usize) -> usize {
    (2 * 4 + 1) * 2 * channels
}

/// A convolution with its batch norm.
struct Layer {
    geo: Geometry,
    /// Place in the lists of kernels, from 0.
    kind: usize,
    /// Raw output, (batch, H', W', cout).
    y: Arc<Memory<u8>>,
    /// Its input, where backward finds it; of the stem the images are that.
    x: Arc<Memory<u8>>,
    /// What `norm` points into.
    _channels: Memory<f32>,
    norm: Norm,
    /// Weights as the kernels take them.
    weight: Memory<u8>,
    /// The same for the input gradient; not in the stem.
    flipped: Option<Memory<u8>>,
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
    /// Offsets, then margins, by class; with margins the sample's labels do not share a softmax.
    classwise: Memory<f32>,
    has_margins: bool,
    gamma: f32,
    normalised: bool,
    /// The stem, then two a block.
    layers: Vec<Layer>,
    d_out: Vec<Memory<u8>>,
    d_mid: Vec<Memory<u8>>,
    /// A stage's output before it was mixed, where it is, and sums that nobody reads.
    unmixed: Memory<u8>,
    unread: Memory<u64>,
    linear_parts: Memory<f32>,
    samples: Memory<f32>,
    /// The sums of all batch norms.
    sums: Memory<u64>,
    counter: Memory<u32>,
    norms: Memory<Norm>,
    channels: Memory<i32>,
}

impl DeviceNet {
    /// A network laid out as `net`, without its values, for images of `shape` and batches up to `batch`. Where it does not train, its layers share
    /// the memory of their activations.
    ///
    /// # Errors
    /// Sizes that the kernels do not take; [`Error::Memory`].
    pub fn new(
        device: &Device,
        net: &Net,
        shape: [usize; 3],
        batch: usize,
        trains: bool,
    ) -> Result<DeviceNet> {
        let [height, width, channels] = shape;
        if channels != 3 || width > 256 || height > 65_535 {
            return Err(Error::Size(format!(
                "images are {shape:?}; the GPU's kernels take (H ≤ 65535, W ≤ 256, 3)"
            )));
        }
        if net.classes > SCRATCH {
            return Err(Error::Size(format!("{} classes; the GPU's kernels take {SCRATCH}", net.classes)));
        }
        let bytes = bytes_of(device.precision());
        let reals = |len: usize| device.zeros::<u8>(len * bytes);
        // What only training needs is empty where there is none.
        let trained = |len: usize| if trains { len } else { 0 };
        let slots = &net.slots;
        let longest = slots.iter().map(|s| s.conv.geo.out_len()).max().unwrap_or(0);
        let len_of = |own: usize| if trains { own } else { longest };
        let len = net.params.elem_count();
        let params = device.zeros::<f32>(len)?;
        let grads = device.zeros::<f32>(trained(len))?;
        let running = device.zeros(slots.iter().map(|s| 2 * s.conv.geo.cout).sum())?;
        let sums = device.zeros(slots.iter().map(|s| 2 * sums_of(s.conv.geo.cout)).sum())?;
        let (mut layers, mut running_at, mut sums_at) = (Vec::<Layer>::new(), 0, 0);
        for slot in slots {
            let geo = slot.conv.geo;
            let (c, tiles) = (geo.cout, Tiles::new(geo, batch, bytes, device.room()));
            let shared = tiles.forward_shared.max(trained(tiles.backward_shared));
            let blocks = tiles.forward_blocks.max(trained(tiles.weight_blocks + tiles.input_blocks));
            if blocks > MOST_BLOCKS || batch * geo.out_len() > i32::MAX as usize {
                return Err(Error::Size(format!(
                    "{batch} images of {shape:?} at a time are more than the GPU's kernels take (a smaller --batch-size may do)"
                )));
            }
            if shared > device.shared() {
                let (has, n) = (device.shared(), &slot.conv.conv);
                return Err(Error::Size(format!(
                    "{n} needs {shared} bytes of shared memory, a block has {has}"
                )));
            }
            let own = device.zeros::<f32>(4 * c)?;
            let norm = Norm {
                gamma_beta: params.at(slot.gamma_beta),
                stat: own.at(0),
                affine: own.at(2 * c),
                running: running.at(running_at),
                d_gamma_beta: grads.at(trained(slot.gamma_beta)),
                sums: sums.at(sums_at),
                d_sums: sums.at(sums_at + sums_of(c)),
            };
            let names = ["3_16_1", "16_16_1", "16_32_2", "32_32_1", "32_64_2", "64_64_1"];
            let name = format!("{}_{}_{}", geo.cin, geo.cout, geo.stride);
            let Some(kind) = names.iter().position(|n| *n == name) else {
                return Err(Error::Size(format!("{}: there is no kernel for {geo:?}", slot.conv.conv)));
            };
            debug_assert!(NAMES[FORWARD + kind].ends_with(&name) && NAMES[BACKWARD + kind].ends_with(&name));
            running_at += 2 * c;
            sums_at += 2 * sums_of(c);
            // Inference reads a raw output in the next layer only, and the input of a block's first layer again in the next block.
            let (y, x) = match layers.len() {
                n @ 5.. if !trains => (layers[n - 2].y.clone(), layers[n - 4].x.clone()),
                n => {
                    let x = if n == 0 { height * width * 4 } else { len_of(geo.in_len()) };
                    (Arc::new(reals(batch * len_of(geo.out_len()))?), Arc::new(reals(batch * x)?))
                }
            };
            layers.push(Layer {
                geo,
                kind,
                y,
                x,
                _channels: own,
                norm,
                weight: reals(9 * padded(geo) * c)?,
                flipped: if trains && kind != 0 { Some(reals(geo.weight_len())?) } else { None },
                parts: device.zeros(trained(tiles.groups * 9 * padded(geo) * c))?,
                weight_at: slot.weight,
                gamma_beta_at: slot.gamma_beta,
            });
        }
        let table: Vec<Norm> = layers.iter().map(|l| l.norm).collect();
        let channels: Vec<i32> = layers.iter().map(|l| l.geo.cout as i32).collect();
        let blocks = layers.len() / 2;
        let end = |stage: usize| layers[2 * ((stage + 1) * blocks / 3)].geo.out_len();
        let gradients = || (0..3).map(|s| reals(trained(batch * end(s)))).collect::<Result<Vec<_>>>();
        Ok(DeviceNet {
            classes: net.classes,
            batch,
            shape,
            velocity: device.zeros(trained(len))?,
            linear_at: net.linear_at,
            classwise: device.upload(&[&net.criterion.offsets[..], &net.criterion.margins].concat())?,
            has_margins: net.criterion.has_margins(),
            gamma: net.criterion.gamma,
            normalised: net.criterion.normalised,
            d_out: gradients()?,
            d_mid: gradients()?,
            unmixed: reals(trained(batch * end(0)))?,
            unread: device.zeros(trained(sums_of(64)))?,
            linear_parts: device.zeros(trained(batch * net.classes * (FEATURES + 1)))?,
            samples: device.zeros(2 * batch)?,
            sums,
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
        if self.velocity.count() > 0 {
            self.velocity.write(0, &read(&net.velocity)?)?;
        }
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

    /// Takes parameters and running statistics from another network on the device.
    ///
    /// # Errors
    /// The driver's.
    pub fn copy(&self, net: &DeviceNet, segments: &Segments) -> Result<()> {
        self.params.copy(&net.params)?;
        self.running.copy(&net.running)?;
        self.lay_out(segments, 0, false)
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

    /// How a layer is cut for some images.
    fn tiles(&self, geo: Geometry, images: usize) -> Tiles {
        Tiles::new(geo, images, bytes_of(self.device.precision()), self.device.room())
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
        for layer in &self.layers {
            let geo = layer.geo;
            push(Segment {
                parts: layer.parts.at(0),
                forward: layer.weight.at(0),
                backward: layer.flipped.as_ref().map_or(0, |w| w.at(0)),
                start: layer.weight_at as u32,
                len: geo.weight_len() as u32,
                groups: self.tiles(geo, images).groups as i32,
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
}
