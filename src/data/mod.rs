//! Images on their way from files to the training loop.
//!
//! [`cifar`] and [`synthetic`] provide balanced images in memory; a [`listing`] names image files, which
//! [`files`] decodes. Both implement [`Images`]: [`imbalance`] chooses a subset of them, [`shard`] writes the
//! subset and memory-maps it again. Batching is not part of this module.

pub mod archive;
pub mod augment;
pub mod cifar;
pub mod features;
pub mod files;
pub mod imbalance;
pub mod listing;
pub mod shard;
pub mod synthetic;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::manifest::{self, Manifest, key};
use files::Preprocess;

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
    /// Returns a message that says what is wrong with the image.
    fn write(&self, i: usize, out: &mut [u8]) -> Result<(), String>;

    /// Returns the number that identifies the image within its source: its index in the official split, or in
    /// the list of all files.
    fn source_index(&self, i: usize) -> u32;

    /// Returns the name of the image, for messages.
    fn name(&self, i: usize) -> String;
}

/// A balanced data set with its official split, before a subset is chosen.
#[derive(Debug)]
pub struct Source {
    /// Names of the classes; a label is an index into them.
    pub class_names: Vec<String>,
    /// Training images in file order.
    pub train: Planes,
    /// Test images in file order.
    pub test: Planes,
}

/// Labelled images in memory, as CIFAR's files store them: three planes R, G, B of 32 rows of 32 bytes.
#[derive(Debug, Default)]
pub struct Planes {
    labels: Vec<u32>,
    batches: Vec<Batch>,
}

/// Equally spaced images in one buffer, which may hold labels between them.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    /// Bytes before the pixels of each image.
    lead: usize,
    /// Index of the first image.
    first: usize,
}

impl Source {
    /// Returns a hash of all labels and pixels in order, which does not depend on the file format.
    ///
    /// It is the blake3 of the hashes of pieces of 2,500 images (the last piece of a split may be smaller),
    /// training images first. Each image is hashed as its label and its three planes. A label is one byte for
    /// up to 256 classes, and four little-endian bytes for more.
    pub fn digest(&self) -> String {
        let mut all = blake3::Hasher::new();
        for images in [&self.train, &self.test] {
            for hash in images.pieces(self.class_names.len()) {
                all.update(hash.as_bytes());
            }
        }
        all.finalize().to_hex().to_string()
    }
}

impl Images for Planes {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn shape(&self) -> [usize; 3] {
        [SIDE, SIDE, CHANNELS]
    }

    fn write(&self, i: usize, out: &mut [u8]) -> Result<(), String> {
        let (r, gb) = self.planes(i).split_at(PLANE);
        let (g, b) = gb.split_at(PLANE);
        for (((out, r), g), b) in out.chunks_exact_mut(CHANNELS).zip(r).zip(g).zip(b) {
            out.copy_from_slice(&[*r, *g, *b]);
        }
        Ok(())
    }

    fn source_index(&self, i: usize) -> u32 {
        i as u32
    }

    fn name(&self, i: usize) -> String {
        format!("image {i}")
    }
}

impl Planes {
    /// Appends a buffer of records, each of which is `lead` arbitrary bytes followed by the [`PIXELS`] bytes
    /// of an image.
    ///
    /// # Panics
    /// Panics if `bytes` does not hold exactly one record per label; readers check their files first.
    fn push(&mut self, bytes: Vec<u8>, lead: usize, labels: Vec<u32>) {
        assert_eq!(bytes.len(), labels.len() * (lead + PIXELS), "one record per label");
        self.batches.push(Batch { bytes, lead, first: self.labels.len() });
        self.labels.extend(labels);
    }

