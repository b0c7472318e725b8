//! How networks are executed: the order of the operations of a training step, written once, and the operations that an engine has.
//!
//! [`forward`] and [`backward`] walk over a [`Plan`], which follows from a network's description and the size of the images, and
//! call an [`Engine`]. Each operation does everything that can be done while an image is in the cache: a convolution makes its input
//! from the raw output of the one before (batch norm, shortcut, ReLU), and leaves a raw output and its sums. All engines number
//! alike: layers as [`Network::convs`] has them, kept inputs by their block, and two gradient buffers for each stage.

pub mod cpu;
pub mod infer;

use crate::net::{Conv, Geometry, Network, Shortcut as Kind};

/// A network on images of one size.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Sizes of the layers.
    pub layers: Vec<Geometry>,
    blocks: Vec<Step>,
}

/// A block in the order of a step.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// Its first and its last layer.
    first: usize,
    last: usize,
    /// The stage of its output, from 0.
    stage: usize,
    is_padded: bool,
}

/// What a convolution is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The images.
    Images,
    /// What was kept as the input of a block.
    Kept(usize),
    /// `relu(norm(y) + shortcut)` of the raw output y of a layer.
    Normed {
        /// The layer.
        layer: usize,
        /// What is added.
        shortcut: Shortcut,
    },
}

/// What is added before a ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Nothing.
    None,
    /// The input that was kept of a block.
    Identity(usize),
    /// Every second pixel of it, between channels of zeros.
    Padded(usize),
}

/// One of two buffers for gradients in each stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gradient {
    /// The stage, from 0.
    pub stage: usize,
    /// The second of its buffers.
    pub second: bool,
}

/// How the gradient of a convolution's input is finished: masked by the ReLU, added to what comes through the shortcut, and summed
/// for the batch norm before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputGrad {
    /// Where it goes.
    pub to: Gradient,
    /// What comes through the shortcut.
    pub residual: Residual,
    /// The layer whose raw output the input was made of.
    pub before: usize,
    /// Whether the sums are needed; not if the input was mixed, for `unmix` makes them.
    pub sums: bool,
}

/// The shortcut's part of an input gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// None.
    None,
    /// What is there already.
    InPlace,
    /// The gradient of a block's output, through [`Shortcut::Padded`].
    Padded(Gradient),
}

/// Hidden states that are mixed: those that enter a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// The block.
    pub block: usize,
    /// The last layer before it.
    pub layer: usize,
}

/// The operations of an engine, on its own buffers.
pub trait Engine {
    /// What can go wrong.
    type Error;

    /// A convolution and the statistics of its batch norm; `keep` asks that the input is kept as that of a block.
    ///
    /// # Errors
    /// The engine's.
    fn conv(&self, layer: usize, input: Input, keep: Option<usize>) -> Result<(), Self::Error>;

    /// Mixes what leaves a block (a raw output and the identity of that block's input), and keeps it as the input of the next one.
    ///
    /// # Errors
    /// The engine's.
    fn mix(&self, mixed: Mixed) -> Result<(), Self::Error>;

    /// Pools `relu(norm(y) + x)` of the last layer and the input kept of the last block, classifies it, and in training takes the loss
    /// and leaves the gradient of the pooled values in `dz`.
    ///
    /// # Errors
    /// The engine's.
    fn head(&self, layer: usize, block: usize, dz: Gradient) -> Result<(), Self::Error>;

    /// The gradients of a convolution, of its batch norm, and of its input if asked; `dz` is the gradient of the batch norm's output.
    ///
    /// # Errors
    /// The engine's.
    fn grad(
        &self,
        layer: usize,
        input: Input,
        dz: Gradient,
        to: Option<InputGrad>,
    ) -> Result<(), Self::Error>;

    /// The gradient of [`Engine::mix`]: from that of the result to that of the output of the batch norm before it.
    ///
    /// # Errors
    /// The engine's.
    fn unmix(&self, mixed: Mixed, from: Gradient, to: Gradient) -> Result<(), Self::Error>;
}

