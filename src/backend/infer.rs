//! Inference: batch norm folded into the convolutions, and a whole network run over a few images while they are in the
//! cache.

use std::ops::Range;
use std::path::Path;

use anyhow::{Error, Result};
use rayon::prelude::*;

use super::Plan;
use crate::data::Info;
use crate::data::shard::Split;
use crate::net::{ClassifierKind, Geometry, Network, Params, files};
use crate::ops::conv::cpu::tile::{Pixel, Sink};
use crate::ops::conv::cpu::winograd::{self, Four};
use crate::ops::conv::cpu::{convolve, panels, with_scratch};
use crate::ops::head::Classifier;
use crate::ops::load::Levels;
use crate::ops::simd::{Isa, Task, Vector, run};
use crate::ops::{Aligned, norm, read};

/// Outputs of a network for a whole split, row major, in the order of the split.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// (N, classes).
    pub logits: Vec<f32>,
    /// Pooled features, (N, `feature_len`).
    pub features: Vec<f32>,
    /// Number of classes.
    pub classes: usize,
    /// Length of a feature vector.
    pub feature_len: usize,
}

/// Runs the weights of a file over a split, without augmentation; `levels` are the normalised values of the bytes. A thread takes
/// `batch` images at a time through the network; the result does not depend on it.
///
/// # Errors
/// A file that cannot be read, weights of another architecture or number of classes.
pub fn infer(
    weights: &Path,
    network: &Network,
    split: &Split,
    info: &Info,
    levels: &Levels,
    batch: usize,
) -> Result<Inference> {
    let params = files::open_for(weights, network, info)?;
    Ok(Folded::new(&params, split.shape())?.run(split, levels, batch))
}

/// A convolution with its batch norm folded in: `relu(conv(x) + bias [+ shortcut])`.
struct Conv {
    geo: Geometry,
    /// As it is, or transformed where [`winograd`] is used.
    weight: Aligned,
    winograd: bool,
    bias: Vec<f32>,
}

/// A network ready for inference.
pub struct Folded {
    stem: Conv,
    /// The convolutions of the blocks, by stages: layers whose outputs have one size.
    stages: Vec<Vec<Conv>>,
    linear: (Vec<f32>, Vec<f32>),
    normalised: bool,
    classes: usize,
    feature_len: usize,
    isa: Isa,
}

/// Images that a thread takes at a time: as many as share a layer's weights at most.
pub const BATCH: usize = 8;

/// Images of a size that go through a layer together: no more than 1024 pixels, so that they stay in the second-level cache.
fn together(geo: Geometry) -> usize {
    (1024 / (geo.height * geo.width)).clamp(1, BATCH)
}

impl Folded {
    /// Folds parameters. `shape` is that of the images, `[H, W, C]`.
    ///
    /// # Errors
    /// A network or images that there is no engine for; candle's.
    pub fn new(params: &Params, shape: [usize; 3]) -> Result<Self> {
        let isa = Isa::get().for_floats();
        let network = params.network();
        let plan = Plan::new(network, shape).map_err(Error::msg)?;
        let (values, running) = (read(&params.values)?, read(&params.running)?);
        let fold = |layer: usize, winograd: bool| -> Conv {
            let (geo, slot) = (plan.layers[layer], params.slots()[layer]);
            let (cin, cout) = (geo.cin, geo.cout);
            let mut weight = values[slot.weight..][..geo.weight_len()].to_vec();
            let (gamma, beta) = values[slot.gamma_beta..][..2 * cout].split_at(cout);
            let (mean, var) = running[slot.running..][..2 * cout].split_at(cout);
            let scale: Vec<f64> =
                (0..cout).map(|c| f64::from(gamma[c]) / (f64::from(var[c]) + norm::EPS).sqrt()).collect();
            for row in weight.chunks_exact_mut(cout) {
                row.iter_mut().zip(&scale).for_each(|(w, s)| *w = (f64::from(*w) * s) as f32);
            }
            let mut kept = Aligned::new(if winograd { 36 * cin * cout } else { weight.len() });
            if winograd {
                winograd::transform_weight::<f32, Four, 6, 4>(isa, &weight, cout, &mut kept);
            } else {
                panels::<f32>(isa, &weight, cin, &[9], &mut kept);
            }
            let bias =
                (0..cout).map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * scale[c]) as f32).collect();
            Conv { geo, weight: kept, winograd, bias }
        };
        let mut block = 0..;
        let stages = network.stages.iter().map(|blocks| {
            let stage = blocks.iter().zip(&mut block).flat_map(|(block, n)| {
                let first = plan.first_of(n);
                first..first + block.convs.len()
            });
            stage.map(|layer| fold(layer, winograd::fits(plan.layers[layer], isa, 4))).collect()
        });
        let (classes, len) = (params.classes(), network.features());
        let (weight, bias) = values[params.classifier()..][..params.classifier_len()].split_at(classes * len);
        Ok(Folded {
            stem: fold(0, false),
            stages: stages.collect(),
            linear: (weight.to_vec(), bias.to_vec()),
            normalised: network.classifier.kind == ClassifierKind::Cosine,
            classes,
            feature_len: len,
            isa,
        })
    }

    /// Logits and features of all images of a split, `batch` images of a thread at a time; `levels` are the normalised values of the
    /// bytes.
    pub fn run(&self, split: &Split, levels: &Levels, batch: usize) -> Inference {
        self.forward(split.len(), batch, |n, pixels| {
            let channels = levels.iter().cycle();
            for ((x, byte), level) in pixels.iter_mut().zip(split.image(n)).zip(channels) {
                *x = level[usize::from(*byte)];
            }
        })
    }

    /// Logits and features of `n` images; `image(i, pixels)` writes the normalised pixels of one, (H, W, C).
    pub fn forward(&self, n: usize, batch: usize, image: impl Fn(usize, &mut [f32]) + Sync) -> Inference {
        let (classes, len) = (self.classes, self.feature_len);
        let batch = batch.clamp(1, n.max(1));
        let (mut z, mut f) = (vec![0.0; n * classes], vec![0.0; n * len]);
        let (weight, bias) = (&self.linear.0[..], &self.linear.1[..]);
        let classifier = Classifier { weight, bias, normalised: self.normalised };
        let rows = z.par_chunks_mut(batch * classes).zip(f.par_chunks_mut(batch * len)).enumerate();
        let space = Space::new(self, batch);
        rows.for_each(|(at, (z, features))| {
            let images = at * batch..n.min((at + 1) * batch);
            with_scratch(space.len(), |scratch| {
                run(self.isa, Group { net: self, images, image: &image, space, scratch, features });
            });
            for (z, f) in z.chunks_exact_mut(classes).zip(features.chunks_exact(len)) {
                classifier.logits(f, z);
            }
        });
        Inference { logits: z, features: f, classes, feature_len: len }
    }
}

