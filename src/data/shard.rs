//! Shards: the images of a split as safetensors files, written once and memory-mapped by everything after.
//!
//! A file holds `images` U8 (N, H, W, C), `labels` I64 (N) and `source_index` U32 (N), and nothing else, so
//! its bytes follow from the images alone. Which images go in is decided elsewhere.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::{CHANNELS, Error, Images, Info, PIXELS, SIDE};
use crate::manifest::Manifest;
use crate::manifest::store::{Produced, write_atomic};

/// Bytes of one image with its label and index.
const ROW: usize = PIXELS + 8 + 4;

/// More than any header of three tensors.
const HEADER: usize = 512;

/// The smallest usable `--shard-bytes`: one image.
pub const MIN_SHARD_BYTES: usize = HEADER + ROW;

/// A split to write: its name, the images it is chosen from, and the indices of the chosen in the order in
/// which they are to stand.
pub type Chosen<'a> = (&'static str, &'a Images, &'a [u32]);

/// A file to write: its name, and the part of a split that goes into it.
struct Part<'a> {
    name: String,
    split: &'static str,
    images: &'a Images,
    chosen: &'a [u32],
}

/// The files `<split>-00000.safetensors`, …, of at most `shard_bytes` each.
fn parts<'a>(splits: &[Chosen<'a>], shard_bytes: usize) -> Vec<Part<'a>> {
    let rows = (shard_bytes.saturating_sub(HEADER) / ROW).max(1);
    let mut all = vec![];
    for &(split, images, chosen) in splits {
        all.extend(chosen.chunks(rows).enumerate().map(|(n, chosen)| {
            let name = format!("{split}-{n:05}.safetensors");
            Part { name, split, images, chosen }
        }));
    }
    all
}

/// Names of the files that [`write()`] makes.
pub fn names(splits: &[Chosen], shard_bytes: usize) -> Vec<String> {
    parts(splits, shard_bytes).into_iter().map(|part| part.name).collect()
}

/// Writes each split as `<split>-00000.safetensors`, …, files of at most `shard_bytes`.
///
/// # Errors
/// The file system's.
pub fn write(dir: &Path, splits: &[Chosen], shard_bytes: usize) -> Result<Vec<Produced>, Error> {
    let write = |Part { name, split, images, chosen }: Part| {
        let bytes = encode(images, chosen);
        write_atomic(&dir.join(&name), |f| std::io::Write::write_all(f, &bytes))?;
        Ok(Produced { role: split, name, rows: Some(chosen.len() as u64) })
    };
    parts(splits, shard_bytes).into_par_iter().map(write).collect()
}

fn encode(images: &Images, chosen: &[u32]) -> Vec<u8> {
    let n = chosen.len();
    let mut pixels = vec![0; n * PIXELS];
    for (&i, out) in chosen.iter().zip(pixels.chunks_exact_mut(PIXELS)) {
        images.write_hwc(i as usize, out);
    }
    let label = |&i: &u32| i64::from(images.labels()[i as usize]).to_le_bytes();
    let labels: Vec<u8> = chosen.iter().flat_map(label).collect();
    let indices: Vec<u8> = chosen.iter().flat_map(|i| i.to_le_bytes()).collect();
    let view =
        |dtype, shape, bytes| TensorView::new(dtype, shape, bytes).expect("sizes match by construction");
    let tensors = [
        ("images", view(Dtype::U8, vec![n, SIDE, SIDE, CHANNELS], &pixels)),
        ("labels", view(Dtype::I64, vec![n], &labels)),
        ("source_index", view(Dtype::U32, vec![n], &indices)),
    ];
    safetensors::serialize(tensors, None).expect("three named tensors always serialise")
}

/// The memory-mapped shards of one split.
#[derive(Debug)]
pub struct Split {
    shards: Vec<Shard>,
    labels: Vec<u32>,
    source_index: Vec<u32>,
    shape: [usize; 3],
}

#[derive(Debug)]
struct Shard {
    map: Mmap,
    /// Where the pixels start in the map.
    pixels: usize,
    /// Index of the first image.
    first: usize,
}

impl Split {
    /// Maps the split `train`, `val` or `test` of a data set, after checking that its files are the published
    /// ones.
    ///
    /// # Errors
    /// Files that are missing, damaged, or hold something else than images with labels of the data set's
    /// classes.
    pub fn open(m: &Manifest, split: &str) -> Result<Split, Error> {
        let info = Info::of(m)?;
        let mut all = Split { shards: vec![], labels: vec![], source_index: vec![], shape: [0; 3] };
        for path in m.checked(split)? {
            all.append(&path, &info)?;
        }
        Ok(all)
    }

