//! Features that a network computes for each image, as written by `embed --splits`: a data set for
//! classifiers.

use std::fs::File;
use std::path::PathBuf;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use super::tensors::{labels_of, typed};
use super::{Error, Info};
use crate::manifest::Manifest;

/// The memory-mapped features of a split.
#[derive(Debug)]
pub struct Features {
    map: Mmap,
    /// Offset of the features in the map.
    at: usize,
    /// Number of features of an image.
    width: usize,
    /// Number of passes of the split through the network: one without augmentation, then augmented ones.
    passes: usize,
    labels: Vec<u32>,
    source_index: Vec<u32>,
}

/// The field of the params that holds the number of augmented passes over the training split.
pub const PASSES: &str = "passes";

impl Features {
    /// Maps the features of a split, after checking that the file is the published one.
    ///
    /// # Errors
    /// Returns an error if the file is missing or damaged, or does not hold features with labels of the
    /// classes.
    pub fn open(m: &Manifest, split: &str) -> Result<Features, Error> {
        let info = Info::of(m)?;
        let path: PathBuf = m.checked(split)?.swap_remove(0);
        let file = File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: the map is only read, and result files are replaced by rename, never written in place.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        let passes = usize::try_from(passes(m, split)).unwrap_or(usize::MAX);
        Features::of(map, &info, passes).map_err(|why| Error::Features { path, why })
    }

    fn of(map: Mmap, info: &Info, passes: usize) -> Result<Features, String> {
        let tensors = SafeTensors::deserialize(&map).map_err(|_| "is truncated or damaged")?;
        let features = typed(&tensors, "features", Dtype::F32, 2)?;
        let labels = typed(&tensors, "labels", Dtype::I64, 1)?;
        let index = typed(&tensors, "source_index", Dtype::U32, 1)?;
        let &[n, width] = features.shape() else { unreachable!("the rank was checked") };
        if n == 0 || width == 0 || labels.shape() != [n] || index.shape() != [n] {
            return Err(format!(
                "features, labels and source_index have the shapes {:?}, {:?} and {:?}; their lengths must \
                 be equal, and none may be empty",
                features.shape(),
                labels.shape(),
                index.shape()
            ));
        }
        if u32::try_from(n).is_err() {
            return Err(format!("has {n} rows, but at most {} can be used", u32::MAX));
        }
        if n % passes != 0 {
            return Err(format!("has {n} rows, which cannot be {passes} passes of equal length"));
        }
        let own = n / passes;
        let mut labels = labels_of(&labels, info.classes)?;
        if labels.chunks(own).any(|pass| *pass != labels[..own]) {
            return Err("its passes have different labels".into());
        }
        labels.truncate(own);
        let index = index.data().as_chunks().0.iter().take(own);
        let source_index = index.map(|w| u32::from_le_bytes(*w)).collect();
        let at = features.data().as_ptr() as usize - map.as_ptr() as usize;
        if !at.is_multiple_of(size_of::<f32>()) {
            return Err("its features are not aligned to four bytes".into());
        }
        Ok(Features { map, at, width, passes, labels, source_index })
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the number of features of an image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns how often the images were passed through the network.
    pub fn passes(&self) -> usize {
        self.passes
    }

    /// Returns the features of all images without augmentation, (N, width).
    pub fn all(&self) -> &[f32] {
        &self.rows()[..self.len() * self.width]
    }

    /// Returns the features of all passes, (passes × N, width).
    fn rows(&self) -> &[f32] {
        let bytes = &self.map[self.at..][..self.passes * self.len() * self.width * size_of::<f32>()];
        // SAFETY: every bit pattern is a valid f32, and the features begin at a multiple of four bytes in a
        // page-aligned map.
        let (before, all, after) = unsafe { bytes.align_to::<f32>() };
        assert!(before.is_empty() && after.is_empty(), "the alignment was checked");
        all
    }

    /// Returns the features of image `i`; those of pass p are at index `i` + p·N.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows()[i * self.width..(i + 1) * self.width]
    }

    /// Returns the labels of all images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the numbers that identify the images within their source.
    pub fn source_index(&self) -> &[u32] {
        &self.source_index
    }
}

/// Returns how often a split was passed through the network, including the pass without augmentation.
pub fn passes(m: &Manifest, split: &str) -> u64 {
    let augmented = m.params.get(PASSES).filter(|_| split == "train").and_then(Value::as_u64);
    augmented.unwrap_or(0).saturating_add(1)
}

/// Returns the name of the file with a split's features.
pub fn file(split: &str) -> String {
    format!("{split}-features.safetensors")
}
