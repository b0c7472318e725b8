//! Resizing as in Pillow: a triangle filter whose half-width is one pixel of the smaller image
//! (`Image.BILINEAR` with antialiasing), columns first, then rows, each rounded to bytes.
//!
//! Integer arithmetic in the order of Pillow's `Resample.c` gives the same bytes on every machine. Pillow 13
//! resizes rows first where that is less work; then some bytes differ by one.

use std::fmt;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::data::shard::centre;
use crate::data::{CHANNELS, SIDE};
use crate::simd::{self, Task, Vector};

/// How images are turned into squares of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Side of the square that a network sees, in pixels.
    pub size: usize,
    /// Side of the square that is stored, in pixels, if it is larger: training crops from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<usize>,
    /// Whether the whole image is resized to the square, whatever its aspect ratio. Otherwise its shorter
    /// side is resized to that of the square, which is then cut from the centre.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub squash: bool,
}

impl fmt::Display for Preprocess {
    /// Writes for example `64×64` or `224×224 crops of 256×256`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{0}×{0}", self.size)?;
        if let Some(resize) = self.resize {
            write!(f, " crops of {resize}×{resize}")?;
        }
        f.write_str(if self.squash { ", resized without keeping the aspect ratio" } else { "" })
    }
}

impl Preprocess {
    /// The preprocessing for files that should resemble CIFAR's images.
    pub const CIFAR: Preprocess = Preprocess { size: SIDE, resize: None, squash: false };

    /// Returns the side of the stored square, in pixels.
    pub fn stored(self) -> usize {
        self.resize.unwrap_or(self.size)
    }

    /// Writes the square that an image is turned into, (H, W, C): resized and cut as by torchvision's
    /// `Resize(S)` and `CenterCrop(S)`, or squashed as by `Resize((S, S))`.
    ///
    /// # Panics
    /// Panics if `out` has another size.
    pub fn apply(self, image: &RgbImage, out: &mut [u8]) {
        let side = self.stored();
        let (width, height) = (image.width() as usize, image.height() as usize);
        // Divide in f64, as Python does; width and height are below 2³².
        let long = |long: usize, short: usize| ((side * long) as f64 / short as f64) as usize;
        let (to_width, to_height) = if self.squash {
            (side, side)
        } else if width <= height {
            (side, long(height, width))
        } else {
            (long(width, height), side)
        };
        let columns = Axis::new(width, to_width, centre(to_width - side), side);
        let rows = Axis::new(height, to_height, centre(to_height - side), side);
        resize(image.as_raw(), width, &columns, &rows, out);
    }
}

/// Stretches an image of `[H, W]` pixels to another size, as Pillow's `resize` does.
pub fn stretch(pixels: &[u8], [height, width]: [usize; 2], [rows, columns]: [usize; 2]) -> Vec<u8> {
    let mut out = vec![0; rows * columns * CHANNELS];
    let (across, down) = (Axis::new(width, columns, 0, columns), Axis::new(height, rows, 0, rows));
    resize(pixels, width, &across, &down, &mut out);
    out
}

/// Number of fraction bits of the weights.
const BITS: u32 = 32 - 8 - 2;

/// One direction of a resize: for each wanted output pixel, the first input pixel of its filter, and the
/// weights from there on.
struct Axis {
    taps: Vec<(usize, Vec<i32>)>,
    /// Whether the size is unchanged, so that nothing needs to be rounded.
    same: bool,
}

impl Axis {
    /// Prepares a resize from `from` pixels to `to`, of which `count` pixels from `first` on are wanted.
    fn new(from: usize, to: usize, first: usize, count: usize) -> Axis {
        let scale = from as f64 / to as f64;
        let support = scale.max(1.0);
        let taps = (first..first + count).map(|at| {
            let centre = (at as f64 + 0.5) * scale;
            let begin = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            // Multiply by the inverse, as Pillow does.
            let inverse = 1.0 / support;
            let weight = |x: usize| (1.0 - ((x as f64 - centre + 0.5) * inverse).abs()).max(0.0);
            let weights: Vec<f64> = (begin..end).map(weight).collect();
            let total: f64 = weights.iter().sum();
            let fixed = |w: f64| (0.5 + w / total * f64::from(1 << BITS)) as i32;
            (begin, weights.into_iter().map(fixed).collect())
        });
        Axis { taps: taps.collect(), same: from == to }
    }

