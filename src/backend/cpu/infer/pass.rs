//! The pass of a few images through a network: which activation a layer reads and which it writes.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ops::Range;

use super::layer::{Conv, Layer, clear_halo, copy_into_halo, halo_width, max_pool, padded_shortcut};
use super::{BATCH, Folded};
use crate::backend::cpu::conv::kernel::winograd::{self, F4x4};
use crate::backend::{Engine, Gradient, Shortcut, Source, Stored};
use crate::net::Geometry;
use crate::simd::run;

/// The layout of the work space of a group of images: four activations inside halos for each of them, and
/// what [`winograd`] needs.
#[derive(Clone, Copy)]
pub(super) struct Space {
    /// Number of images in the group.
    pub images: usize,
    /// Floats of one activation.
    activation: usize,
    winograd: usize,
}

impl Space {
    /// Returns the layout for groups of `images` images, but no more than [`BATCH`]: more images would share
    /// nothing more.
    pub fn new(net: &Folded, images: usize) -> Self {
        let images = images.clamp(1, BATCH);
        let largest = |c: &Conv| {
            let Geometry { height, width, cin, cout, .. } = c.geo;
            // Images lie inside the halo that the stem needs, all other activations inside a halo of one
            // pixel.
            let halo = 2 * halo_width(c.geo);
            let input = (height + halo) * (width + halo) * cin;
            input.max((c.geo.out_height() + 2) * (c.geo.out_width() + 2) * cout)
        };
        let suited = net.layers.iter().filter(|c| c.winograd);
        Space {
            images,
            activation: net.layers.iter().map(largest).max().unwrap_or(0).next_multiple_of(16),
            winograd: suited.map(|c| winograd::scratch_len::<F4x4, 6, 4>(c.geo, images)).max().unwrap_or(0),
        }
    }

    pub fn len(&self) -> usize {
        4 * self.images * self.activation + self.winograd
    }

    /// Returns the range of the work space that holds some images of one of the four activations.
    fn of(&self, role: usize, images: Range<usize>) -> Range<usize> {
        let at = |n: usize| (role * self.images + n) * self.activation;
        at(images.start)..at(images.end)
    }

    fn work(&self) -> Range<usize> {
        4 * self.images * self.activation..self.len()
    }
}

/// Inference of a few images, in one thread.
pub(super) struct Pass<'a> {
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
    /// The images that are being computed.
    images: Range<usize>,
    roles: Roles,
    /// For each activation inside blocks, the size of the image for which its halo is zero. These activations
    /// use the first slots, whichever images are computed.
    halos: [Option<[usize; 3]>; 4],
}

/// The index of the activation for each role.
#[derive(Clone, Copy)]
struct Roles {
    /// The input of a block, and also its output if the shortcut is the identity.
    x: usize,
    /// Outputs of layers inside a block, which alternate.
    mid: [usize; 2],
    /// The output of other blocks.
    y: usize,
}

impl<'a> Pass<'a> {
    /// Creates a pass before its first image; `scratch` must be as large as `space` requires.
    pub fn new(
        net: &'a Folded,
        image: &'a dyn Fn(usize, &mut [f32]),
        space: Space,
        scratch: &'a mut [f32],
        features: &'a mut [f32],
    ) -> Self {
        let roles = Roles { x: 0, mid: [1, 2], y: 3 };
        let state = State { scratch, features, images: 0..0, roles, halos: [None; 4] };
        Pass { net, image, space, state: RefCell::new(state) }
    }

    /// Runs the stem on one image, whose pixels are written first.
    fn stem(&self) {
        let (space, conv) = (self.space, &self.net.layers[0]);
        let geo = conv.geo;
        let State { scratch, images, roles, halos, .. } = &mut *self.state.borrow_mut();
        let near = 0..images.len();
        let [framed, pixels] = disjoint(scratch, roles.mid.map(|mid| space.of(mid, near.clone())));
        (self.image)(images.start, &mut pixels[..geo.in_len()]);
        copy_into_halo(geo, &pixels[..geo.in_len()], framed);
        *halos = [None; 4];
        let parts = [space.of(roles.mid[0], near), space.of(roles.x, images.clone()), space.work()];
        let [x, out, work] = disjoint(scratch, parts);
        clear_halo(geo.out_shape(), out);
        let (halo, step) = (halo_width(geo), space.activation);
        run(Layer { conv, halo, x, out, step, add: false, relu: true, work });
    }

    /// Calls `f` for `count` images, `group` at a time.
    pub fn by_groups(&self, count: usize, group: usize, f: impl Fn(&Self) -> Result<(), Infallible>) {
        let roles = self.state.borrow().roles;
        // Groups may be larger than those of the stage before, so no halo is known to be zero for all their
        // images.
        self.state.borrow_mut().halos = [None; 4];
        for first in (0..count).step_by(group) {
            let mut state = self.state.borrow_mut();
            (state.images, state.roles) = (first..count.min(first + group), roles);
            drop(state);
            let Ok(()) = f(self);
        }
    }
}

impl Engine for Pass<'_> {
    type Error = Infallible;

    /// Computes the finished output at once, including the shortcut and ReLU that the next layer would
    /// otherwise apply.
    fn conv(&self, layer: usize, input: Source, _: Option<usize>) -> Result<(), Infallible> {
        if input == Source::Plain(Stored::Images) {
            self.stem();
            return Ok(());
        }
        let (space, plan, conv) = (self.space, &self.net.plan, &self.net.layers[layer]);
        let geo = conv.geo;
        let State { scratch, images, roles, halos, .. } = &mut *self.state.borrow_mut();
        let near = 0..images.len();
        let block = plan.block_of(layer);
        let (is_first, is_last, is_projection) =
            (layer == block.first, layer == block.last, layer > block.last);
        let is_identity = block.shortcut == Shortcut::Identity(());
        if is_first && block.shortcut == Shortcut::Padded(()) {
            let [x, y] =
                disjoint(scratch, [space.of(roles.x, images.clone()), space.of(roles.y, images.clone())]);
            let last = plan.layers[block.last];
            for (x, y) in x.chunks_exact(space.activation).zip(y.chunks_exact_mut(space.activation)) {
                padded_shortcut(geo, last, x, y);
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
        let size = geo.out_shape();
        if is_projection || (is_inside && halos[roles.mid[turn]] != Some(size)) {
            out.chunks_exact_mut(space.activation).for_each(|out| clear_halo(size, out));
        }
        if is_inside {
            halos[roles.mid[turn]] = Some(size);
        }
        let (step, add, relu) = (space.activation, is_last, !is_projection);
        run(Layer { conv, halo: 1, x, out, step, add, relu, work });
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
        for (x, y) in x.chunks_exact(space.activation).zip(y.chunks_exact_mut(space.activation)) {
            max_pool(geo, [pooled.height, pooled.width], x, y);
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

/// Borrows disjoint parts of the scratch memory.
fn disjoint<const N: usize>(scratch: &mut [f32], parts: [Range<usize>; N]) -> [&mut [f32]; N] {
    scratch.get_disjoint_mut(parts).expect("activations do not overlap")
}