/// The work space of a group of images: three halo'd activations for each of them, and what [`winograd`] needs.
#[derive(Clone, Copy)]
struct Space {
    images: usize,
    /// Floats of one activation.
    activation: usize,
    winograd: usize,
}

impl Space {
    fn new(net: &Folded, images: usize) -> Self {
        let convs = || net.stages.iter().flatten().chain([&net.stem]);
        let suited = convs().filter(|c| c.winograd);
        Space {
            images,
            activation: convs().map(|c| padded(c.geo)).max().unwrap_or(0).next_multiple_of(16),
            winograd: suited.map(|c| winograd::scratch_len::<Four, 6, 4>(c.geo, images)).max().unwrap_or(0),
        }
    }

    fn len(&self) -> usize {
        3 * self.images * self.activation + self.winograd
    }
}

struct Group<'a, F> {
    net: &'a Folded,
    images: Range<usize>,
    image: &'a F,
    space: Space,
    scratch: &'a mut [f32],
    features: &'a mut [f32],
}

impl<F: Fn(usize, &mut [f32])> Task for Group<'_, F> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Folded { stem, stages, .. } = self.net;
        let Space { images, activation: len, .. } = self.space;
        let (mut x, rest) = self.scratch.split_at_mut(images * len);
        let (mid, rest) = rest.split_at_mut(images * len);
        let (mut y, work) = rest.split_at_mut(images * len);
        let count = self.images.len();
        // SAFETY: the buffers hold every layer's images with their halos, zero outside the image.
        unsafe {
            for (x, n) in x.chunks_exact_mut(len).zip(self.images.clone()) {
                let pixels = &mut y[..stem.geo.in_len()];
                (self.image)(n, pixels);
                let mid = &mut mid[..len];
                clear_halo(stem.geo.height, stem.geo.width, stem.geo.cin, mid);
                pad(stem.geo, pixels, mid);
                clear_halo_out(stem.geo, x);
                let mut sink = Finish::new(stem, x, len, false);
                convolve::<V, f32, _>(stem.geo, 1, mid, len, &stem.weight, &mut sink);
            }
            for stage in stages {
                let [first, second, ..] = &stage[..] else { continue };
                let half = first.geo.stride == 2;
                let some = together(second.geo) * len;
                for from in (0..count * len).step_by(some) {
                    let to = (from + some).min(count * len);
                    let (mut x, mid, mut y) = (&mut x[from..to], &mut mid[..to - from], &mut y[from..to]);
                    for mid in mid.chunks_exact_mut(len) {
                        clear_halo_out(second.geo, mid);
                    }
                    if half {
                        for (x, y) in x.chunks_exact(len).zip(y.chunks_exact_mut(len)) {
                            halve(first.geo, x, &mut y[..padded(second.geo)]);
                        }
                    }
                    // One call of `layer`, which is inlined, and large.
                    for (n, conv) in stage.iter().enumerate() {
                        // A block's second convolution adds to what the first one read, or to half of it.
                        if half && n == 1 {
                            std::mem::swap(&mut x, &mut y);
                        }
                        let ends = n % 2 == 1;
                        let (from, to) = if ends { (&*mid, &mut *x) } else { (&*x, &mut *mid) };
                        layer::<V>(conv, from, to, len, ends, work);
                    }
                }
                if half {
                    std::mem::swap(&mut x, &mut y);
                }
            }
        }
        let Some(last) = stages.last().and_then(|s| s.last()) else { return };
        let (c, width) = (last.geo.cout, last.geo.out_width());
        let pixels = (width * last.geo.out_height()) as f32;
        self.features.fill(0.0);
        for (i, features) in self.features.chunks_exact_mut(c).enumerate() {
            for row in 0..last.geo.out_height() {
                let start = i * len + ((row + 1) * (width + 2) + 1) * c;
                for pixel in x[start..start + width * c].chunks_exact(c) {
                    features.iter_mut().zip(pixel).for_each(|(f, p)| *f += p);
                }
            }
            features.iter_mut().for_each(|f| *f /= pixels);
        }
    }
}

