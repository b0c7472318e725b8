//! Inference: batch norm folded into the convolutions, and a whole network run over a few images while they are in the
//! cache.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;

use anyhow::{Error, Result};
use rayon::prelude::*;

use crate::backend;
use crate::backend::cpu::conv::kernel::tile::{Pixel, Sink};
use crate::backend::cpu::conv::kernel::winograd::{self, Four};
use crate::backend::cpu::conv::kernel::{convolve, panels, with_scratch};
use crate::backend::cpu::head::Classifier;
use crate::backend::cpu::load::Levels;
use crate::backend::{Engine, Gradient, Plan, Shortcut, Source, Stored};
use crate::data::Info;
use crate::data::shard::Split;
use crate::net::{ClassifierKind, EPS, Geometry, Network, Params, files};
use crate::simd::{Isa, Task, Vector, run};
use crate::tensor::{Aligned, read};

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

/// A convolution with its batch norm folded in.
struct Conv {
    geo: Geometry,
    /// As it is, or transformed where [`winograd`] is used.
    weight: Aligned,
    winograd: bool,
    bias: Vec<f32>,
}

/// A network ready for inference.
pub struct Folded {
    plan: Plan,
    layers: Vec<Conv>,
    linear: (Vec<f32>, Vec<f32>),
    kind: ClassifierKind,
    classes: usize,
    feature_len: usize,
    isa: Isa,
}

/// Images that a thread takes at a time: as many as share a layer's weights at most.
pub const BATCH: usize = 8;

/// Images whose outputs of a layer are computed together: no more than 1024 pixels, so that they stay in the second-level cache.
fn together(geo: Geometry) -> usize {
    (1024 / (geo.out_height() * geo.out_width())).clamp(1, BATCH)
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
        let fold = |(layer, &geo): (usize, &Geometry)| -> Conv {
            let winograd = layer > 0 && winograd::fits(geo, isa, 4);
            let (slot, cin, cout) = (params.slots()[layer], geo.cin, geo.cout);
            let mut weight = values[slot.weight..][..geo.weight_len()].to_vec();
            let (gamma, beta) = values[slot.gamma_beta..][..2 * cout].split_at(cout);
            let (mean, var) = running[slot.running..][..2 * cout].split_at(cout);
            let scale: Vec<f64> =
                (0..cout).map(|c| f64::from(gamma[c]) / (f64::from(var[c]) + EPS).sqrt()).collect();
            for row in weight.chunks_exact_mut(cout) {
                row.iter_mut().zip(&scale).for_each(|(w, s)| *w = (f64::from(*w) * s) as f32);
            }
            let mut kept = Aligned::new(if winograd { 36 * cin * cout } else { weight.len() });
            if winograd {
                winograd::transform_weight::<f32, Four, 6, 4>(isa, &weight, cout, &mut kept);
            } else {
                panels::<f32>(isa, &weight, cin, &[geo.taps()], &mut kept);
            }
            let bias =
                (0..cout).map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * scale[c]) as f32).collect();
            Conv { geo, weight: kept, winograd, bias }
        };
        let (classes, len) = (params.classes(), network.features());
        let (weight, bias) = values[params.classifier()..][..params.classifier_len()].split_at(classes * len);
        Ok(Folded {
            layers: plan.layers.iter().enumerate().map(fold).collect(),
            plan,
            linear: (weight.to_vec(), bias.to_vec()),
            kind: network.classifier.kind,
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
        let classifier = Classifier::new(weight, bias, self.kind);
        let rows = z.par_chunks_mut(batch * classes).zip(f.par_chunks_mut(batch * len)).enumerate();
        let space = Space::new(self, batch);
        rows.for_each(|(at, (z, features))| {
            let count = batch.min(n - at * batch);
            with_scratch(space.len(), |scratch| {
                let image = |n: usize, pixels: &mut [f32]| image(at * batch + n, pixels);
                self.features(count, &image, space, scratch, features);
            });
            for (z, f) in z.chunks_exact_mut(classes).zip(features.chunks_exact(len)) {
                classifier.logits(f, z);
            }
        });
        Inference { logits: z, features: f, classes, feature_len: len }
    }

    /// The features of `count` images, some of which go through a stage together.
    fn features(
        &self,
        count: usize,
        image: &dyn Fn(usize, &mut [f32]),
        space: Space,
        scratch: &mut [f32],
        features: &mut [f32],
    ) {
        let roles = Roles { x: 0, mid: [1, 2], y: 3 };
        let state = State { scratch, features, images: 0..0, roles, halos: [None; 4] };
        let pass = Pass { net: self, image, space, state: RefCell::new(state) };
        let (plan, blocks) = (&self.plan, self.plan.blocks.len());
        pass.by_groups(count, 1, |pass| backend::stem(plan, pass));
        for stage in 0..plan.stages() {
            let blocks = plan.blocks_of(stage);
            let last = plan.layers[plan.blocks[blocks.end - 1].last];
            pass.by_groups(count, together(last), |pass| {
                blocks.clone().try_for_each(|n| backend::block(plan, pass, n, n == 0 && plan.pools))
            });
        }
        pass.by_groups(count, count, |pass| pass.head(backend::output(plan, blocks), 0));
    }
}

