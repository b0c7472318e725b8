//! Ten classes of procedural 32×32 images, for demonstrations and tests without a download.
//!
//! A class is a shape (disc, square, triangle, cross, ring) filled with columns or rows of stripes. Colours,
//! position, size, angle and phase are random, and clutter and noise cover everything, so that neither colour
//! nor mean identifies a class. A class must be learnt from many examples, so a short tail hurts. Nothing
//! here reproduces a published data set.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use rayon::prelude::*;

use super::{CHANNELS, PIXELS, PLANE, Planes, SIDE, Source};

/// Names of the classes.
pub const CLASSES: [&str; 10] = [
    "disc-columns",
    "disc-rows",
    "square-columns",
    "square-rows",
    "triangle-columns",
    "triangle-rows",
    "cross-columns",
    "cross-rows",
    "ring-columns",
    "ring-rows",
];

/// The uniform random numbers of one image.
struct Dice(ChaCha8Rng);

impl Dice {
    /// Returns a number in [lo, hi).
    fn range(&mut self, lo: f32, hi: f32) -> f32 {
        let unit = (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32;
        lo + (hi - lo) * unit
    }

    /// Returns a colour with each channel in [lo, hi).
    fn colour(&mut self, lo: f32, hi: f32) -> [f32; CHANNELS] {
        std::array::from_fn(|_| self.range(lo, hi))
    }
}

/// Generates the data set. Image i of a split has class i mod 10 and depends only on the split and i.
pub fn generate(train_per_class: usize, test_per_class: usize) -> Source {
    Source {
        class_names: CLASSES.map(String::from).to_vec(),
        train: images(0, train_per_class * CLASSES.len()),
        test: images(1, test_per_class * CLASSES.len()),
    }
}

fn images(split: u64, n: usize) -> Planes {
    let mut pixels = vec![0; n * PIXELS];
    pixels.par_chunks_exact_mut(PIXELS).enumerate().for_each(|(i, out)| {
        let mut generator = ChaCha8Rng::seed_from_u64(split);
        generator.set_stream(i as u64);
        paint(i % CLASSES.len(), &mut Dice(generator), out);
    });
    let mut images = Planes::default();
    images.push(pixels, 0, (0..n).map(|i| (i % CLASSES.len()) as u32).collect());
    images
}

/// Paints an image as planes, (C, H, W).
fn paint(class: usize, dice: &mut Dice, out: &mut [u8]) {
    let (ground, ink) = (dice.colour(60.0, 195.0), [dice.colour(25.0, 115.0), dice.colour(140.0, 230.0)]);
    let half = SIDE as f32 / 2.0;
    let centre = [dice.range(-5.0, 5.0) + half, dice.range(-5.0, 5.0) + half];
    let size = dice.range(7.0, 12.0);
    // Only small angles: with arbitrary ones, columns and rows of stripes in a square would look the same.
    // Sine and cosine are computed from the tangent of half the angle, so that the bytes do not depend on a
    // platform's sin().
    let t = dice.range(-0.2, 0.2);
    let (sin, cos) = (2.0 * t / (1.0 + t * t), (1.0 - t * t) / (1.0 + t * t));
    let (wave, phase) = (dice.range(0.17, 0.3), dice.range(0.0, 1.0));
    let clutter: [[f32; 6]; 4] = std::array::from_fn(|_| {
        let [r, g, b] = dice.colour(25.0, 230.0);
        [dice.range(0.0, SIDE as f32), dice.range(0.0, SIDE as f32), dice.range(1.0, 3.0), r, g, b]
    });
    for at in 0..PLANE {
        let (px, py) = ((at % SIDE) as f32, (at / SIDE) as f32);
        let (dx, dy) = ((px - centre[0]) / size, (py - centre[1]) / size);
        let (x, y) = (cos * dx + sin * dy, cos * dy - sin * dx);
        let mut colour = ground;
        if inside(class / 2, x, y) {
            let across = if class.is_multiple_of(2) { x } else { y };
            let turns = across * size * wave + phase;
            colour = ink[usize::from(turns - turns.floor() < 0.5)];
        }
        for &[cx, cy, r, red, green, blue] in &clutter {
            if (px - cx).abs() < r && (py - cy).abs() < r {
                colour = [red, green, blue];
            }
        }
        for (c, value) in colour.into_iter().enumerate() {
            out[c * PLANE + at] = (value + dice.range(-25.0, 25.0)) as u8;
        }
    }
}

/// Returns whether a point is in the shape; the shape's own coordinates range from about −1 to 1.
fn inside(shape: usize, x: f32, y: f32) -> bool {
    let r = x * x + y * y;
    match shape {
        0 => r < 1.0,
        1 => x.abs().max(y.abs()) < 0.88,
        2 => y < 0.8 && y > 2.2 * x.abs() - 1.1,
        3 => x.abs().min(y.abs()) < 0.34 && x.abs().max(y.abs()) < 1.05,
        _ => r < 1.2 && r > 0.3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Images;

    #[test]
    fn an_image_depends_only_on_its_split_and_index() {
        let (few, many) = (generate(2, 2), generate(5, 3));
        for i in 0..20 {
            assert_eq!(few.train.planes(i), many.train.planes(i));
            assert_eq!(few.test.planes(i), many.test.planes(i));
            assert_ne!(few.train.planes(i), few.test.planes(i));
        }
        assert_ne!(few.train.planes(0), few.train.planes(10), "two images of one class");
        assert_eq!(few.train.labels()[..11], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]);
    }

    #[test]
    fn bytes_are_pinned() {
        // A change here changes every synthetic data set: raise SEMANTICS of mk-imbalance as well.
        let source = generate(1, 1);
        let all: Vec<u8> =
            (0..10).flat_map(|i| [source.train.planes(i), source.test.planes(i)].concat()).collect();
        assert_eq!(&blake3::hash(&all).to_hex()[..16], "9248290cc1c23425");
    }
}
