//! The loader: gathers images, crops, flips, mixes and normalises them straight into the input tensor.

use candle_core::{Result, Tensor};

use super::for_each_image;
use crate::backend::Levels;
use crate::methods::mix::Patch;
use crate::simd::value::Value;
use crate::tensor::with_value;

/// One augmented image: pixel `(row, col)` is pixel `(row + dy, col' + dx)` of the stored image, black
/// outside it, where `col'` is `col`, mirrored if `flip` is set.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Bytes of the stored image, (H, W, C).
    pub image: &'a [u8],
    /// Height, width and channels of the stored image.
    pub stored: [usize; 3],
    /// Vertical shift, in rows.
    pub dy: i32,
    /// Horizontal shift, in columns.
    pub dx: i32,
    /// Whether to mirror left and right, after the shift.
    pub flip: bool,
}

impl View<'_> {
    /// Returns the stored pixel at `(row, col)` of the view, which has `across` columns, or `None` if it is
    /// outside the stored image.
    fn pixel(&self, across: usize, row: usize, col: usize) -> Option<&[u8]> {
        let [height, width, channels] = self.stored;
        let col = if self.flip { across - 1 - col } else { col };
        let row = row.checked_add_signed(self.dy as isize).filter(|&r| r < height)?;
        let col = col.checked_add_signed(self.dx as isize).filter(|&c| c < width)?;
        let at = (row * width + col) * channels;
        Some(&self.image[at..at + channels])
    }

    /// Writes the normalised pixels, (H, W, C), of the view, which has `width` columns.
    pub fn write(&self, width: usize, levels: &Levels, out: &mut [f32]) {
        let channels = levels.len();
        let black = vec![0u8; channels];
        for (at, x) in out.chunks_exact_mut(channels).enumerate() {
            let pixel = self.pixel(width, at / width, at % width).unwrap_or(&black);
            x.iter_mut().zip(pixel).zip(levels).for_each(|((x, byte), level)| *x = level[usize::from(*byte)]);
        }
    }
}

/// Computes `x_s = λ_s·view(s) + (1 − λ_s)·view(partner_s)`, normalised, for each sample of a batch. A sample
/// with a patch is instead the partner inside the patch and the sample itself outside.
///
/// `x` is (N, H, W, C) with `shape = [H, W, C]`; `view(n)` returns the augmented image at position `n` of the
/// batch.
///
/// # Errors
/// Returns an error if `x` has the wrong type, layout or device.
///
/// # Panics
/// Panics if `x` is too small for the batch.
pub fn forward<'a>(
    x: &Tensor,
    shape: [usize; 3],
    levels: &Levels,
    view: impl Fn(usize) -> View<'a> + Sync + Send,
    partner: &[u32],
    lambda: &[f32],
    patch: &[Patch],
) -> Result<()> {
    let [height, width, channels] = shape;
    let black = vec![0u8; channels];
    with_value!(x, T => {
        let image = |n: usize, x: &mut [T]| {
            let (a, b) = (view(n), view(partner[n] as usize));
            for (at, x) in x.chunks_exact_mut(channels).enumerate() {
                let (row, col) = (at / width, at % width);
                let l = match patch[n].area() {
                    0 => lambda[n],
                    _ if patch[n].contains(row, col) => 0.0,
                    _ => 1.0,
                };
                let first = a.pixel(width, row, col).unwrap_or(&black);
                if l == 1.0 {
                    for c in 0..channels {
                        x[c] = T::rounded(levels[c][usize::from(first[c])]);
                    }
                    continue;
                }
                let second = b.pixel(width, row, col).unwrap_or(&black);
                for c in 0..channels {
                    let (first, second) = (usize::from(first[c]), usize::from(second[c]));
                    x[c] = T::rounded(l * levels[c][first] + (1.0 - l) * levels[c][second]);
                }
            }
        };
        for_each_image(lambda.len(), x, height * width * channels, image)
    })
}

#[cfg(test)]
mod tests;
