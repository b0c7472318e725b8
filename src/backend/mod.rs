//! Execution of networks: the order of the operations of a training step, written once for all engines, and
//! the operations that an engine implements.
//!
//! [`forward`] and [`backward`] walk over a [`Plan`], which is derived from a network's description and the
//! size of the images, and call an [`Engine`]. Each operation does everything that can be done while an image
//! is in the cache: a convolution computes its input from the raw output of the previous one (batch norm,
//! shortcut, ReLU), and leaves a raw output and its sums. All engines use the same numbering: layers in the
//! order of [`Network::convs`](crate::net::Network::convs), stored inputs by their block, and gradient
//! buffers by their index in [`Plan::gradients`].

pub mod cpu;
pub mod cuda;
pub mod device;
mod input;
mod plan;
mod values;

pub use input::{Input, Shortcut, Source, Stored};
pub use plan::{Block, Mixed, Plan, check};
pub use values::{Inference, Levels, Precision, Rates, levels};

/// The index of a gradient buffer in [`Plan::gradients`].
pub type Gradient = usize;

/// How the gradient of a convolution's input is completed: the gradient from the shortcut is added to it, and
/// the mask of the ReLU is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputGrad {
    /// The buffer that receives it.
    pub to: Gradient,
    /// The gradient that comes through the shortcut.
    pub residual: Residual<Gradient>,
    /// The layer whose raw output the input was computed from, if its batch norm needs the sums of this
    /// gradient.
    pub sums_of: Option<usize>,
}

/// The shortcut's part of an input gradient, made of gradients `G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual<G> {
    /// No shortcut.
    None,
    /// The values that are already in the output.
    InPlace,
    /// The gradient of a block's output, of the given height, width and channels, through
    /// [`Shortcut::Padded`].
    Padded(G, [usize; 3]),
}

/// The operations of an engine, which work on its own buffers.
pub trait Engine {
    /// The error type of the operations.
    type Error;

    /// Runs a convolution and computes the statistics of its batch norm.
    ///
    /// If `store` is given, the convolution's input is also stored as that of the block `store`.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn conv(&self, layer: usize, input: Source, store: Option<usize>) -> Result<(), Self::Error>;

    /// Max-pools the stem's output and stores the result as the input of the first block.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn pool(&self, input: Source) -> Result<(), Self::Error>;

    /// Averages the input over all pixels and classifies the mean. In training, it also computes the loss,
    /// and leaves the gradient of the input in `dz`, with the sums that the last layer's batch norm needs.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn head(&self, input: Source, dz: Gradient) -> Result<(), Self::Error>;
}

/// The additional operations of an engine that trains.
pub trait Training: Engine {
    /// Mixes hidden states, and stores the result as the input of a block.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn mix(&self, mixed: Mixed, input: Source) -> Result<(), Self::Error>;

    /// Computes the gradients of a convolution, of its batch norm, and of its input if `to` is given; `dz` is
    /// the gradient of the batch norm's output. The preceding operation has left the sums of `dz`, except for
    /// a projection.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn grad(
        &self,
        layer: usize,
        input: Source,
        dz: Gradient,
        to: Option<InputGrad>,
    ) -> Result<(), Self::Error>;

    /// Computes the gradient of [`Training::mix`], with the sums that the batch norm before it needs.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn unmix(&self, mixed: Mixed, from: Gradient, to: Gradient) -> Result<(), Self::Error>;

    /// Computes the gradient of [`Engine::pool`], with the sums that the stem's batch norm needs.
    ///
    /// # Errors
    /// Returns an error if the engine fails.
    fn unpool(&self, input: Source, from: Gradient, to: Gradient) -> Result<(), Self::Error>;
}

/// The stem's output, before any pooling.
const STEM: Source = Input::Normed { of: 0, shortcut: Shortcut::None };

/// Runs the forward pass through all layers and the head, in evaluation mode.
///
/// # Errors
/// Returns an error if an operation of the engine fails.
pub fn evaluate<E: Engine>(plan: &Plan, engine: &E) -> Result<(), E::Error> {
    stem(plan, engine)?;
    for n in 0..plan.blocks.len() {
        block(plan, engine, n, n == 0 && plan.pools)?;
    }
    engine.head(output(plan, plan.blocks.len()), plan.top())
}

/// Runs the forward pass through all layers and the head, in training mode. If `mixed` is given, the hidden
/// states that enter its block are mixed.
///
/// # Errors
/// Returns an error if an operation of the engine fails.
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

/// Runs the forward pass through the layers before the first block.
///
/// # Errors
/// Returns an error if an operation of the engine fails.
pub fn stem<E: Engine>(plan: &Plan, engine: &E) -> Result<(), E::Error> {
    engine.conv(0, Input::Plain(Stored::Images), None)?;
    if plan.pools { engine.pool(STEM) } else { Ok(()) }
}

/// Runs the forward pass through a block. Its input is either stored already (`is_stored`) or computed from
/// what the preceding layers have left, and then stored.
///
/// # Errors
/// Returns an error if an operation of the engine fails.
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

/// Returns the input of block `n`, or that of the head if `n` is the number of blocks.
pub fn output(plan: &Plan, n: usize) -> Source {
    let Some(before) = n.checked_sub(1) else { return STEM };
    let Block { last, shortcut, .. } = plan.blocks[before];
    Input::Normed { of: last, shortcut }.map(|()| Stored::Input(before), |layer| layer)
}

/// Returns the input of a layer inside a block: the output of the layer before it.
fn inner(layer: usize) -> Source {
    Input::Normed { of: layer - 1, shortcut: Shortcut::None }
}

/// Runs the backward pass through all layers, after [`forward`] in training.
///
/// # Errors
/// Returns an error if an operation of the engine fails.
pub fn backward<E: Training>(plan: &Plan, engine: &E, mixed: Option<Mixed>) -> Result<(), E::Error> {
    // For each group, the buffer that holds the gradient of the output of a block's last batch norm, then the
    // spare one. Mixing swaps them.
    let mut held = plan.groups.clone();
    for (n, block) in plan.blocks.iter().enumerate().rev() {
        let stored = Input::Plain(Stored::Input(n));
        let (into, [out, other]) = (plan.group_before(n), held[block.group]);
        let [to, spare] = held[into];
        let residual = match block.shortcut {
            Shortcut::Padded(()) => Residual::Padded(out, plan.layers[block.last].out_shape()),
            _ => Residual::InPlace,
        };
        if let Shortcut::Projected(projection) = block.shortcut {
            let input_grad = InputGrad { to, residual: Residual::None, sums_of: None };
            engine.grad(projection, stored, out, Some(input_grad))?;
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
