//! Writes a split: images are read into a shard one after the other, while the shards before it are written
//! to disk.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::ScopedJoinHandle;
use std::{fs, thread};

use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, View};

use super::{HEADER, row_len};
use crate::data::planes::{PIECE, label_bytes};
use crate::data::{CHANNELS, Error, Images, Unreadable};
use crate::interrupt;
use crate::manifest::store::{Produced, write_atomic};

/// A split to write: its name, the images that it is chosen from, and the indices of the chosen images in the
/// order of the result.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    /// `train`, `val` or `test`.
    pub split: &'static str,
    /// All images of the source's split.
    pub images: &'a dyn Images,
    /// Indices of the images that are written.
    pub chosen: &'a [u32],
}

/// An image that could not be read.
#[derive(Debug)]
pub struct Broken {
    /// Name of the image, for messages.
    pub name: String,
    /// Its label.
    pub label: u32,
    /// What is wrong with it.
    pub why: Unreadable,
}

/// The result of writing a split.
#[derive(Debug)]
pub struct Written {
    /// The files.
    pub outputs: Vec<Produced>,
    /// Images of each class.
    pub counts: Vec<usize>,
    /// Hash of the labels and pixels in their order, as [`Source::digest`](crate::data::Source::digest).
    pub digest: String,
    /// Mean of each channel over all pixels, 0–1 scale.
    pub mean: Vec<f64>,
    /// Standard deviation (population form) of each channel over all pixels, 0–1 scale.
    pub std: Vec<f64>,
    /// Images that could not be read and were left out.
    pub broken: Vec<Broken>,
}

/// Number of shards that are written to disk at the same time.
const IN_FLIGHT: usize = 2;

impl<'a> Chosen<'a> {
    /// Returns the files `<split>-00000.safetensors`, …, of at most `shard_bytes` each, and the images of
    /// each.
    fn parts(&self, shard_bytes: usize) -> impl Iterator<Item = (String, &'a [u32])> {
        let rows = (shard_bytes.saturating_sub(HEADER) / row_len(self.images.shape())).max(1);
        let split = self.split;
        self.chosen
            .chunks(rows)
            .enumerate()
            .map(move |(n, chosen)| (format!("{split}-{n:05}.safetensors"), chosen))
    }

    /// Returns the names of the files that [`Chosen::write`] creates.
    pub fn names(&self, shard_bytes: usize) -> Vec<String> {
        self.parts(shard_bytes).map(|(name, _)| name).collect()
    }

    /// Writes the split into a directory; shards of an earlier call are reused.
    ///
    /// `on` is called after each image that was read. After a signal, the shard that is being read is
    /// dropped, and the call returns when the shards before it have been written.
    ///
    /// # Errors
    /// Returns an error if a file cannot be written.
    pub fn write(
        &self,
        dir: &Path,
        shard_bytes: usize,
        classes: usize,
        on: &(dyn Fn() + Sync),
    ) -> Result<Written, Error> {
        let mut tally = Tally::new(self.images.shape(), classes);
        let (mut outputs, mut broken) = (vec![], vec![]);
        // Write on separate threads, so that those that decode do not wait for the disk.
        thread::scope(|scope| {
            let mut storing = VecDeque::new();
            // Buffers of shards that have been written.
            let mut free: Vec<Vec<u8>> = vec![];
            for (name, chosen) in self.parts(shard_bytes) {
                let mut block = self.load(dir, name, chosen, free.pop().unwrap_or_default(), on);
                if interrupt::requested() {
                    break;
                }
                broken.append(&mut block.broken);
                let labels: Vec<u32> = block.rows.iter().map(|&i| self.images.labels()[i as usize]).collect();
                tally.add(&labels, &block.pixels);
                if !block.rows.is_empty() {
                    let rows = Some(block.rows.len() as u64);
                    outputs.push(Produced { role: self.split, name: block.name.clone(), rows });
                }
                if block.is_stored || block.rows.is_empty() {
                    free.push(block.pixels);
                    continue;
                }
                if storing.len() == IN_FLIGHT {
                    free.extend(storing.pop_front().map(join).transpose()?);
                }
                storing.push_back(scope.spawn(move || self.store(dir, block)));
            }
            storing.into_iter().try_for_each(|thread| join(thread).map(drop))
        })?;
        let (mean, std) = tally.mean_std();
        Ok(Written { outputs, digest: tally.digest(), counts: tally.counts, mean, std, broken })
    }

