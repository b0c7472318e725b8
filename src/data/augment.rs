//! Augmentation of the pixels of one image, before it is flipped and normalised.
//!
//! Each [`Op`] contains all its parameters, so that equal operations give equal bytes on every machine. Which
//! operations are drawn, and how often, is decided by the plan of a training. The arithmetic is that of
//! torchvision's transforms on Pillow images.

use super::CHANNELS;
use super::files::resize::stretch;

/// An operation on an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// Crops a part of the image and resizes it to what the network sees.
    ResizedCrop {
        /// First row of the part.
        top: u16,
        /// First column of the part.
        left: u16,
        /// Height of the part.
        height: u16,
        /// Width of the part.
        width: u16,
    },
    /// Multiplies the values by a factor.
    Brightness(f32),
    /// Blends with the mean grey of the image: a factor above 1 increases the contrast, one below 1 reduces
    /// it.
    Contrast(f32),
    /// Blends with each pixel's grey, by a factor as for `Contrast`.
    Saturation(f32),
    /// Blends with a smoothed image, by a factor as for `Contrast`.
    Sharpness(f32),
    /// Shears, moves or rotates the image. Maps a pixel of the result to its source,
    /// `(x, y) ↦ (a·x + b·y + c, d·x + e·y + f)`; it is black where the source lies outside.
    Affine([f32; 6]),
    /// Keeps the given number of upper bits of each value.
    Posterize(u8),
    /// Inverts values from a threshold upwards.
    Solarize(u8),
    /// Stretches each channel to the full range.
    AutoContrast,
    /// Equalises the histogram of each channel.
    Equalize,
}

/// Applies operations in order to an image of `[H, W]` pixels. `to` is the height and width of the result of
/// a resizing operation.
pub fn apply(pixels: &[u8], size: [usize; 2], ops: &[Op], to: [usize; 2]) -> Vec<u8> {
    let (mut pixels, mut size) = (pixels.to_vec(), size);
    for op in ops {
        match *op {
            Op::ResizedCrop { top, left, height, width } => {
                let [top, left, height, width] = [top, left, height, width].map(usize::from);
                let row = size[1] * CHANNELS;
                let rows = pixels.chunks_exact(row).skip(top).take(height);
                let part: Vec<u8> =
                    rows.flat_map(|r| &r[left * CHANNELS..(left + width) * CHANNELS]).copied().collect();
                pixels = stretch(&part, [height, width], to);
                size = to;
            }
            Op::Brightness(factor) => blend(&mut pixels, factor, |_| [0; CHANNELS]),
            Op::Contrast(factor) => {
                let all = pixels.as_chunks::<CHANNELS>().0;
                let sum: u64 = all.iter().map(|p| u64::from(grey(*p))).sum();
                let mean = (sum as f64 / all.len() as f64 + 0.5) as u8;
                blend(&mut pixels, factor, |_| [mean; CHANNELS]);
            }
            Op::Saturation(factor) => blend(&mut pixels, factor, |pixel| [grey(pixel); CHANNELS]),
            Op::Sharpness(factor) => {
                let smooth = smoothed(&pixels, size);
                for (v, other) in pixels.iter_mut().zip(smooth) {
                    *v = mix(other, *v, factor);
                }
            }
            Op::Affine(map) => pixels = affine(&pixels, size, map),
            Op::Posterize(bits) => {
                pixels.iter_mut().for_each(|v| *v &= !(0xff_u8.checked_shr(bits.into()).unwrap_or(0)))
            }
            Op::Solarize(from) => pixels.iter_mut().filter(|v| **v >= from).for_each(|v| *v = 255 - *v),
            Op::AutoContrast => by_table(&mut pixels, auto_contrast),
            Op::Equalize => by_table(&mut pixels, equalize),
        }
    }
    pixels
}

/// Returns Pillow's grey value of a pixel.
fn grey([r, g, b]: [u8; CHANNELS]) -> u8 {
    ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
}

