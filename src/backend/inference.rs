//! The outputs of inference.

/// The outputs of a network for a whole split, row-major, in the order of the split.
#[derive(Clone, Debug, PartialEq)]
pub struct Inference {
    /// The logits, (N, classes).
    pub logits: Vec<f32>,
    /// Pooled features, (N, `feature_len`).
    pub features: Vec<f32>,
    /// Number of classes.
    pub classes: usize,
    /// Length of a feature vector.
    pub feature_len: usize,
}
