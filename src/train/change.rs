//! The operations that an image goes through before its crop and flip: the draws of RandomResizedCrop, colour
//! jitter and RandAugment with torchvision's distributions, from this crate's own random streams.

use rand_chacha::ChaCha8Rng;

use super::config::{Augment, Config};
use crate::data::augment::Op;
use crate::rng::{below, shuffle, uniform};

/// Draws the operations of an image with the `stored` height and width, for a network with inputs of size
/// `to`.
pub fn draw(config: &Config, stored: [usize; 2], to: [usize; 2], rng: &mut ChaCha8Rng) -> Vec<Op> {
    let mut ops = vec![];
    if config.augment == Augment::ResizedCropFlip {
        ops.push(resized_crop(stored, rng));
    }
    if let Some(ranges) = config.color_jitter {
        ops.extend(color_jitter(ranges, rng));
    }
    if let Some([count, magnitude]) = config.rand_augment {
        let size = if config.augment == Augment::ResizedCropFlip { to } else { stored };
        ops.extend((0..count).filter_map(|_| rand_augment(magnitude, size, rng)));
    }
    ops
}

/// Draws a number from [low, high).
fn between(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * uniform(rng)
}

/// Draws a part of 8 to 100 % of the area with an aspect ratio of 3:4 to 4:3. After ten attempts that do not
/// fit, it is the largest centred part with such an aspect ratio.
fn resized_crop([height, width]: [usize; 2], rng: &mut ChaCha8Rng) -> Op {
    let part = |top: usize, left: usize, height: usize, width: usize| {
        let [top, left, height, width] = [top, left, height, width].map(|n| n as u16);
        Op::ResizedCrop { top, left, height, width }
    };
    let ratio: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
    for _ in 0..10 {
        let area = (height * width) as f64 * between(rng, 0.08, 1.0);
        let aspect = between(rng, ratio.0.ln(), ratio.1.ln()).exp();
        let w = (area * aspect).sqrt().round_ties_even() as usize;
        let h = (area / aspect).sqrt().round_ties_even() as usize;
        if (1..=width).contains(&w) && (1..=height).contains(&h) {
            return part(below(rng, height - h + 1), below(rng, width - w + 1), h, w);
        }
    }
    let aspect = width as f64 / height as f64;
    let (h, w) = match aspect {
        _ if aspect < ratio.0 => ((width as f64 / ratio.0).round_ties_even() as usize, width),
        _ if aspect > ratio.1 => (height, (height as f64 * ratio.1).round_ties_even() as usize),
        _ => (height, width),
    };
    part((height - h) / 2, (width - w) / 2, h, w)
}

/// Draws brightness, contrast and saturation in random order, each with a factor from its range.
fn color_jitter(ranges: [f64; 3], rng: &mut ChaCha8Rng) -> Vec<Op> {
    let factors = ranges.map(|x| between(rng, 1.0 - x, 1.0 + x) as f32);
    let mut ops = vec![Op::Brightness(factors[0]), Op::Contrast(factors[1]), Op::Saturation(factors[2])];
    shuffle(rng, &mut ops);
    ops
}

/// Draws one of the fourteen operations of RandAugment, with its strength at a magnitude of 0 to 30. Returns
/// `None` for the operation that does nothing.
fn rand_augment(magnitude: u8, [height, width]: [usize; 2], rng: &mut ChaCha8Rng) -> Option<Op> {
    let share = f64::from(magnitude) / 30.0;
    let which = below(rng, 14);
    let sign = if below(rng, 2) == 0 { 1.0 } else { -1.0 };
    let factor = (1.0 + sign * 0.9 * share) as f32;
    let (shear, angle) = ((sign * 0.3 * share) as f32, sign * 30.0 * share);
    // Translations are by whole pixels.
    let moved = |side: usize| (sign * 150.0 / 331.0 * side as f64 * share).trunc() as f32;
    // Rotations are about the centre of the image.
    let (x, y) = (width as f32 * 0.5, height as f32 * 0.5);
    Some(match which {
        0 => return None,
        // torchvision shears about the upper left corner.
        1 => Op::Affine([1.0, shear, 0.0, 0.0, 1.0, 0.0]),
        2 => Op::Affine([1.0, 0.0, 0.0, shear, 1.0, 0.0]),
        3 => Op::Affine([1.0, 0.0, -moved(width), 0.0, 1.0, 0.0]),
        4 => Op::Affine([1.0, 0.0, 0.0, 0.0, 1.0, -moved(height)]),
        5 => {
            // The image turns counter-clockwise; the matrix maps output pixels back to their sources.
            let (sin, cos) = (angle.to_radians().sin() as f32, angle.to_radians().cos() as f32);
            Op::Affine([cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])
        }
        6 => Op::Brightness(factor),
        7 => Op::Saturation(factor),
        8 => Op::Contrast(factor),
        9 => Op::Sharpness(factor),
        10 => Op::Posterize(8 - (f64::from(magnitude) / (30.0 / 4.0)).round_ties_even() as u8),
        11 => Op::Solarize((255 * u32::from(30 - magnitude)).div_ceil(30) as u8),
        12 => Op::AutoContrast,
        _ => Op::Equalize,
    })
}

#[cfg(test)]
mod tests;