    /// Returns the hashes of pieces of [`PIECE`] images, with their labels.
    fn pieces(&self, classes: usize) -> Vec<blake3::Hash> {
        use rayon::prelude::*;
        let label_bytes = label_bytes(classes);
        let hash = |first: usize| {
            // Hash many bytes at a time, but few enough to stay in the cache.
            let (mut hasher, mut bytes) = (blake3::Hasher::new(), vec![]);
            let end = self.len().min(first + PIECE);
            for some in (first..end).step_by(32) {
                bytes.clear();
                for i in some..end.min(some + 32) {
                    bytes.extend_from_slice(&self.labels[i].to_le_bytes()[..label_bytes]);
                    bytes.extend_from_slice(self.planes(i));
                }
                hasher.update(&bytes);
            }
            hasher.finalize()
        };
        (0..self.len()).into_par_iter().step_by(PIECE).map(hash).collect()
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns image `i` as planes, (C, H, W).
    pub fn planes(&self, i: usize) -> &[u8] {
        let b = &self.batches[self.batches.partition_point(|b| b.first <= i) - 1];
        let at = (i - b.first) * (b.lead + PIXELS) + b.lead;
        &b.bytes[at..at + PIXELS]
    }
}

/// Number of images that are hashed together, see [`Source::digest`].
const PIECE: usize = 2_500;

/// Returns the number of bytes of a label in a hash. It depends on the number of classes, not on the labels
/// that occur, so that all splits of a data set use the same encoding.
fn label_bytes(classes: usize) -> usize {
    if classes <= 256 { 1 } else { 4 }
}

/// What the manifest of a data set records about its classes and channels.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Info {
    /// Number of classes.
    pub classes: usize,
    /// Names of the classes, by label.
    pub class_names: Vec<String>,
    /// Training images of each class, after imbalance and hold-out.
    pub cls_num_list: Vec<usize>,
    /// Mean of each channel over the training split, 0–1 scale.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel over the training split, 0–1 scale.
    pub std: Vec<f64>,
    /// Normalisation for networks; CIFAR's values if it is missing.
    #[serde(default)]
    pub normalise: Option<Normalise>,
    /// Side of the square that networks see, in pixels, if the stored images are larger.
    #[serde(default)]
    pub crop: Option<usize>,
    /// How image files were preprocessed.
    #[serde(default)]
    pub preprocess: Option<Preprocess>,
    /// Length of the features of an image, if the data set has features instead of pixels.
    #[serde(default)]
    pub feature_len: Option<usize>,
}

/// Normalisation of the channels, on the 0–1 scale: `(x − mean)/std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalise {
    /// Subtracted from the pixels.
    pub mean: [f64; CHANNELS],
    /// Divides the pixels.
    pub std: [f64; CHANNELS],
}

impl Normalise {
    /// CIFAR's values, as in the reference recipe.
    pub const CIFAR: Normalise = Normalise { mean: [0.4914, 0.4822, 0.4465], std: [0.2023, 0.1994, 0.2010] };

    /// ImageNet's values, as in torchvision's networks.
    pub const IMAGENET: Normalise = Normalise { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };

    /// Returns whether the means are finite and the standard deviations are finite and positive.
    pub fn is_sound(&self) -> bool {
        self.mean.iter().all(|m| m.is_finite()) && self.std.iter().all(|s| s.is_finite() && *s > 0.0)
    }
}

impl Info {
    /// Returns an identifier for the names and the order of the classes, for image files and features: the
    /// beginning of a hash. Published data sets need none.
    pub fn names_id(&self) -> Option<String> {
        let is_own = self.preprocess.is_some() || self.feature_len.is_some();
        is_own.then(|| names_id(&self.class_names))
    }

    /// Reads the metrics of a data set's manifest.
    ///
    /// # Errors
    /// Returns an error if metrics are missing or contradict each other, or if the manifest is not that of a
    /// data set.
    pub fn of(m: &Manifest) -> Result<Info, Error> {
        let bad = |why: String| Error::Foreign { path: m.path.clone().unwrap_or_default(), why };
        let info: Info = serde_json::from_value(Value::Object(m.metrics.clone()))
            .map_err(|e| bad(format!("metrics: {e}")))?;
        let same = [info.class_names.len(), info.cls_num_list.len()] == [info.classes; 2];
        if info.classes == 0 || !same {
            return Err(bad("metrics: classes, class_names and cls_num_list disagree".into()));
        }
        if [info.mean.len(), info.std.len()] != [CHANNELS; 2] {
            return Err(bad(format!("metrics: mean and std must have {CHANNELS} numbers each")));
        }
        if info.normalise.is_some_and(|n| !n.is_sound()) {
            return Err(bad(
                "metrics: normalise must hold finite means and positive standard deviations".into()
            ));
        }
        Ok(info)
    }
}

/// Returns the beginning of a hash of the class names, in their order.
pub fn names_id(class_names: &[String]) -> String {
    let text = Value::from(class_names).to_string();
    key::short(&blake3::hash(text.as_bytes()).to_hex()).to_owned()
}

