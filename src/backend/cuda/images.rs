//! Images on their way to a device.

use std::ops::Range;

use super::device::{Device, Memory};
use crate::backend::cpu::load::Levels;
use crate::data::shard::Split;

/// Bytes of images that are sent to a device at a time, where they are not kept there.
const AT_A_TIME: usize = if cfg!(test) { 2 << 10 } else { 64 << 20 };

/// Whether a device has memory to spare for all images of some splits.
///
/// # Errors
/// The driver's.
pub fn fit(device: &Device, splits: &[&Split]) -> super::Result<bool> {
    let bytes = |split: &&Split| split.len() * split.shape().iter().product::<usize>();
    Ok(splits.iter().map(bytes).sum::<usize>() <= device.free()? / 2)
}

/// How many units of images, of so many bytes each, are sent at a time.
pub fn at_a_time(bytes: usize) -> usize {
    (AT_A_TIME / bytes.max(1)).max(1)
}

/// Writes what evaluation sees of some images, from the beginning of the memory on.
///
/// # Errors
/// The driver's.
pub fn send(memory: &Memory<u8>, split: &Split, images: Range<usize>) -> super::Result<()> {
    let len = split.shape().iter().product::<usize>();
    // In pieces, for a copy of the whole would be a second one.
    let (piece, mut bytes) = ((1 << 24) / len.max(1) + 1, vec![]);
    for from in images.clone().step_by(piece) {
        let to = images.end.min(from + piece);
        bytes.clear();
        (from..to).for_each(|i| split.rows(i).for_each(|row| bytes.extend_from_slice(row)));
        memory.write((from - images.start) * len, &bytes)?;
    }
    Ok(())
}

/// The table of normalised values as the kernels have it, (3, 256).
pub fn flat(levels: &Levels) -> Vec<f32> {
    levels.iter().flatten().copied().collect()
}

/// An augmentation as the loader takes it.
pub fn view(dy: i16, dx: i16, flip: bool) -> u32 {
    let byte = |offset: i16| (i32::from(offset) + 128) as u32;
    byte(dy) | byte(dx) << 8 | u32::from(flip) << 16
}