    /// Returns the range of the input pixels that are read: the first one, and the one after the last.
    fn read(&self) -> (usize, usize) {
        let begin = self.taps.first().map_or(0, |(at, _)| *at);
        let end = self.taps.last().map_or(0, |(at, weights)| at + weights.len());
        (begin, if self.same { begin + self.taps.len() } else { end })
    }
}

/// Half a unit in the last place; weighted sums start with it, so that they are rounded.
const HALF: i32 = 1 << (BITS - 1);

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resizes `pixels`, rows of `width` RGB pixels, to `out`, (rows, columns, 3).
fn resize(pixels: &[u8], width: usize, columns: &Axis, rows: &Axis, out: &mut [u8]) {
    simd::run(Resize { pixels, width, columns, rows, out });
}

struct Resize<'a> {
    pixels: &'a [u8],
    width: usize,
    columns: &'a Axis,
    rows: &'a Axis,
    out: &'a mut [u8],
}

impl Task for Resize<'_> {
    /// The arithmetic is integer only, so the compiler can vectorise it for each instruction set.
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Resize { pixels, width, columns, rows, out } = self;
        let wide = columns.taps.len() * CHANNELS;
        assert_eq!(out.len(), rows.taps.len() * wide);
        let (first, end) = rows.read();
        let mut narrow = vec![0; (end - first) * wide];
        across(&pixels[first * width * CHANNELS..end * width * CHANNELS], width, columns, &mut narrow);
        down(&narrow, first, rows, out);
    }
}

/// Number of lines that are resized at a time.
const LINES: usize = 16;

/// Resizes each line. The same pixel of several lines is stored contiguously, because one weight applies to
/// all.
#[inline(always)]
fn across(pixels: &[u8], width: usize, columns: &Axis, out: &mut [u8]) {
    let (begin, end) = columns.read();
    let wide = columns.taps.len() * CHANNELS;
    let part = begin * CHANNELS..end * CHANNELS;
    if columns.same {
        let lines = pixels.chunks_exact(width * CHANNELS);
        lines
            .zip(out.chunks_exact_mut(wide))
            .for_each(|(line, out)| out.copy_from_slice(&line[part.clone()]));
        return;
    }
    let mut from = vec![[0; LINES]; part.len()];
    let mut to = vec![[0; LINES]; wide];
    for (lines, out) in pixels.chunks(LINES * width * CHANNELS).zip(out.chunks_mut(LINES * wide)) {
        for (n, line) in lines.chunks_exact(width * CHANNELS).enumerate() {
            from.iter_mut().zip(&line[part.clone()]).for_each(|(from, value)| from[n] = *value);
        }
        for (to, (at, weights)) in to.as_chunks_mut::<CHANNELS>().0.iter_mut().zip(&columns.taps) {
            let mut sums = [[HALF; LINES]; CHANNELS];
            let pixels = from[(at - begin) * CHANNELS..].as_chunks::<CHANNELS>().0;
            for (pixel, weight) in pixels.iter().zip(weights) {
                for (sums, values) in sums.iter_mut().zip(pixel) {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
                }
            }
            *to = sums.map(|sums| sums.map(to_byte));
        }
        for (n, line) in out.chunks_exact_mut(wide).enumerate() {
            line.iter_mut().zip(&to).for_each(|(out, to)| *out = to[n]);
        }
    }
}

/// Resizes columns; `first` is the number of the first line in `lines`.
#[inline(always)]
fn down(lines: &[u8], first: usize, rows: &Axis, out: &mut [u8]) {
    if rows.same {
        out.copy_from_slice(lines);
        return;
    }
    let wide = out.len() / rows.taps.len();
    let mut sums = vec![0; wide];
    for (out, (at, weights)) in out.chunks_exact_mut(wide).zip(&rows.taps) {
        sums.fill(HALF);
        for (line, weight) in lines[(at - first) * wide..].chunks_exact(wide).zip(weights) {
            sums.iter_mut().zip(line).for_each(|(sum, value)| *sum += i32::from(*value) * weight);
        }
        out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = to_byte(*sum));
    }
}
