//! t-SNE: a map of the plane in which near rows are near (van der Maaten and Hinton, JMLR 2008).
//!
//! The gradient is exact for the given affinities. The recipe is that of openTSNE (Poličar et al., JSS 2024):
//! start from PCA, learning rate N over the exaggeration and at least 200, momentum 0.8.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::affinity::{Affinities, affinities};
use super::neighbours::neighbours;
use super::pca::pca;
use super::repulsion::repulsion;
use super::{Error, Rows};
use crate::interrupt::{self, Interrupted};

/// Steps of early exaggeration; a third of all steps if there are fewer than three times as many.
const EARLY: u32 = 250;
/// Standard deviation of the first coordinate at the start.
const START: f64 = 1e-4;
/// Longest distance that a step moves a point.
const LONGEST_STEP: f32 = 5.0;

/// The settings of t-SNE.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tsne {
    /// Effective number of neighbours of a point.
    pub perplexity: f64,
    /// Steps of gradient descent.
    pub iterations: u32,
    /// Factor of the affinities in the first steps, which forms clusters; 1 for none.
    pub early_exaggeration: f64,
}

/// A finished map.
pub struct Map {
    /// Coordinates (N, 2).
    pub projection: Vec<[f32; 2]>,
    /// KL(P‖Q) in nats, the minimised quantity, summed exactly in f64.
    pub kl_divergence: f64,
}

impl Tsne {
    /// Refuses a perplexity that is too large for this number of images.
    ///
    /// # Errors
    /// Returns an error if the perplexity is a third of the number of images or more.
    pub fn fits(&self, images: usize) -> Result<(), Error> {
        let enough = 3.0 * self.perplexity < images as f64;
        if enough { Ok(()) } else { Err(Error::Perplexity(self.perplexity, images)) }
    }

    /// Maps the rows to the plane.
    ///
    /// # Errors
    /// Returns the error of [`Self::fits`], or [`Interrupted`] after a signal.
    pub fn run(&self, rows: Rows) -> anyhow::Result<Map> {
        self.fits(rows.len())?;
        let p = affinities(&neighbours(rows, (3.0 * self.perplexity) as usize)?, self.perplexity);
        let mut y = start(rows)?;
        let early = EARLY.min(self.iterations / 3);
        let mut state = vec![[Momentum { speed: 0.0, gain: 1.0 }; 2]; y.len()];
        let mut force = vec![[0.0; 2]; y.len()];
        for iteration in 0..self.iterations {
            interrupt::check()?;
            if iteration == early {
                state.fill([Momentum { speed: 0.0, gain: 1.0 }; 2]);
            }
            let exaggeration = if iteration < early { self.early_exaggeration as f32 } else { 1.0 };
            let z = repulsion(&y, &mut force);
            let rate = (y.len() as f32 / exaggeration).max(200.0);
            attract(&p, &y, exaggeration, z as f32, &mut force);
            y.par_iter_mut().zip(&mut state).zip(&force).for_each(|((y, state), g)| step(y, state, *g, rate));
            centre(&mut y);
        }
        let kl_divergence = kl(&p, &y);
        Ok(Map { projection: y, kl_divergence })
    }
}

/// Returns the first two principal components, scaled down.
fn start(rows: Rows) -> Result<Vec<[f32; 2]>, Interrupted> {
    let components = pca(rows, 2)?.projection;
    let variance = components.iter().step_by(2).map(|x| x * x).sum::<f64>() / rows.len() as f64;
    let scale = START / variance.sqrt();
    Ok(components.chunks_exact(2).map(|c| [(c[0] * scale) as f32, (c[1] * scale) as f32]).collect())
}

/// Turns the repulsion in `force` into a quarter of the gradient, Σ_j (e p_ij − q_ij/Z) q_ij (y_i − y_j).
fn attract(p: &Affinities, y: &[[f32; 2]], exaggeration: f32, z: f32, force: &mut [[f32; 2]]) {
    force.par_iter_mut().enumerate().with_min_len(64).for_each(|(i, force)| {
        let entries = p.start[i]..p.start[i + 1];
        let mut sum = [0.0; 2];
        for (&j, &p) in p.column[entries.clone()].iter().zip(&p.value[entries]) {
            let other = y[j as usize];
            let delta = [y[i][0] - other[0], y[i][1] - other[1]];
            let pull = p / (1.0 + delta[0] * delta[0] + delta[1] * delta[1]);
            sum = [sum[0] + pull * delta[0], sum[1] + pull * delta[1]];
        }
        *force = [exaggeration * sum[0] - force[0] / z, exaggeration * sum[1] - force[1] / z];
    });
}

/// The state of one coordinate of a point.
#[derive(Clone, Copy)]
struct Momentum {
    speed: f32,
    gain: f32,
}

/// Performs a step of gradient descent with momentum and a gain per coordinate, which grows while the
/// direction is kept and shrinks when it changes (Jacobs 1988, as in van der Maaten's code).
fn step(y: &mut [f32; 2], state: &mut [Momentum; 2], gradient: [f32; 2], rate: f32) {
    for (m, g) in state.iter_mut().zip(gradient) {
        let onward = (g > 0.0) != (m.speed > 0.0);
        m.gain = if onward { m.gain + 0.2 } else { (m.gain * 0.8).max(0.01) };
        m.speed = 0.8 * m.speed - rate * m.gain * g;
    }
    let length = (state[0].speed * state[0].speed + state[1].speed * state[1].speed).sqrt();
    let shorter = if length > LONGEST_STEP { LONGEST_STEP / length } else { 1.0 };
    for (y, m) in y.iter_mut().zip(state) {
        m.speed *= shorter;
        *y += m.speed;
    }
}

/// Moves the mean of the map to 0.
fn centre(y: &mut [[f32; 2]]) {
    for c in 0..2 {
        let mean = (y.iter().map(|p| f64::from(p[c])).sum::<f64>() / y.len() as f64) as f32;
        y.iter_mut().for_each(|p| p[c] -= mean);
    }
}

/// Computes KL(P‖Q) = Σ p_ij ln(p_ij / q_ij), with q_ij = (1 + d_ij²)⁻¹ / Z over all pairs.
fn kl(p: &Affinities, y: &[[f32; 2]]) -> f64 {
    let q = |a: [f32; 2], b: [f32; 2]| {
        let (dx, dy) = (f64::from(a[0]) - f64::from(b[0]), f64::from(a[1]) - f64::from(b[1]));
        1.0 / (1.0 + dx * dx + dy * dy)
    };
    let rows: Vec<[f64; 2]> = (0..y.len())
        .into_par_iter()
        .map(|i| {
            let entries = p.start[i]..p.start[i + 1];
            let pairs = p.column[entries.clone()].iter().zip(&p.value[entries]).filter(|(_, p)| **p > 0.0);
            let cost =
                pairs.map(|(&j, &p)| f64::from(p) * (f64::from(p) / q(y[i], y[j as usize])).ln()).sum();
            [cost, y.iter().map(|&b| q(y[i], b)).sum::<f64>() - 1.0]
        })
        .collect();
    let total = |c: usize| rows.iter().map(|r| r[c]).sum::<f64>();
    // The p_ij add up to 1, up to rounding.
    total(0) + total(1).ln()
}

#[cfg(test)]
mod tests;
