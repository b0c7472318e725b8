//! What tells the training methods apart: how images and labels are mixed ([`mix`]), the loss ([`loss`]), and
//! how the class imbalance is answered ([`rule`]); [`presets`] names the combinations.
//!
//! Pure functions of numbers: no tensors, no files, no clock. `train::plan` turns them into batches.

pub mod adjust;
pub mod choice;
pub mod classifier;
pub mod loss;
pub mod mix;
pub mod presets;
pub mod rule;
pub mod sampler;