/// The work space of a group of images: four activations inside halos for each of them, and what [`winograd`] needs.
#[derive(Clone, Copy)]
struct Space {
    images: usize,
    /// Floats of one activation.
    activation: usize,
    winograd: usize,
}

impl Space {
    fn new(net: &Folded, images: usize) -> Self {
        let largest = |c: &Conv| {
            let Geometry { height, width, cin, cout, .. } = c.geo;
            // Images lie inside the halo that the stem needs, all else inside one of one pixel.
            let halo = 2 * framing(c.geo);
            let input = (height + halo) * (width + halo) * cin;
            input.max((c.geo.out_height() + 2) * (c.geo.out_width() + 2) * cout)
        };
        let suited = net.layers.iter().filter(|c| c.winograd);
        Space {
            images,
            activation: net.layers.iter().map(largest).max().unwrap_or(0).next_multiple_of(16),
            winograd: suited.map(|c| winograd::scratch_len::<Four, 6, 4>(c.geo, images)).max().unwrap_or(0),
        }
    }

    fn len(&self) -> usize {
        4 * self.images * self.activation + self.winograd
    }

    /// Some images of one of the four activations.
    fn of(&self, role: usize, images: Range<usize>) -> Range<usize> {
        let at = |n: usize| (role * self.images + n) * self.activation;
        at(images.start)..at(images.end)
    }

    fn work(&self) -> Range<usize> {
        4 * self.images * self.activation..self.len()
    }
}

/// Inference of a few images, in one thread.
struct Pass<'a> {
    net: &'a Folded,
    /// Writes the normalised pixels of an image.
    image: &'a dyn Fn(usize, &mut [f32]),
    space: Space,
    state: RefCell<State<'a>>,
}

struct State<'a> {
    /// Activations, and the work space of [`winograd`].
    scratch: &'a mut [f32],
    features: &'a mut [f32],
    /// Those of the images that are computed now.
    images: Range<usize>,
    roles: Roles,
    /// The size of the image for which the halo of each activation inside blocks is zero. These use the first slots, whichever images
    /// are computed.
    halos: [Option<[usize; 3]>; 4],
}

/// What the four activations are used for.
#[derive(Clone, Copy)]
struct Roles {
    /// The input of a block, and its output where it is added to the input itself.
    x: usize,
    /// Outputs of layers inside of a block, which take turns.
    mid: [usize; 2],
    /// The output of other blocks.
    y: usize,
}

impl Pass<'_> {
    /// Does something for `count` images, `some` at a time.
    fn by_groups(&self, count: usize, some: usize, f: impl Fn(&Self) -> Result<(), Infallible>) {
        let roles = self.state.borrow().roles;
        // Groups may be larger than those of the stage before.
        self.state.borrow_mut().halos = [None; 4];
        for first in (0..count).step_by(some) {
            let mut state = self.state.borrow_mut();
            (state.images, state.roles) = (first..count.min(first + some), roles);
            drop(state);
            let Ok(()) = f(self);
        }
    }
}

