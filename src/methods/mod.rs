//! What distinguishes the training methods: how images and labels are mixed ([`mix`]), the loss ([`loss`])
//! and how class imbalance is counteracted ([`rule`]). [`presets`] names the combinations.
//!
//! These are pure functions of numbers: they use no tensors, no files and no clock. `train::plan` applies
//! them to batches.

pub mod adjust;
pub mod choice;
pub mod classifier;
pub mod loss;
pub mod mix;
pub mod presets;
pub mod rule;
pub mod sampler;
