//! Balanced images in memory, in the layout of CIFAR's files, and a hash that does not depend on that layout.

use rayon::prelude::*;

use super::{CHANNELS, Images, PIXELS, PLANE, SIDE, Unreadable};

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

    fn write(&self, i: usize, out: &mut [u8]) -> Result<(), Unreadable> {
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
    pub(super) fn push(&mut self, bytes: Vec<u8>, lead: usize, labels: Vec<u32>) {
        assert_eq!(bytes.len(), labels.len() * (lead + PIXELS), "one record per label");
        self.batches.push(Batch { bytes, lead, first: self.labels.len() });
        self.labels.extend(labels);
    }

    /// Returns the hashes of pieces of [`PIECE`] images, with their labels.
    fn pieces(&self, classes: usize) -> Vec<blake3::Hash> {
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
pub(super) const PIECE: usize = 2_500;

/// Returns the number of bytes of a label in a hash. It depends on the number of classes, not on the labels
/// that occur, so that all splits of a data set use the same encoding.
pub(super) fn label_bytes(classes: usize) -> usize {
    if classes <= 256 { 1 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic;

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