impl Engine for Pass<'_> {
    type Error = Infallible;

    /// The output is finished at once, with what the next layer would add to it.
    fn conv(&self, layer: usize, input: Source, _: Option<usize>) -> Result<(), Infallible> {
        let (space, plan, conv) = (self.space, &self.net.plan, &self.net.layers[layer]);
        let geo = conv.geo;
        let State { scratch, images, roles, halos, .. } = &mut *self.state.borrow_mut();
        let near = 0..images.len();
        let mut op = Layer {
            conv,
            halo: 1,
            x: &[],
            out: &mut [],
            step: space.activation,
            add: false,
            relu: true,
            work: &mut [],
        };
        if input == Source::Plain(Stored::Images) {
            op.halo = framing(geo);
            let [framed, pixels] = disjoint(scratch, roles.mid.map(|mid| space.of(mid, near.clone())));
            (self.image)(images.start, &mut pixels[..geo.in_len()]);
            frame(geo, &pixels[..geo.in_len()], framed);
            *halos = [None; 4];
            let places = [space.of(roles.mid[0], near), space.of(roles.x, images.clone()), space.work()];
            let [x, out, work] = disjoint(scratch, places);
            clear_halo_out(geo, out);
            run(self.net.isa, Layer { x, out, work, ..op });
            return Ok(());
        }
        let block = plan.block_of(layer);
        let (is_first, is_last, is_projection) =
            (layer == block.first, layer == block.last, layer > block.last);
        let is_identity = block.shortcut == Shortcut::Identity(());
        if is_first && block.shortcut == Shortcut::Padded(()) {
            let [x, y] =
                disjoint(scratch, [space.of(roles.x, images.clone()), space.of(roles.y, images.clone())]);
            let last = plan.layers[block.last];
            for (x, y) in x.chunks_exact(space.activation).zip(y.chunks_exact_mut(space.activation)) {
                halve(geo, last, x, y);
            }
        }
        let turn = layer.saturating_sub(block.first) % 2;
        let from = match is_first || is_projection {
            true => space.of(roles.x, images.clone()),
            false => space.of(roles.mid[1 - turn], near.clone()),
        };
        let (to, is_inside) = match (is_last, is_projection) {
            (true, _) if is_identity => (space.of(roles.x, images.clone()), false),
            (true, _) | (_, true) => (space.of(roles.y, images.clone()), false),
            _ => (space.of(roles.mid[turn], near), true),
        };
        let [x, out, work] = disjoint(scratch, [from, to, space.work()]);
        let size = Some([geo.out_height(), geo.out_width(), geo.cout]);
        if is_projection || (is_inside && halos[roles.mid[turn]] != size) {
            out.chunks_exact_mut(space.activation).for_each(|out| clear_halo_out(geo, out));
        }
        if is_inside {
            halos[roles.mid[turn]] = size;
        }
        run(self.net.isa, Layer { x, out, work, add: is_last, relu: !is_projection, ..op });
        if is_last && !is_identity {
            std::mem::swap(&mut roles.x, &mut roles.y);
        }
        Ok(())
    }

    fn pool(&self, _: Source) -> Result<(), Infallible> {
        let (space, geo, pooled) = (self.space, self.net.layers[0].geo, self.net.plan.stored(0));
        let State { scratch, images, roles, .. } = &mut *self.state.borrow_mut();
        let [x, y] =
            disjoint(scratch, [space.of(roles.x, images.clone()), space.of(roles.y, images.clone())]);
        clear_halo(pooled.height, pooled.width, pooled.cin, y);
        let (c, from, to) = (geo.cout, (geo.out_width() + 2) * geo.cout, (pooled.width + 2) * geo.cout);
        for (row, out) in y[to..].chunks_exact_mut(to).take(pooled.height).enumerate() {
            for (col, out) in out[c..].chunks_exact_mut(c).take(pooled.width).enumerate() {
                // The nine pixels around, of which those of the halo are no larger than any other.
                let first = &x[2 * row * from + 2 * col * c..];
                out.copy_from_slice(&first[..c]);
                for at in (0..9).map(|n| n / 3 * from + n % 3 * c) {
                    let pixel = &first[at..at + c];
                    for (out, &x) in out.iter_mut().zip(pixel) {
                        // NaN stays NaN.
                        *out = if x > *out || x.is_nan() { x } else { *out };
                    }
                }
            }
        }
        std::mem::swap(&mut roles.x, &mut roles.y);
        Ok(())
    }

    fn head(&self, _: Source, _: Gradient) -> Result<(), Infallible> {
        let geo = self.net.plan.top_layer();
        let (c, width) = (geo.cout, geo.out_width());
        let pixels = (width * geo.out_height()) as f32;
        let State { scratch, features, images, roles, .. } = &mut *self.state.borrow_mut();
        features.fill(0.0);
        let x = scratch[self.space.of(roles.x, images.clone())].chunks_exact(self.space.activation);
        for (x, features) in x.zip(features.chunks_exact_mut(c)) {
            for row in 0..geo.out_height() {
                let start = ((row + 1) * (width + 2) + 1) * c;
                for pixel in x[start..start + width * c].chunks_exact(c) {
                    features.iter_mut().zip(pixel).for_each(|(f, p)| *f += p);
                }
            }
            features.iter_mut().for_each(|f| *f /= pixels);
        }
        Ok(())
    }
}

