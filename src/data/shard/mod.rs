//! Shards: the images of a split as safetensors files, written once and memory-mapped afterwards.
//!
//! A file holds `images` U8 (N, H, W, C), `labels` I64 (N) and `source_index` U32 (N), and nothing else, so
//! its bytes are determined by the images alone. The choice of the images is made elsewhere.

mod write;

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensors};

use super::tensors::{labels_of, typed};
use super::{Error, Info};
use crate::manifest::Manifest;
pub use write::{Broken, Chosen, Written};

/// Upper bound on the size of a header of three tensors.
const HEADER: usize = 512;

/// Returns the number of bytes of an image with its label and index.
fn row_len(shape: [usize; 3]) -> usize {
    shape.iter().product::<usize>() + 8 + 4
}

/// Returns the rows of the centre of an image of `stored` = `[H, W, C]`, cut out like torchvision's
/// `CenterCrop`.
pub fn centre_rows(image: &[u8], stored: [usize; 3], shape: [usize; 3]) -> impl Iterator<Item = &[u8]> {
    let [top, left] = [0, 1].map(|axis| centre(stored[axis] - shape[axis]));
    let (from, to) = (left * stored[2], (left + shape[1]) * stored[2]);
    image.chunks_exact(stored[1] * stored[2]).skip(top).take(shape[0]).map(move |row| &row[from..to])
}

/// Returns half of the number of pixels that are cut off, with ties rounded to even as in Python.
pub fn centre(cut: usize) -> usize {
    (cut as f64 / 2.0).round_ties_even() as usize
}

/// Returns the smallest usable `--shard-bytes` for images of a shape, which is enough for one image.
pub fn min_bytes(shape: [usize; 3]) -> usize {
    HEADER + row_len(shape)
}

/// The memory-mapped shards of one split.
#[derive(Debug)]
pub struct Split {
    shards: Vec<Shard>,
    labels: Vec<u32>,
    source_index: Vec<u32>,
    /// Shape of the stored images.
    stored: [usize; 3],
    /// Shape of the part that networks see.
    shape: [usize; 3],
}

#[derive(Debug)]
struct Shard {
    map: Mmap,
    /// Offset of the pixels in the map.
    pixels: usize,
    /// Index of the first image.
    first: usize,
}

impl Split {
    /// Maps the split `train`, `val` or `test` of a data set, after checking that its files are the published
    /// ones.
    ///
    /// # Errors
    /// Returns an error if files are missing or damaged, or do not hold images with labels of the data set's
    /// classes.
    pub fn open(m: &Manifest, split: &str) -> Result<Split, Error> {
        let info = Info::of(m)?;
        let mut all =
            Split { shards: vec![], labels: vec![], source_index: vec![], stored: [0; 3], shape: [0; 3] };
        for path in m.checked(split)? {
            all.append(&path, &info)?;
        }
        let [height, width, channels] = all.stored;
        let side = info.crop.unwrap_or(usize::MAX);
        all.shape = [height.min(side), width.min(side), channels];
        Ok(all)
    }