/// Floats of a layer's input or output with its halo, whichever has more channels.
fn padded(geo: Geometry) -> usize {
    (geo.height + 2) * (geo.width + 2) * geo.cin.max(geo.cout)
}

/// Makes the halo of a layer's output zero.
fn clear_halo_out(geo: Geometry, image: &mut [f32]) {
    clear_halo(geo.out_height(), geo.out_width(), geo.cout, image);
}

/// Makes the halo of an image zero.
fn clear_halo(height: usize, width: usize, channels: usize, image: &mut [f32]) {
    let row = (width + 2) * channels;
    image[..row + channels].fill(0.0);
    for pixels in image[channels..][row..].chunks_exact_mut(row).take(height) {
        // The last pixel of a row and the first of the next.
        pixels[row - 2 * channels..].fill(0.0);
    }
    image[(height + 1) * row..(height + 2) * row].fill(0.0);
}

/// Copies an image into its halo.
fn pad(geo: Geometry, pixels: &[f32], out: &mut [f32]) {
    let width = geo.width * geo.cin;
    for (row, pixels) in pixels.chunks_exact(width).enumerate() {
        let start = (row + 1) * (width + 2 * geo.cin) + geo.cin;
        out[start..start + width].copy_from_slice(pixels);
    }
}

/// The [`crate::ops::conv::Shortcut::Half`] of an image that enters a block's first convolution, both inside halos.
fn halve(geo: Geometry, x: &[f32], out: &mut [f32]) {
    let (cin, cout, width) = (geo.cin, geo.cout, geo.out_width());
    out.fill(0.0);
    for row in 0..geo.out_height() {
        for col in 0..width {
            let from = ((2 * row + 1) * (geo.width + 2) + 2 * col + 1) * cin;
            let to = ((row + 1) * (width + 2) + col + 1) * cout + cout / 4;
            out[to..to + cin].copy_from_slice(&x[from..from + cin]);
        }
    }
}

/// One convolution of some images, from halo to halo, `len` floats apart; `in_place` adds what `out` holds.
#[inline(always)]
unsafe fn layer<V: Vector>(
    conv: &Conv,
    x: &[f32],
    out: &mut [f32],
    len: usize,
    in_place: bool,
    work: &mut [f32],
) {
    let geo = conv.geo;
    let images = out.len() / len;
    let mut sink = Finish::new(conv, out, len, in_place);
    // SAFETY: the caller's buffers hold the images with their halos.
    unsafe {
        if V::WIDE && conv.winograd {
            let (x, u) = (x.as_ptr(), conv.weight.as_ptr());
            winograd::forward::<V, f32, _, Four, 6, 4>(geo, images, x, len, u, work, &mut sink);
        } else {
            convolve::<V, f32, _>(geo, images, x, len, &conv.weight, &mut sink);
        }
    }
}

/// Starts from the bias, adds the shortcut, cuts off what is negative, stores inside the halo.
struct Finish<'a> {
    geo: Geometry,
    out: *mut f32,
    /// Floats between two images.
    step: usize,
    bias: &'a [f32],
    in_place: bool,
}

impl<'a> Finish<'a> {
    fn new(conv: &'a Conv, out: &mut [f32], step: usize, in_place: bool) -> Self {
        Finish { geo: conv.geo, out: out.as_mut_ptr(), step, bias: &conv.bias, in_place }
    }
}

impl Sink for Finish<'_> {
    #[inline(always)]
    unsafe fn start<V: Vector>(&self, channel: usize) -> V {
        // SAFETY: the trait's contract: a bias for each channel.
        unsafe { V::load(self.bias.as_ptr().add(channel)) }
    }

    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel) {
        let Pixel { image, row, col, channel } = at;
        let (cout, width) = (self.geo.cout, self.geo.out_width());
        // SAFETY: the trait's contract: the tile is inside the image.
        unsafe {
            let out = self.out.add(image * self.step + ((row + 1) * (width + 2) + col + 1) * cout + channel);
            for q in 0..Q {
                let at = q * V::LANES;
                for (p, pixel) in acc.iter().enumerate() {
                    let out = out.add(p * cout + at);
                    let mut v = pixel[q];
                    if self.in_place {
                        v = v.add(V::load(out));
                    }
                    v.relu().store(out);
                }
            }
        }
    }
}
