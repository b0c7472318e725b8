//! How networks are executed: the order of the operations of a training step, written once, and the
//! operations that an engine has.
//!
//! [`forward`] and [`backward`] walk over a [`Plan`], which follows from a network's description and the size
//! of the images, and call an [`Engine`]. Each operation does everything that can be done while an image is
//! in the cache: a convolution makes its input from the raw output of the one before (batch norm, shortcut,
//! ReLU), and leaves a raw output and its sums. All engines number alike: layers as
//! [`Network::convs`](crate::net::Network::convs) has them, stored inputs by their block, and buffers for
//! gradients as [`Plan::gradients`].

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
mod plan;
mod precision;

pub use cpu::blend::Pairs;
pub use cpu::conv::Residual;
pub use cpu::sgd::Rates;
pub use cpu::source::{Input, Shortcut};
pub use plan::{Block, Mixed, Plan, check};
pub use precision::Precision;

/// Values that are stored as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The images.
    Images,
    /// The input of a block.
    Input(usize),
}

/// The input of a layer, of stored values and of layers by their number.
pub type Source = Input<Stored, usize>;

/// The number of a buffer for gradients, see [`Plan::gradients`].
pub type Gradient = usize;

/// How the gradient of a convolution's input is finished: added to what comes through the shortcut, and
/// masked by the ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputGrad {
    /// Where it goes.
    pub to: Gradient,
    /// What comes through the shortcut.
    pub residual: Residual<Gradient>,
    /// The layer whose raw output the input was made of, if its batch norm needs the sums of this gradient.
    pub sums_of: Option<usize>,
}

/// The operations of an engine, on its own buffers.
pub trait Engine {
    /// What can go wrong.
    type Error;

    /// A convolution and the statistics of its batch norm; the input is stored as that of the block `store`.
    ///
    /// # Errors
    /// The engine's.
    fn conv(&self, layer: usize, input: Source, store: Option<usize>) -> Result<(), Self::Error>;

    /// The max-pool of the stem's output, stored as the input of the first block.
    ///
    /// # Errors
    /// The engine's.
    fn pool(&self, input: Source) -> Result<(), Self::Error>;

    /// Takes the mean over all pixels and classifies it; in training also takes the loss, and leaves the
    /// gradient of the input in `dz`, with the sums that the last layer's batch norm needs.
    ///
    /// # Errors
    /// The engine's.
    fn head(&self, input: Source, dz: Gradient) -> Result<(), Self::Error>;
}

/// The operations of an engine that trains.
pub trait Training: Engine {
    /// Mixes hidden states, and stores them as the input of a block.
    ///
    /// # Errors
    /// The engine's.
    fn mix(&self, mixed: Mixed, input: Source) -> Result<(), Self::Error>;

    /// The gradients of a convolution, of its batch norm, and of its input if asked; `dz` is the gradient of
    /// the batch norm's output. The operation before has left its sums, except for a projection.
    ///
    /// # Errors
    /// The engine's.
    fn grad(
        &self,
        layer: usize,
        input: Source,
        dz: Gradient,
        to: Option<InputGrad>,
    ) -> Result<(), Self::Error>;

    /// The gradient of [`Training::mix`], with the sums that the batch norm before it needs.
    ///
    /// # Errors
    /// The engine's.
    fn unmix(&self, mixed: Mixed, from: Gradient, to: Gradient) -> Result<(), Self::Error>;

    /// The gradient of [`Engine::pool`], with the sums that the stem's batch norm needs.
    ///
    /// # Errors
    /// The engine's.
    fn unpool(&self, input: Source, from: Gradient, to: Gradient) -> Result<(), Self::Error>;
}

/// The stem's output, before any pooling.
const STEM: Source = Input::Normed { of: 0, shortcut: Shortcut::None };

/// Forward through all layers and the head, in evaluation.
///
/// # Errors
/// The engine's.
pub fn evaluate<E: Engine>(plan: &Plan, engine: &E) -> Result<(), E::Error> {
    stem(plan, engine)?;
    for n in 0..plan.blocks.len() {
        block(plan, engine, n, n == 0 && plan.pools)?;
    }
    engine.head(output(plan, plan.blocks.len()), plan.top())
}

