//! Transfer of images to a device.

use std::ops::Range;

use super::device::{Device, Memory};
use crate::backend::Levels;
use crate::data::shard::Split;

/// Number of bytes of images that are sent at a time if the images are not kept on the device.
const BYTES_PER_TRANSFER: usize = if cfg!(test) { 2 << 10 } else { 64 << 20 };

/// Returns whether all images of some splits fit in half of the device's free memory.
///
/// # Errors
/// Returns an error if a call of the driver fails.
pub fn fit(device: &Device, splits: &[&Split]) -> super::Result<bool> {
    let bytes = |split: &&Split| split.len() * split.shape().iter().product::<usize>();
    Ok(splits.iter().map(bytes).sum::<usize>() <= device.free()? / 2)
}

/// Returns how many units of images, such as batches, of `bytes` bytes each, are sent at a time.
pub fn units_per_transfer(bytes: usize) -> usize {
    (BYTES_PER_TRANSFER / bytes.max(1)).max(1)
}

/// Writes images of a split, as evaluation sees them, to the beginning of the memory.
///
/// # Errors
/// Returns an error if a call of the driver fails.
pub fn send(memory: &Memory<u8>, split: &Split, images: Range<usize>) -> super::Result<()> {
    let len = split.shape().iter().product::<usize>();
    // The images are sent in pieces, because a copy of all of them would need as much memory again.
    let (piece, mut bytes) = ((1 << 24) / len.max(1) + 1, vec![]);
    for from in images.clone().step_by(piece) {
        let to = images.end.min(from + piece);
        bytes.clear();
        (from..to).for_each(|i| split.rows(i).for_each(|row| bytes.extend_from_slice(row)));
        memory.write((from - images.start) * len, &bytes)?;
    }
    Ok(())
}

/// Returns the table of normalised values in the kernels' layout, (3, 256).
///
/// # Panics
/// Panics if the images do not have three channels.
pub fn flat(levels: &Levels) -> &[f32] {
    assert_eq!(levels.len(), 3, "the kernels take images of three channels");
    levels.as_flattened()
}

/// Encodes an augmentation for the loader.
pub fn view(dy: i16, dx: i16, flip: bool) -> u32 {
    let byte = |offset: i16| (i32::from(offset) + 128) as u32;
    byte(dy) | byte(dx) << 8 | u32::from(flip) << 16
}
