//! Images on their way from files to the training loop.
//!
//! [`cifar`] and [`synthetic`] provide balanced images in memory; a [`listing`] names image files, which
//! [`files`] decodes. Both implement [`Images`]: [`imbalance`] chooses a subset of them, [`shard`] writes the
//! subset and memory-maps it again. Batching is not part of this module.

pub mod archive;
pub mod augment;
pub mod cifar;
mod error;
pub mod features;
pub mod files;
pub mod imbalance;
mod info;
pub mod listing;
mod planes;
pub mod shard;
pub mod synthetic;
mod tensors;

pub use error::{Error, Unreadable};
pub use info::{Info, Normalise, names_id};
pub use planes::{Planes, Source};

/// Height and width of CIFAR images and of the synthetic images.
pub const SIDE: usize = 32;

/// The number of colour channels: red, green, blue.
pub const CHANNELS: usize = 3;

/// Bytes of one colour plane.
pub const PLANE: usize = SIDE * SIDE;

/// Bytes of one image.
pub const PIXELS: usize = PLANE * CHANNELS;

/// The labelled images of a split, wherever they are stored.
pub trait Images: Sync {
    /// Returns the labels of all images.
    fn labels(&self) -> &[u32];

    /// Returns the height, width and channels of each image.
    fn shape(&self) -> [usize; 3];

    /// Writes image `i` as (H, W, C).
    ///
    /// # Errors
    /// Returns what is wrong with the image.
    fn write(&self, i: usize, out: &mut [u8]) -> Result<(), Unreadable>;

    /// Returns the number that identifies the image within its source: its index in the official split, or in
    /// the list of all files.
    fn source_index(&self, i: usize) -> u32;

    /// Returns the name of the image, for messages.
    fn name(&self, i: usize) -> String;
}