/// Forward through all layers and the head, in training; the hidden states that enter a block are mixed or
/// not.
///
/// # Errors
/// The engine's.
pub fn forward<E: Training>(plan: &Plan, engine: &E, mixed: Option<Mixed>) -> Result<(), E::Error> {
    stem(plan, engine)?;
    for n in 0..plan.blocks.len() {
        let mixed = mixed.filter(|m| m.block == n);
        if let Some(mixed) = mixed {
            engine.mix(mixed, output(plan, n))?;
        }
        block(plan, engine, n, mixed.is_some() || (n == 0 && plan.pools))?;
    }
    engine.head(output(plan, plan.blocks.len()), plan.top())
}

/// Forward through the layers before the first block.
///
/// # Errors
/// The engine's.
pub fn stem<E: Engine>(plan: &Plan, engine: &E) -> Result<(), E::Error> {
    engine.conv(0, Input::Plain(Stored::Images), None)?;
    if plan.pools { engine.pool(STEM) } else { Ok(()) }
}

/// Forward through a block, whose input is stored already or is what the layers before have left.
///
/// # Errors
/// The engine's.
pub fn block<E: Engine>(plan: &Plan, engine: &E, n: usize, is_stored: bool) -> Result<(), E::Error> {
    let block = &plan.blocks[n];
    let stored = Input::Plain(Stored::Input(n));
    match is_stored {
        true => engine.conv(block.first, stored, None)?,
        false => engine.conv(block.first, output(plan, n), Some(n))?,
    }
    if let Shortcut::Projected(projection) = block.shortcut {
        engine.conv(projection, stored, None)?;
    }
    for layer in block.first + 1..=block.last {
        engine.conv(layer, inner(layer), None)?;
    }
    Ok(())
}

/// What enters block `n`, or the head.
pub fn output(plan: &Plan, n: usize) -> Source {
    let Some(before) = n.checked_sub(1) else { return STEM };
    let Block { last, shortcut, .. } = plan.blocks[before];
    Input::Normed { of: last, shortcut }.map(|()| Stored::Input(before), |layer| layer)
}

/// What enters a layer inside a block: the output of the one before.
fn inner(layer: usize) -> Source {
    Input::Normed { of: layer - 1, shortcut: Shortcut::None }
}

/// Backward through all layers, after [`forward`] in training.
///
/// # Errors
/// The engine's.
pub fn backward<E: Training>(plan: &Plan, engine: &E, mixed: Option<Mixed>) -> Result<(), E::Error> {
    // For each group, the buffer with the gradient behind a block's last batch norm, then the spare one;
    // mixing swaps them.
    let mut held = plan.groups.clone();
    for (n, block) in plan.blocks.iter().enumerate().rev() {
        let stored = Input::Plain(Stored::Input(n));
        let (into, [out, other]) = (plan.group_before(n), held[block.group]);
        let [to, spare] = held[into];
        let mut residual = match block.shortcut {
            Shortcut::Padded(()) => {
                let geo = plan.layers[block.last];
                Residual::Padded(out, [geo.out_height(), geo.out_width(), geo.cout])
            }
            _ => Residual::InPlace,
        };
        if let Shortcut::Projected(projection) = block.shortcut {
            let input_grad = InputGrad { to, residual: Residual::None, sums_of: None };
            engine.grad(projection, stored, out, Some(input_grad))?;
            residual = Residual::InPlace;
        }
        let mut dz = out;
        for layer in (block.first + 1..=block.last).rev() {
            let to = if dz == other { plan.third } else { other };
            let input_grad = InputGrad { to, residual: Residual::None, sums_of: Some(layer - 1) };
            engine.grad(layer, inner(layer), dz, Some(input_grad))?;
            dz = to;
        }
        let mixed = mixed.filter(|m| m.block == n);
        let is_pooled = n == 0 && plan.pools;
        let sums_of = (mixed.is_none() && !is_pooled).then(|| plan.before(n));
        engine.grad(block.first, stored, dz, Some(InputGrad { to, residual, sums_of }))?;
        if let Some(mixed) = mixed {
            engine.unmix(mixed, to, spare)?;
            held[into] = [spare, to];
        }
        if is_pooled {
            engine.unpool(STEM, to, plan.stem)?;
        }
    }
    let dz = if plan.pools { plan.stem } else { held[0][0] };
    engine.grad(0, Input::Plain(Stored::Images), dz, None)
}

#[cfg(test)]
mod tests;
