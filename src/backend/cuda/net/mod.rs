//! A network in a GPU's memory; its launches are in `passes`.
//!
//! Parameters, velocities and running statistics have the layout of [`Params`], through which weights files
//! and training states are read and written.

mod passes;

use std::sync::Arc;

use super::args::{COPIES, Norm, Row, Segment};
use super::device::{Device, Memory};
use super::kernels::{FORWARD, MAX_BLOCKS, NAMES};
use super::tiles::{SCRATCH, THREADS, Tiles, padded};
use super::{Error, Result};
use crate::backend::Plan;
use crate::methods::loss::Criterion;
use crate::net::params::Slot;
use crate::net::{ClassifierKind, Conv, Geometry, Network, Params, Shortcut};
use crate::tensor::{read, write};

/// Length of the features that the head's kernel takes.
const FEATURES: usize = 64;

/// Returns how many integers the sums of a batch norm take in `common.cu`: for each of two sums per channel,
/// two limbs in [`COPIES`] copies, and a count.
fn sums_of(channels: usize) -> usize {
    (2 * COPIES as usize + 1) * 2 * channels
}

/// A convolution with its batch norm.
struct Layer {
    geo: Geometry,
    /// Index into the lists of convolution kernels, from 0.
    kind: usize,
    /// The raw output, (batch, H', W', cout).
    y: Arc<Memory<u8>>,
    /// The input, stored for the backward pass; for the stem, the images.
    x: Arc<Memory<u8>>,
    /// The memory of `stat` and `affine` of `norm`.
    _channels: Memory<f32>,
    norm: Norm,
    /// The weights in the kernels' layout.
    weight: Memory<u8>,
    /// The weights for the input gradient; the stem has none.
    flipped: Option<Memory<u8>>,
    /// The parts of the weight gradient.
    parts: Memory<f32>,
    weight_at: usize,
    gamma_beta_at: usize,
}

/// The inputs and outputs of the steps of a run. Recorded graphs contain the addresses of this memory, so it
/// must outlive every launch, even if the host never reads it.
pub struct Feed {
    /// (N, H, W, 3) bytes: all images, or those of the next steps.
    pub pixels: Memory<u8>,
    /// The rows of the plan; those of a step begin at step · batch.
    pub plan: Memory<Row>,
    /// The number of the step, which the step increments.
    pub step: Memory<u32>,
    /// (3, 256): the normalised value of each byte.
    pub levels: Memory<f32>,
    /// The features: in training those of the step, in inference those of all rows of the plan.
    pub features: Memory<f32>,
    /// The logits, likewise.
    pub logits: Memory<f32>,
}

/// The inputs and outputs that only training steps have. Like a [`Feed`], it must outlive every launch.
pub struct TrainingFeed {
    /// (steps, 2): loss and number of correct predictions.
    pub losses: Memory<f64>,
    /// Learning rate, momentum, weight decay, and 1 for Nesterov's momentum.
    pub rates: Memory<f32>,
}

/// The segments of a network's parameters for the last kernel of a step, for one batch size.
pub struct Segments {
    table: Memory<Segment>,
    blocks: usize,
}

/// A network with all the memory that a step needs, for batches up to a given size.
pub struct DeviceNet {
    device: Device,
    classes: usize,
    batch: usize,
    shape: [usize; 3],
    params: Memory<f32>,
    /// The gradients, in the layout of the parameters.
    pub grads: Memory<f32>,
    velocity: Memory<f32>,
    running: Memory<f32>,
    linear_at: usize,
    /// Offsets, margins and scales by class. With margins, the two labels of a sample do not share a softmax.
    classwise: Memory<f32>,
    has_margins: bool,
    has_scales: bool,
    gamma: f32,
    normalised: bool,
    plan: Plan,
    layers: Vec<Layer>,
    gradients: Vec<Memory<u8>>,
    /// The output of a stage before it is mixed.
    unmixed: Memory<u8>,
    /// Receives sums that nothing reads.
    unread: Memory<u64>,
    linear_parts: Memory<f32>,
    samples: Memory<f32>,
    /// The sums of all batch norms.
    sums: Memory<u64>,
    counter: Memory<u32>,
    norms: Memory<Norm>,
    channels: Memory<i32>,
}