/// Blends two values as Pillow's `Image.blend` does.
fn mix(from: u8, to: u8, factor: f32) -> u8 {
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))).clamp(0.0, 255.0) as u8
}

fn blend(pixels: &mut [u8], factor: f32, other: impl Fn([u8; CHANNELS]) -> [u8; CHANNELS]) {
    for pixel in pixels.as_chunks_mut::<CHANNELS>().0 {
        let from = other(*pixel);
        for (v, from) in pixel.iter_mut().zip(from) {
            *v = mix(from, *v, factor);
        }
    }
}

/// Applies Pillow's `ImageFilter.SMOOTH`: a pixel has weight 5, its neighbours 1; edge pixels are unchanged.
fn smoothed(pixels: &[u8], [height, width]: [usize; 2]) -> Vec<u8> {
    let mut out = pixels.to_vec();
    let at = |row: usize, col: usize, c: usize| (row * width + col) * CHANNELS + c;
    for row in 1..height.saturating_sub(1) {
        for col in 1..width.saturating_sub(1) {
            for c in 0..CHANNELS {
                let around = (row - 1..=row + 1).flat_map(|r| (col - 1..=col + 1).map(move |q| (r, q)));
                let sum: u32 = around.map(|(r, q)| u32::from(pixels[at(r, q, c)])).sum();
                let sum = sum + 4 * u32::from(pixels[at(row, col, c)]);
                out[at(row, col, c)] = (sum as f32 / 13.0 + 0.5) as u8;
            }
        }
    }
    out
}

/// Applies `Op::Affine` with nearest-neighbour sampling.
fn affine(pixels: &[u8], [height, width]: [usize; 2], [a, b, c, d, e, f]: [f32; 6]) -> Vec<u8> {
    let mut out = vec![0; pixels.len()];
    for (n, to) in out.as_chunks_mut::<CHANNELS>().0.iter_mut().enumerate() {
        let (x, y) = ((n % width) as f32 + 0.5, (n / width) as f32 + 0.5);
        let (from_x, from_y) = ((a * x + b * y + c).floor(), (d * x + e * y + f).floor());
        if (0.0..width as f32).contains(&from_x) && (0.0..height as f32).contains(&from_y) {
            let at = (from_y as usize * width + from_x as usize) * CHANNELS;
            to.copy_from_slice(&pixels[at..at + CHANNELS]);
        }
    }
    out
}

/// Maps each channel by a table that is computed from its histogram.
fn by_table(pixels: &mut [u8], table: impl Fn(&[u32; 256]) -> [u8; 256]) {
    for c in 0..CHANNELS {
        let mut counts = [0; 256];
        pixels.iter().skip(c).step_by(CHANNELS).for_each(|v| counts[usize::from(*v)] += 1);
        let table = table(&counts);
        pixels.iter_mut().skip(c).step_by(CHANNELS).for_each(|v| *v = table[usize::from(*v)]);
    }
}

/// Returns the table of Pillow's `ImageOps.autocontrast`.
fn auto_contrast(counts: &[u32; 256]) -> [u8; 256] {
    let low = counts.iter().position(|n| *n > 0).unwrap_or(0);
    let high = counts.iter().rposition(|n| *n > 0).unwrap_or(255);
    std::array::from_fn(|v| {
        if high <= low {
            return v as u8;
        }
        let scale = 255.0 / (high - low) as f64;
        (v as f64 * scale - low as f64 * scale).clamp(0.0, 255.0) as u8
    })
}