/// Errors in images and in the files that they come from. Each message is one line: where, what, and what to
/// do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest or a file that it lists is invalid, or the file system reported an error.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The path does not exist.
    #[error(
        "{path}: there is no such file or directory; give the path of {dataset} with --data, or download it \
         with `make data` or scripts/fetch-cifar --dest {path}"
    )]
    Nothing {
        /// The path that was searched.
        path: PathBuf,
        /// `cifar10` or `cifar100`.
        dataset: &'static str,
    },
    /// None of the official files was found.
    #[error(
        "{path}: no {dataset} here{hint}; give the archive, its directory, or a directory that contains \
         either ({names}), or download it with `make data` or scripts/fetch-cifar"
    )]
    NotFound {
        /// The path that was searched.
        path: PathBuf,
        /// `cifar10` or `cifar100`.
        dataset: &'static str,
        /// What is there instead, if known.
        hint: String,
        /// Names of the official directories and archives.
        names: String,
    },
    /// Something known, but not the official files.
    #[error("{path}: is {what}; {todo}")]
    Other {
        /// The given path.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        todo: String,
    },
    /// An official file that differs from the published one.
    #[error("{path}: {why}; download it again (scripts/fetch-cifar)")]
    Official {
        /// The file, or the member of the archive.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file that would do harm if it were trusted.
    #[error("{path}: {why}; do not use this file; download the official one (scripts/fetch-cifar)")]
    Hostile {
        /// The file, or the member of the archive.
        path: PathBuf,
        /// What it attempted.
        why: String,
    },
    /// Shards or metrics that `mk-imbalance` would not have written.
    #[error("{path}: {why}; make the data set again with mk-imbalance")]
    Foreign {
        /// The shard or the manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Features that `embed` would not have written.
    #[error("{path}: {why}; make the features again with embed --splits")]
    Features {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Invalid image files, or an invalid list of them.
    #[error("{path}: {why}")]
    Listing {
        /// The directory, the list or the file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Images that cannot be read.
    #[error(
        "{count} of {all} images cannot be read: {first}; {}repair or remove them, or leave them out with \
         --on-error skip",
        remedy(first)
    )]
    Broken {
        /// Number of broken images.
        count: usize,
        /// Number of all images.
        all: usize,
        /// The first broken images, with what is wrong.
        first: String,
    },
    /// A profile that the data cannot provide.
    #[error("{0}")]
    Profile(String),
}

/// Returns the remedy for images that are not broken themselves, from the description of some images.
fn remedy(first: &str) -> &'static str {
    match () {
        () if first.contains("--max-pixels") => "raise --max-pixels, ",
        () if first.contains("Permission denied") => "check their permissions, ",
        () => "",
    }
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |error| manifest::Error::io(path)(error).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_distinguish_labels_above_255() {
        let source = |labels: [u32; 2], classes: usize| {
            let mut train = Planes::default();
            train.push(vec![7; 2 * PIXELS], 0, labels.to_vec());
            Source { class_names: vec![String::new(); classes], train, test: Planes::default() }
        };
        let digest = |labels, classes| source(labels, classes).digest();
        assert_ne!(digest([1, 0], 8142), digest([257, 0], 8142), "257 is 1 in one byte");
        assert_ne!(digest([1, 0], 256), digest([1, 0], 257), "the number of classes decides");
        // As documented: blake3 of the hash of one piece, [label, pixels] twice.
        let documented = |label: &dyn Fn(u32) -> Vec<u8>| {
            let piece = [label(3), vec![7; PIXELS], label(255), vec![7; PIXELS]].concat();
            blake3::hash(blake3::hash(&piece).as_bytes()).to_hex().to_string()
        };
        assert_eq!(digest([3, 255], 256), documented(&|l| vec![l as u8]));
        assert_eq!(digest([3, 255], 257), documented(&|l| l.to_le_bytes().to_vec()));
    }

    #[test]
    fn planes_are_interleaved() {
        let source = synthetic::generate(1, 1);
        let mut out = vec![0; PIXELS];
        source.train.write(3, &mut out).expect("written");
        for (at, &value) in out.iter().enumerate() {
            assert_eq!(value, source.train.planes(3)[at % CHANNELS * PLANE + at / CHANNELS]);
        }
    }
}