/// Returns the index of a convolution's kernels in the lists, from 0, if there are any.
fn kernel_of(conv: &Conv) -> Option<usize> {
    let name = format!("{}_{}_{}", conv.cin, conv.cout, conv.stride);
    let is_it = |kernel: &&str| kernel.strip_prefix("remix_forward_") == Some(&name);
    NAMES[FORWARD..].iter().position(is_it).filter(|_| conv.kernel == 3)
}

/// Checks that there are kernels for a network, for images of `shape` and for a number of classes. Every stage
/// must consist of two or more blocks of two 3×3 convolutions with the widths of the CIFAR ResNets. The
/// shortcut of the first block of a stage, except the first stage, must be padded; all others must be
/// identities.
///
/// # Errors
/// Returns a message that says what there are no kernels for.
pub fn supports(network: &Network, shape: [usize; 3], classes: usize) -> Result<(), String> {
    let lacks = |what: String| Err(format!("the GPU has no kernels for {}, which has {what}", network.name));
    if network.pool {
        return lacks("a max-pool".into());
    }
    if let Some(conv) = network.convs().find(|conv| kernel_of(conv).is_none()) {
        let Conv { name, kernel, stride, cin, cout, .. } = conv;
        return lacks(format!(
            "{name}, a {kernel}×{kernel} convolution of {cin} to {cout} channels with stride {stride}"
        ));
    }
    for (stage, blocks) in network.stages.iter().enumerate() {
        if blocks.len() < 2 {
            return lacks(format!("a stage with {} block", blocks.len()));
        }
        for (n, block) in blocks.iter().enumerate() {
            let shortcut = if stage > 0 && n == 0 { Shortcut::Padded } else { Shortcut::Identity };
            if block.convs.len() != 2 || block.shortcut != shortcut {
                let name = block.convs.first().map_or("nothing", |conv| &conv.name);
                return lacks(format!("a block of another kind, which begins with {name}"));
            }
        }
    }
    if network.features() != FEATURES {
        return lacks(format!("{} features", network.features()));
    }
    let [height, width, channels] = shape;
    let sides = 1 << (network.stages.len() - 1);
    if !(height.is_multiple_of(sides) && width.is_multiple_of(sides)) {
        return Err(format!(
            "images are {height}×{width}, but for {} the GPU's kernels need sides that are multiples of {sides}",
            network.name
        ));
    }
    if channels != 3 || width > 256 || height > 65_535 {
        return Err(format!(
            "images have the shape {shape:?}, but the GPU's kernels need (H ≤ 65535, W ≤ 256, 3)"
        ));
    }
    if classes > SCRATCH {
        return Err(format!("there are {classes} classes, but the GPU's kernels support at most {SCRATCH}"));
    }
    Ok(())
}

