//! The hyperparameters of stochastic gradient descent.

/// The hyperparameters of a step.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Learning rate.
    pub lr: f32,
    /// Momentum μ.
    pub momentum: f32,
    /// Weight decay.
    pub weight_decay: f32,
    /// Whether to use Nesterov's momentum.
    pub nesterov: bool,
}