impl Plan {
    /// The plan of a network for images of `[height, width, channels]`.
    ///
    /// # Errors
    /// What no engine can do yet, in words.
    pub fn new(network: &Network, shape: [usize; 3]) -> Result<Plan, String> {
        check(network)?;
        let [height, width, channels] = shape;
        let layers = network.geometries(shape);
        if channels != network.stem.cin {
            return Err(format!(
                "images have {channels} channels, {} takes {}",
                network.name, network.stem.cin
            ));
        }
        let sides = 1 << (network.stages.len() - 1);
        if !(height.is_multiple_of(sides) && width.is_multiple_of(sides)) {
            return Err(format!(
                "images are {height}×{width}; {} needs sides that are multiples of {sides}",
                network.name
            ));
        }
        let (mut blocks, mut first) = (Vec::new(), 1);
        for (stage, all) in network.stages.iter().enumerate() {
            for block in all {
                let is_padded = block.shortcut == Kind::Padded;
                let last = first + block.convs.len() - 1;
                blocks.push(Step { first, last, stage, is_padded });
                first = last + 1;
            }
        }
        Ok(Plan { layers, blocks })
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Number of stages.
    pub fn stages(&self) -> usize {
        self.blocks.last().map_or(0, |b| b.stage + 1)
    }

    /// The first layer of a block.
    pub fn first_of(&self, block: usize) -> usize {
        self.blocks[block].first
    }

    /// Sizes of what is kept as the input of a block.
    pub fn kept(&self, block: usize) -> Geometry {
        self.layers[self.blocks[block].first]
    }

    /// Sizes of the last layer of a stage, whose output its gradients are as large as.
    pub fn end_of(&self, stage: usize) -> Geometry {
        let last = self.blocks.iter().rev().find(|b| b.stage == stage);
        self.layers[last.map_or(0, |b| b.last)]
    }

    /// The block that enters a stage, and the layer before it, to mix what leaves stage `point`, from 1.
    pub fn mixed(&self, point: usize) -> Option<Mixed> {
        let block = self.blocks.iter().position(|b| b.stage == point).filter(|block| *block > 0)?;
        Some(Mixed { block, layer: self.blocks[block].first - 1 })
    }

    /// Where the head leaves its gradient.
    fn top(&self) -> Gradient {
        Gradient { stage: self.stages() - 1, second: false }
    }

    /// The last layer.
    fn last(&self) -> usize {
        self.layers.len() - 1
    }
}

/// Whether there is an engine for a network, whatever the size of the images.
///
/// # Errors
/// What no engine can do yet, in words.
pub fn check(network: &Network) -> Result<(), String> {
    match lacking(network) {
        Some(what) => Err(format!("there is no engine yet for {}, which has {what}", network.name)),
        None => Ok(()),
    }
}

/// What of a network no engine can do yet: all but stages of two or more blocks of two 3×3 convolutions, whose shortcuts are padded
/// where a stage but the first begins, and else identities.
fn lacking(network: &Network) -> Option<String> {
    if network.pool {
        return Some("a max-pool after the stem".into());
    }
    if let Some(Conv { name, kernel, stride, .. }) = network.convs().find(|c| c.kernel != 3 || c.stride > 2) {
        return Some(format!("{name}, a {kernel}×{kernel} convolution with stride {stride}"));
    }
    let mut channels = network.stem.cout;
    for (stage, blocks) in network.stages.iter().enumerate() {
        if blocks.len() < 2 {
            return Some(format!("a stage of {} block", blocks.len()));
        }
        for (n, block) in blocks.iter().enumerate() {
            let (shortcut, stride, cout) = match stage > 0 && n == 0 {
                true => (Kind::Padded, 2, 2 * channels),
                false => (Kind::Identity, 1, channels),
            };
            let layers = block.convs.iter().map(|c| (c.stride, c.cin, c.cout));
            let usual = [(stride, channels, cout), (1, cout, cout)];
            if block.shortcut != shortcut || !layers.eq(usual) {
                let name = block.convs.first().map_or("nothing", |conv| &conv.name);
                return Some(format!("a block of another kind, that of {name}"));
            }
            channels = cout;
        }
    }
    network.stages.is_empty().then(|| "no stages".into())
}

/// Forward through all layers and the head; what leaves a stage is mixed or not.
///
/// # Errors
/// The engine's.
pub fn forward<E: Engine>(plan: &Plan, engine: &E, mixed: Option<Mixed>) -> Result<(), E::Error> {
    engine.conv(0, Input::Images, None)?;
    let mut shortcut = Shortcut::None;
    for (n, block) in plan.blocks.iter().enumerate() {
        match mixed.filter(|m| m.block == n) {
            Some(mixed) => {
                engine.mix(mixed)?;
                engine.conv(block.first, Input::Kept(n), None)?;
            }
            None => engine.conv(block.first, Input::Normed { layer: block.first - 1, shortcut }, Some(n))?,
        }
        for layer in block.first + 1..=block.last {
            engine.conv(layer, Input::Normed { layer: layer - 1, shortcut: Shortcut::None }, None)?;
        }
        shortcut = if block.is_padded { Shortcut::Padded(n) } else { Shortcut::Identity(n) };
    }
    engine.head(plan.last(), plan.blocks.len() - 1, plan.top())
}

/// Backward through all layers, after [`forward`] in training.
///
/// # Errors
/// The engine's.
pub fn backward<E: Engine>(plan: &Plan, engine: &E, mixed: Option<Mixed>) -> Result<(), E::Error> {
    // Of each stage the buffer that holds the gradient behind a block's last batch norm; mixing exchanges it with the other.
    let mut out: Vec<Gradient> = (0..plan.stages()).map(|stage| Gradient { stage, second: false }).collect();
    for (n, block) in plan.blocks.iter().enumerate().rev() {
        let mut dz = out[block.stage];
        for layer in (block.first + 1..=block.last).rev() {
            let to = Gradient { stage: block.stage, second: !dz.second };
            let (before, input) = (layer - 1, Input::Normed { layer: layer - 1, shortcut: Shortcut::None });
            let input_grad = InputGrad { to, residual: Residual::None, before, sums: true };
            engine.grad(layer, input, dz, Some(input_grad))?;
            dz = to;
        }
        let (before, of) = (block.first - 1, n.checked_sub(1).map_or(0, |n| plan.blocks[n].stage));
        let residual = if block.is_padded { Residual::Padded(out[block.stage]) } else { Residual::InPlace };
        let to = out[of];
        let here = mixed.filter(|m| m.block == n);
        let input_grad = InputGrad { to, residual, before, sums: here.is_none() };
        engine.grad(block.first, Input::Kept(n), dz, Some(input_grad))?;
        if let Some(mixed) = here {
            let other = Gradient { second: !to.second, ..to };
            engine.unmix(mixed, to, other)?;
            out[of] = other;
        }
    }
    engine.grad(0, Input::Images, out[0], None)
}

#[cfg(test)]
mod tests;
