//! Image files: found by a [`Listing`](super::listing::Listing), decoded and resized on demand.

pub mod decode;
mod orientation;
pub mod resize;
pub mod tree;

use std::fs;
use std::path::Path;

use super::{CHANNELS, Images, Unreadable};
pub use resize::Preprocess;
use tree::Tree;

/// How a file is turned into an image of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The preprocessing to a square.
    pub preprocess: Preprocess,
    /// Maximum number of pixels; larger images are refused.
    pub max_pixels: u64,
}

impl Reading {
    /// Reads a file and writes its square, (H, W, C).
    ///
    /// # Errors
    /// Returns what is wrong with the file, such as [`Unreadable::Changed`] if its hash differs.
    pub fn read(&self, path: &Path, blake3: &str, out: &mut [u8]) -> Result<(), Unreadable> {
        let bytes = fs::read(path).map_err(Unreadable::Io)?;
        if blake3::hash(&bytes).to_hex().as_str() != blake3 {
            return Err(Unreadable::Changed);
        }
        let image = decode::decode(&bytes, self.max_pixels)?;
        self.preprocess.apply(&image, out);
        Ok(())
    }
}

/// The files of a split.
#[derive(Debug)]
pub struct Files<'a> {
    /// The directory that paths are relative to.
    pub root: &'a Path,
    /// All files of the data set.
    pub tree: &'a Tree,
    /// Index in the tree of each image.
    pub rows: Vec<u32>,
    /// Label of each image.
    pub labels: Vec<u32>,
    /// How the files are read.
    pub reading: Reading,
}

impl Images for Files<'_> {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn shape(&self) -> [usize; 3] {
        let side = self.reading.preprocess.stored();
        [side, side, CHANNELS]
    }

    fn write(&self, i: usize, out: &mut [u8]) -> Result<(), Unreadable> {
        let (path, blake3) = &self.tree.files[self.rows[i] as usize];
        self.reading.read(&self.root.join(path), blake3, out)
    }

    fn source_index(&self, i: usize) -> u32 {
        self.rows[i]
    }

    fn name(&self, i: usize) -> String {
        self.tree.files[self.rows[i] as usize].0.clone()
    }
}

#[cfg(test)]
mod tests;