/// Returns the table of Pillow's `ImageOps.equalize`.
fn equalize(counts: &[u32; 256]) -> [u8; 256] {
    let occurring = counts.iter().filter(|n| **n > 0);
    let last = occurring.clone().next_back().copied().unwrap_or(0);
    let step = (counts.iter().sum::<u32>() - last) / 255;
    if occurring.count() <= 1 || step == 0 {
        return std::array::from_fn(|v| v as u8);
    }
    let mut sum = step / 2;
    std::array::from_fn(|v| {
        let to = sum / step;
        sum += counts[v];
        to.min(255) as u8
    })
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    /// Compares with torchvision's results for one image, from `scripts/pytorch/fixture_augment.py`.
    #[test]
    fn operations_match_torchvision() {
        let bytes = include_bytes!("../../tests/fixtures/augment.safetensors");
        let fixture = SafeTensors::deserialize(bytes).expect("tensors");
        let image = fixture.tensor("image").expect("the image");
        let size = [image.shape()[0], image.shape()[1]];
        assert_eq!(size, [41, 60]);
        let (sin, cos) = (21f32.to_radians().sin(), 21f32.to_radians().cos());
        let (x, y) = (30.0, 20.5);
        let turn = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y];
        let all = [
            ("crop", Op::ResizedCrop { top: 5, left: 8, height: 30, width: 23 }),
            ("brightness 0.3", Op::Brightness(0.3)),
            ("brightness 1.7", Op::Brightness(1.7)),
            ("contrast 0.4", Op::Contrast(0.4)),
            ("contrast 1.6", Op::Contrast(1.6)),
            ("saturation 0.2", Op::Saturation(0.2)),
            ("saturation 1.9", Op::Saturation(1.9)),
            ("sharpness 0.1", Op::Sharpness(0.1)),
            ("sharpness 1.9", Op::Sharpness(1.9)),
            ("posterize 4", Op::Posterize(4)),
            ("solarize 128", Op::Solarize(128)),
            ("autocontrast", Op::AutoContrast),
            ("equalize", Op::Equalize),
            ("shear x 0.3", Op::Affine([1.0, 0.3, 0.0, 0.0, 1.0, 0.0])),
            ("shear y -0.3", Op::Affine([1.0, 0.0, 0.0, -0.3, 1.0, 0.0])),
            ("move x 13", Op::Affine([1.0, 0.0, -13.0, 0.0, 1.0, 0.0])),
            ("move y -9", Op::Affine([1.0, 0.0, 0.0, 0.0, 1.0, 9.0])),
            ("turn 21", Op::Affine(turn)),
        ];
        assert_eq!(all.len() + 1, fixture.names().len());
        for (name, op) in all {
            let truth = fixture.tensor(name).expect(name);
            let to = [truth.shape()[0], truth.shape()[1]];
            let found = apply(image.data(), size, &[op], to);
            assert_eq!(found.len(), truth.data().len(), "{name}");
            let differences: Vec<u8> = found.iter().zip(truth.data()).map(|(a, b)| a.abs_diff(*b)).collect();
            let off = differences.iter().filter(|d| **d > 0).count();
            match op {
                // Rounding may select a neighbouring source pixel.
                Op::Affine(_) => assert!(off <= found.len() / 200, "{name}: {off} bytes"),
                // For some sizes Pillow 13 resizes rows before columns, and rounds in between.
                Op::ResizedCrop { .. } => assert!(differences.iter().all(|d| *d <= 1), "{name}"),
                _ => assert_eq!(off, 0, "{name}: {off} of {} bytes", found.len()),
            }
        }
    }

    #[test]
    fn operations_are_applied_in_order() {
        let pixels: Vec<u8> = (0..27).map(|v| v * 9).collect();
        let both = [Op::Solarize(100), Op::Posterize(3)];
        let first = apply(&pixels, [3, 3], &both[..1], [3, 3]);
        assert_eq!(apply(&pixels, [3, 3], &both, [3, 3]), apply(&first, [3, 3], &both[1..], [3, 3]));
        assert_eq!(apply(&pixels, [3, 3], &[], [3, 3]), pixels);
        assert_eq!(apply(&pixels, [3, 3], &[Op::Posterize(8), Op::Brightness(1.0)], [3, 3]), pixels);
    }
}
