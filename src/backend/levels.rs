//! The table by which engines normalise the bytes of images.

/// Normalised value of each byte in each channel: `(byte/255 − mean)/std`.
pub type Levels = Vec<[f32; 256]>;

/// Returns the table of normalised values.
pub fn levels(mean: &[f64], std: &[f64]) -> Levels {
    let level = |byte: usize, m: f64, s: f64| ((byte as f64 / 255.0 - m) / s) as f32;
    mean.iter().zip(std).map(|(&m, &s)| std::array::from_fn(|byte| level(byte, m, s))).collect()
}