    /// Loads the images of a shard: from the file of an earlier call if it has all of them, otherwise from
    /// their source. `pixels` is a buffer to reuse.
    fn load(
        &self,
        dir: &Path,
        name: String,
        chosen: &[u32],
        mut pixels: Vec<u8>,
        on: &(dyn Fn() + Sync),
    ) -> Block {
        if self.stored(&dir.join(&name), chosen, &mut pixels) {
            chosen.iter().for_each(|_| on());
            return Block { name, rows: chosen.to_vec(), pixels, broken: vec![], is_stored: true };
        }
        let len: usize = self.images.shape().iter().product();
        pixels.resize(chosen.len() * len, 0);
        let read = |(&i, out): (&u32, &mut [u8])| {
            if interrupt::requested() {
                return Ok(());
            }
            let read = self.images.write(i as usize, out);
            on();
            read.map_err(|why| Broken {
                name: self.images.name(i as usize),
                label: self.images.labels()[i as usize],
                why,
            })
        };
        let found: Vec<_> = chosen.par_iter().zip(pixels.par_chunks_exact_mut(len)).map(read).collect();
        let (mut rows, mut broken) = (vec![], vec![]);
        for (from, (found, &i)) in found.into_iter().zip(chosen).enumerate() {
            match found {
                Ok(()) => {
                    // Move up the images after a broken one.
                    if rows.len() < from {
                        pixels.copy_within(from * len..(from + 1) * len, rows.len() * len);
                    }
                    rows.push(i);
                }
                Err(why) => broken.push(why),
            }
        }
        pixels.truncate(rows.len() * len);
        Block { name, rows, pixels, broken, is_stored: false }
    }

    /// Returns whether an earlier call has stored all of the chosen images. If so, `pixels` holds those of
    /// its file.
    fn stored(&self, path: &Path, chosen: &[u32], pixels: &mut Vec<u8>) -> bool {
        let mut read = || -> Option<bool> {
            let bytes = fs::read(path).ok()?;
            let tensors = SafeTensors::deserialize(&bytes).ok()?;
            let indices = tensors.tensor("source_index").ok()?;
            let indices = indices.data().as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
            let images = tensors.tensor("images").ok()?;
            pixels.clear();
            pixels.extend_from_slice(images.data());
            Some(indices.eq(chosen.iter().map(|&i| self.images.source_index(i as usize))))
        };
        read().unwrap_or(false)
    }

    /// Writes a shard, and returns its buffer.
    fn store(&self, dir: &Path, block: Block) -> Result<Vec<u8>, Error> {
        let n = block.rows.len();
        let shape = [&[n][..], &self.images.shape()].concat();
        let label = |&i: &u32| i64::from(self.images.labels()[i as usize]).to_le_bytes();
        let labels: Vec<u8> = block.rows.iter().flat_map(label).collect();
        let index = |&i: &u32| self.images.source_index(i as usize).to_le_bytes();
        let indices: Vec<u8> = block.rows.iter().flat_map(index).collect();
        let parts = [
            ("images", Part { dtype: Dtype::U8, shape, len: block.pixels.len(), data: &[] }),
            ("labels", Part { dtype: Dtype::I64, shape: vec![n], len: labels.len(), data: &labels }),
            ("source_index", Part { dtype: Dtype::U32, shape: vec![n], len: indices.len(), data: &indices }),
        ];
        let begin = safetensors::serialize(parts, None).expect("three named tensors always serialise");
        assert!(begin.ends_with(&indices), "the indices are last, so that the images can follow");
        write_atomic(&dir.join(&block.name), |file| {
            file.write_all(&begin)?;
            file.write_all(&block.pixels)
        })?;
        Ok(block.pixels)
    }
}

/// A tensor of a shard. The images are last in the file, so that they need not be copied behind the other
/// tensors.
struct Part<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    len: usize,
    /// The bytes; empty if they are written separately.
    data: &'a [u8],
}

impl View for Part<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.data.into()
    }

    fn data_len(&self) -> usize {
        self.len
    }
}

