//! The input of a layer: stored values, or raw outputs of earlier layers, which are normalised, added and cut
//! off at zero when they are read.
//!
//! [`Input`] is generic in the representation of stored values and of a layer's raw output: numbers in a
//! plan, tensors in an operation, slices in a kernel.

use std::convert::Infallible;

/// Values that are stored in memory, as opposed to computed from a raw output when they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The images.
    Images,
    /// The input of a block.
    Input(usize),
}

/// The input of a layer in a plan: stored values, or raw outputs of layers, which are given by their numbers.
pub type Source = Input<Stored, usize>;

/// The input of a layer, made of stored values `K` and of raw outputs of layers `L`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<K, L> {
    /// Stored values, unchanged.
    Plain(K),
    /// `relu(norm(y) + shortcut)`.
    Normed {
        /// The layer with the raw output `y` and its batch norm.
        of: L,
        /// The shortcut that is added.
        shortcut: Shortcut<K, L>,
    },
}

/// The shortcut that is added before a ReLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut<K, L> {
    /// Nothing.
    None,
    /// Stored values of the same size.
    Identity(K),
    /// Every second row and column of stored values, with zeros for the additional channels, half of them in
    /// front.
    Padded(K),
    /// The raw output of a projection, with its batch norm.
    Projected(L),
}

impl<K, L> Input<K, L> {
    /// Converts stored values and layers with functions that may fail.
    ///
    /// # Errors
    /// Returns the first error that a function returns.
    pub fn try_map<K2, L2, E>(
        self,
        stored: impl Fn(K) -> Result<K2, E>,
        layer: impl Fn(L) -> Result<L2, E>,
    ) -> Result<Input<K2, L2>, E> {
        Ok(match self {
            Input::Plain(x) => Input::Plain(stored(x)?),
            Input::Normed { of, shortcut } => Input::Normed {
                of: layer(of)?,
                shortcut: match shortcut {
                    Shortcut::None => Shortcut::None,
                    Shortcut::Identity(x) => Shortcut::Identity(stored(x)?),
                    Shortcut::Padded(x) => Shortcut::Padded(stored(x)?),
                    Shortcut::Projected(y) => Shortcut::Projected(layer(y)?),
                },
            },
        })
    }

    /// Converts stored values and layers.
    pub fn map<K2, L2>(self, stored: impl Fn(K) -> K2, layer: impl Fn(L) -> L2) -> Input<K2, L2> {
        let Ok(mapped) = self.try_map(|x| Ok::<_, Infallible>(stored(x)), |y| Ok(layer(y)));
        mapped
    }

    /// Borrows the stored values and the layers.
    pub fn as_ref(&self) -> Input<&K, &L> {
        match self {
            Input::Plain(x) => Input::Plain(x),
            Input::Normed { of, shortcut } => Input::Normed {
                of,
                shortcut: match shortcut {
                    Shortcut::None => Shortcut::None,
                    Shortcut::Identity(x) => Shortcut::Identity(x),
                    Shortcut::Padded(x) => Shortcut::Padded(x),
                    Shortcut::Projected(y) => Shortcut::Projected(y),
                },
            },
        }
    }
}