impl DeviceNet {
    /// Creates a network with the layout of `params`, without their values, for images of `shape` and batches
    /// of up to `batch` images. Without a `criterion` it cannot train, and its layers share the memory of
    /// their activations.
    ///
    /// # Errors
    /// Returns an error if the kernels do not support the network or the sizes, or [`Error::Memory`] if there
    /// is not enough memory.
    ///
    /// # Panics
    /// Panics if the criterion is for another number of classes.
    pub fn new(
        device: &Device,
        params: &Params,
        criterion: Option<&Criterion>,
        shape: [usize; 3],
        batch: usize,
    ) -> Result<DeviceNet> {
        let (host, trains) = (params, criterion.is_some());
        let network = host.network();
        let plan = Plan::new(network, shape).map_err(Error::Network)?;
        supports(network, shape, host.classes()).map_err(Error::Size)?;
        let bytes = device.precision().dtype().size_in_bytes();
        let reals = |len: usize| device.zeros::<u8>(len * bytes);
        // Memory that only training needs is empty if the network does not train.
        let trained = |len: usize| if trains { len } else { 0 };
        let len = host.values.elem_count();
        let params = device.zeros::<f32>(len)?;
        let grads = device.zeros::<f32>(trained(len))?;
        let running = device.zeros(host.running.elem_count())?;
        let sums = device.zeros(plan.layers.iter().map(|geo| 2 * sums_of(geo.cout)).sum())?;
        let norm = |slot: &Slot, channels: usize, own: &Memory<f32>, sums_at: usize| Norm {
            gamma_beta: params.at(slot.gamma_beta),
            stat: own.at(0),
            affine: own.at(2 * channels),
            running: running.at(slot.running),
            d_gamma_beta: grads.at(trained(slot.gamma_beta)),
            sums: sums.at(sums_at),
            d_sums: sums.at(sums_at + sums_of(channels)),
        };
        let layers = Self::layers(device, host, &plan, batch, trains, norm)?;
        let table: Vec<Norm> = layers.iter().map(|l| l.norm).collect();
        let channels: Vec<i32> = layers.iter().map(|l| l.geo.cout as i32).collect();
        let gradients =
            plan.gradients.iter().map(|len| reals(trained(batch * len))).collect::<Result<_>>()?;
        let classes = host.classes();
        let plain = Criterion::cross_entropy(classes);
        let criterion = criterion.unwrap_or(&plain);
        let (has_margins, has_scales) = (criterion.has_margins(), !criterion.scales.is_empty());
        let classwise = [&criterion.offsets[..], &criterion.margins, &criterion.scales].concat();
        assert_eq!(classwise.len(), (2 + usize::from(has_scales)) * classes, "a criterion of these classes");
        Ok(DeviceNet {
            classes,
            batch,
            shape,
            velocity: device.zeros(trained(len))?,
            linear_at: host.classifier(),
            classwise: device.upload(&classwise)?,
            has_margins,
            has_scales,
            gamma: criterion.gamma,
            normalised: network.classifier.kind == ClassifierKind::Cosine,
            gradients,
            unmixed: reals(trained(batch * plan.largest_mixed()))?,
            plan,
            unread: device.zeros(trained(sums_of(64)))?,
            linear_parts: device.zeros(trained(batch * classes * (FEATURES + 1)))?,
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

    /// Allocates the layers of a network for batches of up to `batch` images. `norm` makes the batch norm of
    /// a layer from its slot, its number of channels, its own memory, and the position of its sums among
    /// those of all layers.
    fn layers(
        device: &Device,
        params: &Params,
        plan: &Plan,
        batch: usize,
        trains: bool,
        norm: impl Fn(&Slot, usize, &Memory<f32>, usize) -> Norm,
    ) -> Result<Vec<Layer>> {
        let bytes = device.precision().dtype().size_in_bytes();
        let reals = |len: usize| device.zeros::<u8>(len * bytes);
        let trained = |len: usize| if trains { len } else { 0 };
        let longest = plan.layers.iter().map(Geometry::out_len).max().unwrap_or(0);
        let len_of = |own: usize| if trains { own } else { longest };
        let (mut layers, mut sums_at) = (Vec::<Layer>::new(), 0);
        for ((slot, conv), &geo) in params.slots().iter().zip(params.network().convs()).zip(&plan.layers) {
            let (c, tiles) = (geo.cout, Tiles::new(geo, batch, bytes, device.shared_for_two_blocks()));
            let shared = tiles.forward_shared.max(trained(tiles.backward_shared));
            let blocks = tiles.forward_blocks.max(trained(tiles.weight_blocks + tiles.input_blocks));
            if blocks > MAX_BLOCKS || batch * geo.out_len() > i32::MAX as usize {
                let stem = plan.layers[0];
                return Err(Error::Size(format!(
                    "batches of {batch} images of {}×{} pixels are too large for the GPU's kernels; a \
                     smaller --batch-size may help",
                    stem.height, stem.width
                )));
            }
            if shared > device.max_shared() {
                let (has, n) = (device.max_shared(), &conv.name);
                return Err(Error::Size(format!(
                    "layer {n} needs {shared} bytes of shared memory, but a block has only {has}"
                )));
            }
            let own = device.zeros::<f32>(4 * c)?;
            let norm = norm(slot, c, &own, sums_at);
            sums_at += 2 * sums_of(c);
            let kind = kernel_of(conv).expect("`supports` has found a kernel for each convolution");
            // Inference reads a raw output only in the next layer, and the input of a block's first layer
            // again in the next block.
            let (y, x) = match layers.len() {
                n @ 5.. if !trains => (layers[n - 2].y.clone(), layers[n - 4].x.clone()),
                n => {
                    let x = if n == 0 { geo.height * geo.width * 4 } else { len_of(geo.in_len()) };
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
        Ok(layers)
    }

    /// Copies parameters, velocities and running statistics from the host.
    ///
    /// # Errors
    /// Returns an error if candle cannot read a tensor, or if a call of the driver fails.
    pub fn take(&self, params: &Params) -> anyhow::Result<()> {
        self.params.write(0, &read(&params.values)?)?;
        if self.velocity.count() > 0 {
            self.velocity.write(0, &read(&params.velocity)?)?;
        }
        self.running.write(0, &read(&params.running)?)?;
        let segments = self.segments(1)?;
        // SAFETY: the segments are those of this network.
        unsafe { self.lay_out(&segments, None)? };
        Ok(self.device.wait()?)
    }

    /// Copies parameters and running statistics from another network on the device.
    ///
    /// # Safety
    /// The segments must be those of this network.
    ///
    /// # Errors
    /// Returns an error if a call of the driver fails.
    pub unsafe fn copy(&self, net: &DeviceNet, segments: &Segments) -> Result<()> {
        self.params.copy(&net.params)?;
        self.running.copy(&net.running)?;
        // SAFETY: the caller's contract.
        unsafe { self.lay_out(segments, None) }
    }

    /// Copies parameters, velocities and running statistics to the host.
    ///
    /// # Errors
    /// Returns an error if candle cannot write a tensor, or if a call of the driver or a kernel failed.
    pub fn give(&self, params: &Params) -> anyhow::Result<()> {
        let all = [
            (&params.values, &self.params),
            (&params.velocity, &self.velocity),
            (&params.running, &self.running),
        ];
        for (to, from) in all {
            let from = from.read(0, from.count())?;
            write(to, |to| to.copy_from_slice(&from))?;
        }
        Ok(())
    }

    /// Returns the tiles of a layer for some images.
    fn tiles(&self, geo: Geometry, images: usize) -> Tiles {
        let bytes = self.device.precision().dtype().size_in_bytes();
        Tiles::new(geo, images, bytes, self.device.shared_for_two_blocks())
    }

    /// Returns the raw outputs of a layer for the first `images` images.
    ///
    /// # Errors
    /// Returns an error if a call of the driver or a kernel failed.
    #[cfg(test)]
    pub fn raw(&self, layer: usize, images: usize) -> Result<Vec<f32>> {
        let Layer { geo, y, .. } = &self.layers[layer];
        let bytes = self.device.precision().dtype().size_in_bytes();
        let raw = y.read(0, images * geo.out_len() * bytes)?;
        // A bf16 is the upper half of an f32.
        let value = |b: &[u8]| match *b {
            [a, b] => f32::from_le_bytes([0, 0, a, b]),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("a value has two or four bytes"),
        };
        Ok(raw.chunks_exact(bytes).map(value).collect())
    }

    /// Returns the segments of the parameters for the last kernel of a step of `images` images.
    ///
    /// # Errors
    /// Returns [`Error::Memory`] if there is not enough memory, or another error if a call of the driver
    /// fails.
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