fn join<T>(thread: ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A shard in memory.
struct Block {
    name: String,
    /// Indices of the images in the source's split.
    rows: Vec<u32>,
    /// Pixels, (N, H, W, C).
    pixels: Vec<u8>,
    broken: Vec<Broken>,
    is_stored: bool,
}

/// The counts, sums and hash of a split that are accumulated while it is written.
struct Tally {
    shape: [usize; 3],
    counts: Vec<usize>,
    images: usize,
    /// Σv and Σv² of each channel: exact integers, so neither order nor threads matter.
    sums: Vec<[u64; 2]>,
    label_bytes: usize,
    /// Hash of the hashes of the pieces.
    whole: blake3::Hasher,
    piece: blake3::Hasher,
}

impl Tally {
    fn new(shape: [usize; 3], classes: usize) -> Tally {
        Tally {
            shape,
            counts: vec![0; classes],
            images: 0,
            sums: vec![[0; 2]; shape[2]],
            label_bytes: label_bytes(classes),
            whole: blake3::Hasher::new(),
            piece: blake3::Hasher::new(),
        }
    }

    fn add(&mut self, labels: &[u32], pixels: &[u8]) {
        /// Number of images per iteration, so that their planes stay in the cache.
        const BLOCK: usize = 64;
        let [height, width, channels] = self.shape;
        let (plane, lead) = (height * width, self.label_bytes);
        let record = lead + plane * channels;
        let mut bytes = vec![0; BLOCK * record];
        for (labels, pixels) in labels.chunks(BLOCK).zip(pixels.chunks(BLOCK * plane * channels)) {
            // Arrange an image as it is hashed: a label, then the planes.
            let split = |((&label, image), out): ((&u32, &[u8]), &mut [u8])| {
                let (to, planes) = out.split_at_mut(lead);
                to.copy_from_slice(&label.to_le_bytes()[..lead]);
                let (red, rest) = planes.split_at_mut(plane);
                let (green, blue) = rest.split_at_mut(plane);
                let to = red.iter_mut().zip(green).zip(blue);
                for (((r, g), b), rgb) in to.zip(image.as_chunks::<CHANNELS>().0) {
                    [*r, *g, *b] = *rgb;
                }
                let sums = |plane: &[u8]| {
                    // Both sums fit 32 bits for this many values: 2¹⁶ · 255².
                    plane.chunks(1 << 16).fold([0u64; 2], |[sum, squares], some| {
                        let (v, vv) = some.iter().fold((0u32, 0u32), |(v, vv), &x| {
                            let x = u32::from(x);
                            (v + x, vv + x * x)
                        });
                        [sum + u64::from(v), squares + u64::from(vv)]
                    })
                };
                planes.chunks_exact(plane).map(sums).collect::<Vec<_>>()
            };
            let images = labels.par_iter().zip(pixels.par_chunks_exact(plane * channels));
            let sums: Vec<_> = images.zip(bytes.par_chunks_exact_mut(record)).map(split).collect();
            for of_image in sums {
                for (total, of) in self.sums.iter_mut().zip(of_image) {
                    total[0] += of[0];
                    total[1] += of[1];
                }
            }
            for &label in labels {
                self.counts[label as usize] += 1;
            }
            // Hash up to the end of a piece, then the rest.
            let mut rest = &bytes[..labels.len() * record];
            while !rest.is_empty() {
                let room = PIECE - self.images % PIECE;
                let (some, after) = rest.split_at(rest.len().min(room * record));
                self.piece.update(some);
                self.images += some.len() / record;
                if self.images.is_multiple_of(PIECE) {
                    self.whole.update(self.piece.finalize().as_bytes());
                    self.piece.reset();
                }
                rest = after;
            }
        }
    }

    fn digest(&self) -> String {
        let mut whole = self.whole.clone();
        if !self.images.is_multiple_of(PIECE) {
            whole.update(self.piece.finalize().as_bytes());
        }
        whole.finalize().to_hex().to_string()
    }

    fn mean_std(&self) -> (Vec<f64>, Vec<f64>) {
        let count = self.images * self.shape[0] * self.shape[1];
        let n = count as f64;
        let mean = self.sums.iter().map(|[sum, _]| *sum as f64 / n / 255.0).collect();
        let std = self.sums.iter().map(|[sum, squares]| {
            // n·Σv² − (Σv)² in integers, so there is no cancellation.
            let spread = count as u128 * u128::from(*squares) - u128::from(*sum) * u128::from(*sum);
            (spread as f64).sqrt() / n / 255.0
        });
        (mean, std.collect())
    }
}
