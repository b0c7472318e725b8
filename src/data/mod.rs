//! Images on their way from the official files to the training loop.
//!
//! [`cifar`] and [`synthetic`] yield balanced [`Images`], [`imbalance`] chooses a subset of them, [`shard`]
//! writes it and maps it again. Augmentation and batching are not here.

pub mod archive;
pub mod cifar;
pub mod imbalance;
pub mod pickle;
pub mod shard;
pub mod synthetic;

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::manifest::{self, Manifest};

/// Height and width of every image here.
pub const SIDE: usize = 32;

/// Red, green, blue.
pub const CHANNELS: usize = 3;

/// Bytes of one plane.
pub const PLANE: usize = SIDE * SIDE;

/// Bytes of one image.
pub const PIXELS: usize = PLANE * CHANNELS;

/// A balanced data set with its official split, before any choice is made.
#[derive(Debug)]
pub struct Source {
    /// Names of the classes; a label is an index into them.
    pub class_names: Vec<String>,
    /// Training images in file order.
    pub train: Images,
    /// Test images in file order.
    pub test: Images,
}

/// Labelled images in memory, as the official files hold them: three planes R, G, B of 32 rows of 32 bytes.
#[derive(Debug, Default)]
pub struct Images {
    labels: Vec<u32>,
    batches: Vec<Batch>,
}

/// Equally spaced images inside one buffer, which may hold labels between them.
#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    /// Bytes before the pixels of each image.
    lead: usize,
    /// Index of the first image.
    first: usize,
}

impl Source {
    /// Hash of all labels and pixels in their order, whatever files they came in: blake3 of the hashes of
    /// pieces of 2,500 images (the last one of a split may be smaller), training images first, each image its
    /// label and its three planes. Labels are one byte of up to 256 classes, four bytes, the lowest first, of
    /// more.
    pub fn digest(&self) -> String {
        let mut all = blake3::Hasher::new();
        for images in [&self.train, &self.test] {
            let numbers: Vec<u32> = (0..).take(images.len()).collect();
            for hash in images.pieces(&numbers, self.class_names.len()) {
                all.update(hash.as_bytes());
            }
        }
        all.finalize().to_hex().to_string()
    }
}

impl Images {
    /// Appends one buffer of records, each `lead` bytes of anything and then [`PIXELS`] bytes of an image.
    ///
    /// # Panics
    /// When `bytes` does not hold exactly one record a label: readers check their files first.
    fn push(&mut self, bytes: Vec<u8>, lead: usize, labels: Vec<u32>) {
        assert_eq!(bytes.len(), labels.len() * (lead + PIXELS), "one record a label");
        self.batches.push(Batch { bytes, lead, first: self.labels.len() });
        self.labels.extend(labels);
    }

    /// Hash of the labels and pixels of chosen images, in their order; as [`Source::digest`], of one split of
    /// a data set of `classes`.
    pub fn digest(&self, chosen: &[u32], classes: usize) -> String {
        let mut all = blake3::Hasher::new();
        for hash in self.pieces(chosen, classes) {
            all.update(hash.as_bytes());
        }
        all.finalize().to_hex().to_string()
    }

    fn pieces(&self, chosen: &[u32], classes: usize) -> Vec<blake3::Hash> {
        use rayon::prelude::*;
        // The number of classes decides, not the labels that occur: a split means the same beside its others.
        let label_bytes = if classes <= 256 { 1 } else { 4 };
        let hash = |piece: &[u32]| {
            // Hashing wants many bytes at a time, which stay in the cache.
            let (mut hasher, mut bytes) = (blake3::Hasher::new(), vec![]);
            for some in piece.chunks(32) {
                bytes.clear();
                for &i in some {
                    bytes.extend_from_slice(&self.labels[i as usize].to_le_bytes()[..label_bytes]);
                    bytes.extend_from_slice(self.planes(i as usize));
                }
                hasher.update(&bytes);
            }
            hasher.finalize()
        };
        chosen.par_chunks(2_500).map(hash).collect()
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Labels of all images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Image `i` as planes, (C, H, W).
    pub fn planes(&self, i: usize) -> &[u8] {
        let b = &self.batches[self.batches.partition_point(|b| b.first <= i) - 1];
        let at = (i - b.first) * (b.lead + PIXELS) + b.lead;
        &b.bytes[at..at + PIXELS]
    }

    /// Writes image `i` as (H, W, C).
    pub fn write_hwc(&self, i: usize, out: &mut [u8]) {
        let (r, gb) = self.planes(i).split_at(PLANE);
        let (g, b) = gb.split_at(PLANE);
        for (((out, r), g), b) in out.chunks_exact_mut(CHANNELS).zip(r).zip(g).zip(b) {
            out.copy_from_slice(&[*r, *g, *b]);
        }
    }

    /// Mean and standard deviation (over N, H and W, population form) of each channel of the chosen images,
    /// 0–1 scale. Sums are exact integers, so neither order nor threads matter.
    pub fn mean_std(&self, chosen: &[u32]) -> ([f64; CHANNELS], [f64; CHANNELS]) {
        use rayon::prelude::*;
        let sums = chosen
            .par_iter()
            .map(|&i| {
                let mut sums = [[0u64; 2]; CHANNELS];
                for (sum, plane) in sums.iter_mut().zip(self.planes(i as usize).chunks_exact(PLANE)) {
                    // Both fit 32 bits for one plane: 1024 · 255².
                    sum[0] = plane.iter().map(|&v| u32::from(v)).sum::<u32>().into();
                    sum[1] = plane.iter().map(|&v| u32::from(v) * u32::from(v)).sum::<u32>().into();
                }
                sums
            })
            .reduce(Default::default, |a, b| std::array::from_fn(|c| [a[c][0] + b[c][0], a[c][1] + b[c][1]]));
        let n = (chosen.len() * PLANE) as f64;
        let mean = sums.map(|[sum, _]| sum as f64 / n / 255.0);
        // n·Σv² − (Σv)² in integers: no cancellation.
        let std = sums.map(|[sum, squares]| {
            let count = (chosen.len() * PLANE) as u128;
            let spread = count * u128::from(squares) - u128::from(sum) * u128::from(sum);
            (spread as f64).sqrt() / n / 255.0
        });
        (mean, std)
    }
}

/// What a data set's manifest says of its classes and channels.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Info {
    /// Number of classes.
    pub classes: usize,
    /// Their names, by label.
    pub class_names: Vec<String>,
    /// Training images of each class, after imbalance and hold-out.
    pub cls_num_list: Vec<usize>,
    /// Mean of each channel over the training split, 0–1 scale.
    pub mean: Vec<f64>,
    /// Standard deviation of each channel over the training split, 0–1 scale.
    pub std: Vec<f64>,
}