/// Parts of the scratch memory.
fn disjoint<const N: usize>(scratch: &mut [f32], parts: [Range<usize>; N]) -> [&mut [f32]; N] {
    scratch.get_disjoint_mut(parts).expect("activations do not overlap")
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

/// Width of the halo around an image: what the stem needs, and no less than one pixel.
fn framing(stem: Geometry) -> usize {
    stem.padding().max(1)
}

/// Copies an image into its halo of zeros.
fn frame(geo: Geometry, pixels: &[f32], out: &mut [f32]) {
    let (halo, width) = (framing(geo) * geo.cin, geo.width * geo.cin);
    let row = width + 2 * halo;
    out[..(geo.height + 2 * framing(geo)) * row].fill(0.0);
    let rows = out[framing(geo) * row..].chunks_exact_mut(row);
    for (row, pixels) in rows.zip(pixels.chunks_exact(width)) {
        row[halo..halo + width].copy_from_slice(pixels);
    }
}

/// What [`Shortcut::Padded`] adds to the last layer of a block whose first has the input `x`, both inside halos.
fn halve(first: Geometry, last: Geometry, x: &[f32], out: &mut [f32]) {
    let (cin, cout, width) = (first.cin, last.cout, last.out_width());
    out[..(last.out_height() + 2) * (width + 2) * cout].fill(0.0);
    for row in 0..last.out_height() {
        for col in 0..width {
            let from = ((2 * row + 1) * (first.width + 2) + 2 * col + 1) * cin;
            let to = ((row + 1) * (width + 2) + col + 1) * cout + (cout - cin) / 2;
            out[to..to + cin].copy_from_slice(&x[from..from + cin]);
        }
    }
}

/// One convolution of some images, from halo to halo, `step` floats apart.
struct Layer<'a> {
    conv: &'a Conv,
    /// Width of the halo around the input.
    halo: usize,
    x: &'a [f32],
    out: &'a mut [f32],
    step: usize,
    /// Whether it is added to what `out` holds.
    add: bool,
    /// Whether what is negative is cut off.
    relu: bool,
    work: &'a mut [f32],
}

impl Task for Layer<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Layer { conv, halo, x, out, step, add, relu, work } = self;
        let (geo, images) = (conv.geo, out.len() / step);
        let mut sink = Finish { geo, out: out.as_mut_ptr(), step, bias: &conv.bias, add, relu };
        // SAFETY: the buffers hold the images with their halos.
        unsafe {
            if V::WIDE && conv.winograd {
                let (x, u) = (x.as_ptr(), conv.weight.as_ptr());
                winograd::forward::<V, f32, _, Four, 6, 4>(geo, images, x, step, u, work, &mut sink);
            } else {
                convolve::<V, f32, _>(geo, images, x, step, halo, &conv.weight, &mut sink);
            }
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
    add: bool,
    relu: bool,
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
                    if self.add {
                        v = v.add(V::load(out));
                    }
                    if self.relu {
                        v = v.relu();
                    }
                    v.store(out);
                }
            }
        }
    }
}