    fn append(&mut self, path: &Path, info: &Info) -> Result<(), Error> {
        let bad = |why: String| Error::Foreign { path: path.to_owned(), why };
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is only read. Shards are replaced by rename, never written in place, so the mapped
        // file stays as it is; a program that truncates it all the same makes reads fault, as with any mapped
        // file.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let tensors = SafeTensors::deserialize(&map).map_err(|e| bad(format!("not a shard: {e}")))?;
        let tensor = |name: &str, dtype: Dtype, rank: usize| {
            let t = tensors.tensor(name).map_err(|_| bad(format!("has no tensor `{name}`")))?;
            if t.dtype() != dtype || t.shape().len() != rank {
                return Err(bad(format!(
                    "`{name}` is {:?} {:?}, not {dtype:?} of rank {rank}",
                    t.dtype(),
                    t.shape()
                )));
            }
            Ok(t)
        };
        let images = tensor("images", Dtype::U8, 4)?;
        let labels = tensor("labels", Dtype::I64, 1)?;
        let indices = tensor("source_index", Dtype::U32, 1)?;
        let &[n, h, w, c] = images.shape() else { unreachable!("the rank was checked") };
        if n == 0 || labels.shape() != [n] || indices.shape() != [n] {
            return Err(bad(format!(
                "images {n}, labels {:?}, source_index {:?}",
                labels.shape(),
                indices.shape()
            )));
        }
        if c != info.mean.len() {
            return Err(bad(format!("images have {c} channels, the data set {}", info.mean.len())));
        }
        if !self.labels.is_empty() && self.shape != [h, w, c] {
            return Err(bad(format!("images are {h}×{w}×{c}, those of the other shards {:?}", self.shape)));
        }
        self.shape = [h, w, c];
        let first = self.labels.len();
        for (row, word) in labels.data().as_chunks().0.iter().enumerate() {
            let label = i64::from_le_bytes(*word);
            let known = u32::try_from(label).ok().filter(|&l| (l as usize) < info.classes);
            let wrong = || bad(format!("row {row} has label {label} of {} classes", info.classes));
            self.labels.push(known.ok_or_else(wrong)?);
        }
        self.source_index.extend(indices.data().as_chunks().0.iter().map(|w| u32::from_le_bytes(*w)));
        let pixels = images.data().as_ptr() as usize - map.as_ptr() as usize;
        self.shards.push(Shard { map, pixels, first });
        Ok(())
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height, width, channels of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Pixels of image `i`, (H, W, C).
    ///
    /// # Panics
    /// When `i` is not below [`Split::len`]; so do the others.
    pub fn image(&self, i: usize) -> &[u8] {
        assert!(i < self.len(), "image {i} of {}", self.len());
        let shard = &self.shards[self.shards.partition_point(|s| s.first <= i) - 1];
        let size: usize = self.shape.iter().product();
        let at = shard.pixels + (i - shard.first) * size;
        &shard.map[at..at + size]
    }

    /// Label of image `i`.
    pub fn label(&self, i: usize) -> usize {
        self.labels[i] as usize
    }

    /// Labels of all images.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Index of image `i` in the official training or test set.
    pub fn source_index(&self, i: usize) -> u32 {
        self.source_index[i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::synthetic;
    use crate::manifest::{Kind, Object, store::Claim, store::Plan};
    use serde_json::json;

    /// Publishes files that are already in the directory as the training split of a 10-class data set.
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

    #[test]
    fn what_was_written_is_read_in_order_and_in_bounds() {
        let images = synthetic::generate(10, 1).train;
        let chosen: Vec<u32> = (0..100).rev().step_by(3).collect();
        let mut one_file = vec![];
        for (limit, files) in [(MIN_SHARD_BYTES, 34), (HEADER + 5 * ROW, 7), (usize::MAX, 1)] {
            let dir = tempfile::tempdir().expect("a directory");
            let outputs = write(dir.path(), &[("train", &images, &chosen)], limit).expect("written");
            assert_eq!(outputs.len(), files);
            let m = published(dir.path(), outputs);
            assert!(m.outputs.iter().all(|o| o.bytes <= limit as u64));
            let split = Split::open(&m, "train").expect("opened");
            assert_eq!((split.len(), split.shape()), (chosen.len(), [32, 32, 3]));
            let mut pixels = vec![0; PIXELS];
            for (row, &i) in chosen.iter().enumerate() {
                images.write_hwc(i as usize, &mut pixels);
                assert_eq!(split.image(row), pixels);
                assert_eq!((split.label(row), split.source_index(row)), (i as usize % 10, i));
            }
            one_file = std::fs::read(dir.path().join("train-00000.safetensors")).expect("read");
        }
        assert_eq!(one_file, encode(&images, &chosen), "the same bytes again");
    }

    #[test]
    fn foreign_files_are_refused() {
        let good = encode(&synthetic::generate(1, 1).train, &[0, 1]);
        let text = |from: &str, to: &str| {
            let at = good.windows(from.len()).position(|w| w == from.as_bytes()).expect("in the header");
            [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat()
        };
        let mut label = good.clone();
        // Labels are the first data after the header.
        let at = 8 + u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
        label[at] = 10;
        for (bytes, why) in [
            (vec![], "not a shard"),
            (good[..good.len() - 1].to_vec(), "not a shard"),
            (vec![0xff; 4096], "not a shard"),
            (text("images", "pixels"), "has no tensor `images`"),
            (text("labels", "target"), "has no tensor `labels`"),
            (text("\"U8\"", "\"I8\""), "`images` is I8"),
            (text("[2,32,32,3]", "[2,32,96,1]"), "have 1 channels, the data set 3"),
            (text("[2,32,32,3]", "[2,3072]   "), "not U8 of rank 4"),
            (text("[2,32,32,3]", "[1,64,32,3]"), "images 1, labels [2]"),
            (label, "row 0 has label 10 of 10 classes"),
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join("f"), bytes).expect("written");
            let m = published(dir.path(), vec![Produced { role: "train", name: "f".into(), rows: None }]);
            let e = Split::open(&m, "train").expect_err(why).to_string();
            assert!(e.contains(why), "{why}: {e}");
        }
    }

    #[test]
    fn a_split_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let images = synthetic::generate(1, 1).train;
        let m =
            published(dir.path(), write(dir.path(), &[("train", &images, &[0])], 1 << 20).expect("written"));
        let e = Split::open(&m, "val").expect_err("no val").to_string();
        assert!(e.contains("lists no val file"), "{e}");
        let mut other = m.clone();
        other.metrics.insert("class_names".into(), json!(["one"]));
        let e = Split::open(&other, "train").expect_err("contradiction").to_string();
        assert!(e.contains("disagree"), "{e}");
    }
}