    fn append(&mut self, path: &Path, info: &Info) -> Result<(), Error> {
        let bad = |why: String| Error::Foreign { path: path.to_owned(), why };
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is only read. Shards are replaced by rename, never written in place, so the mapped
        // file does not change; if another program truncates it nevertheless, reads fault, as with any mapped
        // file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let tensors = SafeTensors::deserialize(&map).map_err(|_| bad("is truncated or damaged".into()))?;
        let tensor = |name: &str, dtype, rank| typed(&tensors, name, dtype, rank).map_err(bad);
        let images = tensor("images", Dtype::U8, 4)?;
        let labels = tensor("labels", Dtype::I64, 1)?;
        let indices = tensor("source_index", Dtype::U32, 1)?;
        let &[n, h, w, c] = images.shape() else { unreachable!("the rank was checked") };
        if n == 0 || labels.shape() != [n] || indices.shape() != [n] {
            return Err(bad(format!(
                "images, labels and source_index have the lengths {n}, {} and {}, which must be equal and \
                 not 0",
                labels.shape()[0],
                indices.shape()[0]
            )));
        }
        if h == 0 || w == 0 {
            return Err(bad(format!("images have {h}×{w} pixels")));
        }
        if c != info.mean.len() {
            return Err(bad(format!("images have {c} channels, but the data set has {}", info.mean.len())));
        }
        if !self.labels.is_empty() && self.stored != [h, w, c] {
            let (own, others) = ([h, w, c], self.stored);
            return Err(bad(format!("images have shape {own:?}, but those of the other shards {others:?}")));
        }
        self.stored = [h, w, c];
        let first = self.labels.len();
        self.labels.extend(labels_of(&labels, info.classes).map_err(bad)?);
        self.source_index.extend(indices.data().as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)));
        let pixels = images.data().as_ptr() as usize - map.as_ptr() as usize;
        self.shards.push(Shard { map, pixels, first });
        Ok(())
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Returns the height, width and channels of the part of every image that networks see.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Returns the height, width and channels of every image as stored.
    pub fn stored(&self) -> [usize; 3] {
        self.stored
    }

    /// Returns the pixels of image `i` as stored, (H, W, C).
    ///
    /// # Panics
    /// Panics if `i` is not below [`Split::len`], like the other methods that take an index.
    pub fn image(&self, i: usize) -> &[u8] {
        assert!(i < self.len(), "image {i} of {}", self.len());
        let shard = &self.shards[self.shards.partition_point(|s| s.first <= i) - 1];
        let size: usize = self.stored.iter().product();
        let at = shard.pixels + (i - shard.first) * size;
        &shard.map[at..at + size]
    }

    /// Returns the rows of the part of image `i` that evaluation sees: its centre.
    pub fn rows(&self, i: usize) -> impl Iterator<Item = &[u8]> {
        centre_rows(self.image(i), self.stored, self.shape)
    }

    /// Returns the label of image `i`.
    pub fn label(&self, i: usize) -> usize {
        self.labels[i] as usize
    }

    /// Returns the labels of all images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Returns the number that identifies image `i` within its source, see
    /// [`Images::source_index`](super::Images::source_index).
    pub fn source_index(&self, i: usize) -> u32 {
        self.source_index[i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Images, PIXELS, Planes, Unreadable, synthetic};
    use crate::manifest::store::Produced;
    use crate::manifest::{Kind, Object, store::Claim, store::Plan};
    use safetensors::tensor::TensorView;
    use serde_json::json;

    /// Publishes files that are already in the directory as the training split of a data set with 10 classes.
    fn published(dir: &Path, outputs: Vec<Produced>) -> Manifest {
        let plan = Plan {
            kind: Kind::Dataset,
            semantics: 1,
            params: Object::new(),
            inputs: vec![],
            dir: dir.to_owned(),
            file: None,
        };
        let metrics = json!({
            "classes": 10,
            "class_names": vec!["c"; 10],
            "cls_num_list": vec![1; 10],
            "mean": vec![0.5; 3],
            "std": vec![0.2; 3],
        });
        let Ok(Claim::Work(w)) = plan.claim(false, || ()) else { panic!("nothing is there yet") };
        w.publish(outputs, metrics.as_object().cloned().expect("an object"), Object::new())
            .expect("published")
    }

    fn write(dir: &Path, images: &Planes, chosen: &[u32], shard_bytes: usize) -> Written {
        let chosen = Chosen { split: "train", images, chosen };
        chosen.write(dir, shard_bytes, 10, &|| ()).expect("written")
    }

    /// Returns the bytes of a shard.
    fn shard(images: &Planes, chosen: &[u32]) -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), images, chosen, usize::MAX);
        std::fs::read(dir.path().join("train-00000.safetensors")).expect("read")
    }

    #[test]
    fn shards_are_read_back_in_order_and_stay_below_their_limit() {
        let images = synthetic::generate(10, 1).train;
        let chosen: Vec<u32> = (0..100).rev().step_by(3).collect();
        let mut one_file = vec![];
        let (one, row) = (min_bytes([32, 32, 3]), row_len([32, 32, 3]));
        for (limit, files) in [(one, 34), (HEADER + 5 * row, 7), (usize::MAX, 1)] {
            let dir = tempfile::tempdir().expect("a directory");
            let outputs = write(dir.path(), &images, &chosen, limit).outputs;
            assert_eq!(outputs.len(), files);
            let m = published(dir.path(), outputs);
            assert!(m.outputs.iter().all(|o| o.bytes <= limit as u64));
            let split = Split::open(&m, "train").expect("opened");
            assert_eq!((split.len(), split.shape()), (chosen.len(), [32, 32, 3]));
            let mut pixels = vec![0; PIXELS];
            for (row, &i) in chosen.iter().enumerate() {
                images.write(i as usize, &mut pixels).expect("written");
                assert_eq!(split.image(row), pixels);
                assert_eq!((split.label(row), split.source_index(row)), (i as usize % 10, i));
            }
            one_file = std::fs::read(dir.path().join("train-00000.safetensors")).expect("read");
        }
        assert_eq!(one_file, shard(&images, &chosen), "the same bytes again");
    }

    #[test]
    fn foreign_files_are_refused() {
        let good = shard(&synthetic::generate(1, 1).train, &[0, 1]);
        let text = |from: &str, to: &str| {
            let at = good.windows(from.len()).position(|w| w == from.as_bytes()).expect("in the header");
            [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
        };
        let mut label = good.clone();
        // Labels are the first data after the header.
        let at = 8 + u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
        label[at] = 10;
        let tensor = |dtype, shape: &[usize], bytes: &'static [u8]| {
            TensorView::new(dtype, shape.to_vec(), bytes).expect("a tensor")
        };
        let flat = [
            ("images", tensor(Dtype::U8, &[2, 0, 32, 3], &[])),
            ("labels", tensor(Dtype::I64, &[2], &[0; 16])),
            ("source_index", tensor(Dtype::U32, &[2], &[0; 8])),
        ];
        for (bytes, why) in [
            (safetensors::serialize(flat, None).expect("serialised"), "images have 0×32 pixels"),
            (vec![], "is truncated or damaged"),
            (good[..good.len() - 1].to_vec(), "is truncated or damaged"),
            (vec![0xff; 4096], "is truncated or damaged"),
            (text("images", "pixels"), "has no tensor `images`"),
            (text("labels", "target"), "has no tensor `labels`"),
            (text("\"U8\"", "\"I8\""), "`images` is I8"),
            (text("[2,32,32,3]", "[2,32,96,1]"), "have 1 channels, but the data set has 3"),
            (text("[2,32,32,3]", "[2,3072]   "), "not U8 of rank 4"),
            (text("[2,32,32,3]", "[1,64,32,3]"), "have the lengths 1, 2 and 2"),
            (label, "row 0 has label 10, but labels must be from 0 to 9"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join("f"), bytes).expect("written");
            let m = published(dir.path(), vec![Produced { role: "train", name: "f".into(), rows: None }]);
            let e = Split::open(&m, "train").expect_err(why).to_string();
            assert!(e.contains(why), "{why}: {e}");
        }
    }

    #[test]
    fn errors_name_missing_splits_and_contradictions() {
        let dir = tempfile::tempdir().expect("a directory");
        let images = synthetic::generate(1, 1).train;
        let m = published(dir.path(), write(dir.path(), &images, &[0], 1 << 20).outputs);
        let e = Split::open(&m, "val").expect_err("no val").to_string();
        assert!(e.contains("lists no val file"), "{e}");
        let mut other = m.clone();
        other.metrics.insert("class_names".into(), json!(["one"]));
        let e = Split::open(&other, "train").expect_err("contradiction").to_string();
        assert!(e.contains("disagree"), "{e}");
    }

    #[test]
    fn statistics_and_digest_match_their_definitions() {
        let source = synthetic::generate(300, 1);
        let chosen: Vec<u32> = (0..3000).rev().collect();
        let dir = tempfile::tempdir().expect("a directory");
        let written = write(dir.path(), &source.train, &chosen, 1 << 20);
        let values = |c: usize| {
            let images = &source.train;
            let plane = move |&i: &u32| images.planes(i as usize)[c * 1024..(c + 1) * 1024].to_vec();
            chosen.iter().flat_map(plane).map(|v| f64::from(v) / 255.0).collect::<Vec<_>>()
        };
        for c in 0..3 {
            let values = values(c);
            let m = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - m) * (v - m)).sum::<f64>() / values.len() as f64;
            assert!((written.mean[c] - m).abs() < 1e-9 && (written.std[c] - variance.sqrt()).abs() < 1e-9);
        }
        assert_eq!(written.counts, [300; 10]);
        // As documented: the hash of the hashes of 2,500 images each; an image is a label byte and three
        // planes.
        let mut whole = blake3::Hasher::new();
        for piece in chosen.chunks(2_500) {
            let image = |&i: &u32| [&[(i % 10) as u8][..], source.train.planes(i as usize)].concat();
            whole.update(blake3::hash(&piece.iter().flat_map(image).collect::<Vec<_>>()).as_bytes());
        }
        assert_eq!(written.digest, whole.finalize().to_hex().as_str());
    }

    /// Images, some of which cannot be read.
    struct Partly<'a>(&'a Planes);

    impl Images for Partly<'_> {
        fn labels(&self) -> &[u32] {
            self.0.labels()
        }

        fn shape(&self) -> [usize; 3] {
            self.0.shape()
        }

        fn write(&self, i: usize, out: &mut [u8]) -> Result<(), Unreadable> {
            if i % 7 == 3 || i < 5 { Err("torn".into()) } else { self.0.write(i, out) }
        }

        fn source_index(&self, i: usize) -> u32 {
            1000 - i as u32
        }

        fn name(&self, i: usize) -> String {
            format!("{i}.jpg")
        }
    }

    #[test]
    fn broken_images_are_skipped_and_existing_shards_are_reused() {
        let images = synthetic::generate(4, 1).train;
        let all: Vec<u32> = (0..40).collect();
        let chosen = Chosen { split: "train", images: &Partly(&images), chosen: &all };
        let dir = tempfile::tempdir().expect("a directory");
        let limit = HEADER + 5 * row_len([32, 32, 3]);
        let write = || chosen.write(dir.path(), limit, 10, &|| ()).expect("written");
        let first = write();
        let names: Vec<&str> = first.broken.iter().map(|b| b.name.as_str()).collect();
        assert_eq!(
            names,
            ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "10.jpg", "17.jpg", "24.jpg", "31.jpg", "38.jpg"]
        );
        // The first shard would be empty, so it is not written.
        let files: Vec<&str> = first.outputs.iter().map(|o| o.name.as_str()).collect();
        assert_eq!((files.len(), files[0]), (7, "train-00001.safetensors"));
        std::fs::remove_file(dir.path().join(files[3])).expect("removed");
        // This shard has no broken images.
        let kept = dir.path().join(files[0]);
        let before = std::fs::metadata(&kept).and_then(|m| m.modified()).expect("a time");
        let again = write();
        assert_eq!(std::fs::metadata(&kept).and_then(|m| m.modified()).expect("a time"), before, "taken");
        assert_eq!((again.digest, again.counts, again.broken.len()), (first.digest, first.counts, 10));
        let m = published(dir.path(), again.outputs);
        let split = Split::open(&m, "train").expect("opened");
        let expected: Vec<u32> = (5..40).filter(|i| i % 7 != 3).map(|i| 1000 - i).collect();
        assert_eq!((0..split.len()).map(|n| split.source_index(n)).collect::<Vec<_>>(), expected);
    }
}
