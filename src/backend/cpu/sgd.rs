//! Stochastic gradient descent with momentum and weight decay, in PyTorch's form, over all parameters at
//! once.
//!
//! `d = g + wd·p`, `v ← μ·v + d`, `p ← p − lr·v` (Sutskever et al. 2013 apply lr at another point), or with
//! Nesterov's momentum `p ← p − lr·(d + μ·v)`.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::backend::Rates;
use crate::tensor::{read, write};

impl Rates {
    /// Performs one step on one value with its velocity and gradient.
    #[inline(always)]
    pub fn step(self, value: &mut f32, velocity: &mut f32, gradient: f32) {
        let d = gradient + self.weight_decay * *value;
        *velocity = self.momentum * *velocity + d;
        *value -= self.lr * if self.nesterov { d + self.momentum * *velocity } else { *velocity };
    }
}

/// Performs one step over flat tensors of equal length.
///
/// # Errors
/// Returns an error if a tensor has the wrong type, layout or device.
pub fn step(params: &Tensor, grads: &Tensor, velocity: &Tensor, rates: Rates) -> Result<()> {
    let grads = read(grads)?;
    write(params, |params| {
        write(velocity, |velocity| {
            let block = 1 << 14;
            (params.par_chunks_mut(block), velocity.par_chunks_mut(block), grads.par_chunks(block))
                .into_par_iter()
                .for_each(|(p, v, g)| {
                    for ((p, v), g) in p.iter_mut().zip(v).zip(g) {
                        rates.step(p, v, *g);
                    }
                })
        })
    })?
}