impl Info {
    /// Reads the metrics of a data set's manifest.
    ///
    /// # Errors
    /// Metrics that are missing or contradict each other, or a manifest of something else.
    pub fn of(m: &Manifest) -> Result<Info, Error> {
        let bad = |why: String| Error::Foreign { path: m.path.clone().unwrap_or_default(), why };
        let info: Info = serde_json::from_value(Value::Object(m.metrics.clone()))
            .map_err(|e| bad(format!("metrics: {e}")))?;
        let same = [info.class_names.len(), info.cls_num_list.len()] == [info.classes; 2];
        if info.classes == 0 || !same {
            return Err(bad("metrics: classes, class_names and cls_num_list disagree".into()));
        }
        if [info.mean.len(), info.std.len()] != [CHANNELS; 2] {
            return Err(bad(format!("metrics: mean and std are not {CHANNELS} numbers each")));
        }
        Ok(info)
    }
}

/// What can be wrong with images and with the files they come from. Each is one line: where, what, what to
/// do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest or the files it lists.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// The file system said no.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said. Not named `source`: with its causes the message would say it twice.
        error: std::io::Error,
    },
    /// Not even a directory is there.
    #[error(
        "{path}: there is no such file or directory; say where {dataset} is, or download it with `make data` or \
         scripts/fetch-cifar --dest {path}"
    )]
    Nothing {
        /// Where it was looked for.
        path: PathBuf,
        /// `cifar10` or `cifar100`.
        dataset: &'static str,
    },
    /// None of the official forms is there.
    #[error(
        "{path}: no {dataset} here{hint}; it may be the archive, its directory, or a directory that holds either ({names}); \
         `make data` and scripts/fetch-cifar download it"
    )]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
        /// `cifar10` or `cifar100`.
        dataset: &'static str,
        /// What is there instead, if known.
        hint: String,
        /// Names of the official directories and archives.
        names: String,
    },
    /// Not the official files but something that is known.
    #[error("{path}: is {what}; {todo}")]
    Other {
        /// What was given.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        todo: String,
    },
    /// An official file that is not as published.
    #[error("{path}: {why}; download it again (scripts/fetch-cifar)")]
    Official {
        /// The file, or the archive's member.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file that would do harm if it were trusted.
    #[error("{path}: {why}; do not use this file, download the official one (scripts/fetch-cifar)")]
    Hostile {
        /// The file, or the archive's member.
        path: PathBuf,
        /// What it tried.
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
    /// A profile that the data cannot give.
    #[error("{0}")]
    Profile(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |error| Error::Io { path, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_statistics_are_those_of_the_definition() {
        let source = synthetic::generate(3, 1);
        let chosen = [4u32, 7, 29];
        let (mean, std) = source.train.mean_std(&chosen);
        for c in 0..CHANNELS {
            let plane = |&i: &u32| source.train.planes(i as usize)[c * PLANE..(c + 1) * PLANE].to_vec();
            let values: Vec<f64> = chosen.iter().flat_map(plane).map(|v| f64::from(v) / 255.0).collect();
            let m = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / values.len() as f64;
            assert!((mean[c] - m).abs() < 1e-12 && (std[c] - variance.sqrt()).abs() < 1e-12);
        }
    }

    #[test]
    fn labels_beyond_a_byte_are_told_apart() {
        let source = |labels: [u32; 2], classes: usize| {
            let mut train = Images::default();
            train.push(vec![7; 2 * PIXELS], 0, labels.to_vec());
            Source { class_names: vec![String::new(); classes], train, test: Images::default() }
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
        for classes in [256, 257] {
            let source = source([3, 255], classes);
            assert_eq!(source.train.digest(&[0, 1], classes), source.digest(), "a split alone");
        }
    }

    #[test]
    fn planes_become_interleaved() {
        let source = synthetic::generate(1, 1);
        let mut out = vec![0; PIXELS];
        source.train.write_hwc(3, &mut out);
        for (at, &value) in out.iter().enumerate() {
            assert_eq!(value, source.train.planes(3)[at % CHANNELS * PLANE + at / CHANNELS]);
        }
    }
}
