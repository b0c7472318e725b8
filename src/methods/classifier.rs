//! Classifiers on features, the second stage of two-stage methods: the network itself is not changed.
//!
//! Kang et al. (arXiv 1910.09217) retrain the classifier with balanced classes (cRT: `linear` with
//! re-sampling), learn a scale for each class (LWS), divide weights by a power of their norm (τ-norm), or
//! choose the nearest mean (NCM). Nearest neighbours (Wu et al., arXiv 1805.01978) have no weights at all.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::loss::{ClassifierKind, Loss};

/// A classifier, and how it is obtained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Classifier {
    /// `W·f + b`, trained from random weights.
    Linear,
    /// A multiple of the cosine of features and weights, trained from random weights.
    Cosine,
    /// The checkpoint's own classifier, with each logit multiplied by a trained scale of its class.
    Lws,
    /// The checkpoint's own weights, divided by a power of their norm, without the bias.
    TauNorm {
        /// The exponent; `None` if it is chosen on the validation split.
        tau_norm: Option<f64>,
    },
    /// The class with the nearest mean.
    Ncm,
    /// The class whose mean has the largest cosine with the features.
    NcmCosine,
    /// The vote of the nearest training images.
    Knn {
        /// Number of neighbours that vote.
        neighbours: usize,
    },
}

impl Classifier {
    /// The exponent of τ-norm in its paper.
    pub const TAU_NORM: f64 = 0.7;

    /// The default number of neighbours. It is our choice; Wu et al. use 200 on ImageNet.
    pub const NEIGHBOURS: usize = 20;

    /// Returns the classifier in a checkpoint's params, if it is one on features.
    pub fn of(params: &Map<String, Value>) -> Option<Classifier> {
        serde_json::from_value(params.get("classifier")?.clone()).ok()
    }

    /// Returns whether the classifier is trained in steps; otherwise it is computed directly.
    pub fn is_trained(self) -> bool {
        matches!(self, Classifier::Linear | Classifier::Cosine | Classifier::Lws)
    }

    /// Returns whether it starts from the checkpoint's own classifier.
    pub fn keeps_weights(self) -> bool {
        matches!(self, Classifier::Lws | Classifier::TauNorm { .. })
    }

    /// Returns the kind of classifier that it is, for a given loss.
    pub fn kind(self, loss: &Loss) -> ClassifierKind {
        match self {
            Classifier::Linear => loss.classifier(),
            Classifier::Cosine | Classifier::NcmCosine => ClassifierKind::Cosine,
            Classifier::Lws | Classifier::TauNorm { .. } | Classifier::Ncm | Classifier::Knn { .. } => {
                ClassifierKind::Linear
            }
        }
    }
}

/// Divides weights (classes, features) by their norms to the power of `tau`.
pub fn tau_normed(weight: &[f32], features: usize, tau: f64) -> Vec<f32> {
    let normed = |row: &[f32]| {
        let length = row.iter().map(|w| f64::from(*w) * f64::from(*w)).sum::<f64>().sqrt();
        let scale = length.max(1e-12).powf(-tau);
        row.iter().map(|w| (f64::from(*w) * scale) as f32).collect::<Vec<_>>()
    };
    weight.chunks_exact(features).flat_map(normed).collect()
}

/// Returns the mean of each class's features, (classes, features), in f64. Each class must have features.
pub fn means<'a>(rows: impl Iterator<Item = (&'a [f32], u32)>, classes: usize, features: usize) -> Vec<f64> {
    let (mut sums, mut counts) = (vec![0.0; classes * features], vec![0usize; classes]);
    for (row, label) in rows {
        let label = label as usize;
        counts[label] += 1;
        let sums = &mut sums[label * features..(label + 1) * features];
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    for (sums, count) in sums.chunks_exact_mut(features).zip(counts) {
        sums.iter_mut().for_each(|sum| *sum /= count as f64);
    }
    sums
}

/// Returns a weight and a bias whose logits are the negative squared distances to some means, up to terms
/// that are equal for all classes.
///
/// With c the mean of the means, the logits are `2(μ − c)·f + |c|² − |μ|²`. Thus an offset that all features
/// share cancels here, in f64.
pub fn nearest(means: &[f64], features: usize) -> (Vec<f32>, Vec<f32>) {
    let classes = (means.len() / features) as f64;
    let centre: Vec<f64> =
        (0..features).map(|f| means.iter().skip(f).step_by(features).sum::<f64>() / classes).collect();
    let rows = means.chunks_exact(features).map(|mean| mean.iter().zip(&centre));
    let weight = rows.clone().flatten().map(|(m, c)| (2.0 * (m - c)) as f32).collect();
    let bias = rows.map(|row| row.map(|(m, c)| (c - m) * (c + m)).sum::<f64>() as f32).collect();
    (weight, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tau_norm_divides_weights_by_a_power_of_their_length() {
        // The norms are 5 and 10.
        let weight = [3.0, 4.0, 6.0, 8.0];
        assert_eq!(tau_normed(&weight, 2, 1.0), [0.6, 0.8, 0.6, 0.8]);
        assert_eq!(tau_normed(&weight, 2, 0.0), weight);
        let half = tau_normed(&weight, 2, 0.5);
        assert!((half[0] - 3.0 / 5f32.sqrt()).abs() < 1e-6 && (half[3] - 8.0 / 10f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn the_nearest_mean_wins() {
        let rows = [[0.0f32, 0.0], [2.0, 0.0], [5.0, 5.0]];
        let means = means(rows.iter().map(|r| &r[..]).zip([0, 0, 1]), 2, 2);
        assert_eq!(means, [1.0, 0.0, 5.0, 5.0]);
        let (weight, bias) = nearest(&means, 2);
        // For (3, 2): squared distances 8 and 13.
        let logit = |k: usize| weight[2 * k] * 3.0 + weight[2 * k + 1] * 2.0 + bias[k];
        assert_eq!(logit(0) - logit(1), 13.0 - 8.0);
        // Holds however far all of them are from the origin.
        let far: Vec<f64> = means.iter().map(|m| m + 1e6).collect();
        assert_eq!(nearest(&far, 2).0, weight);
    }
}
