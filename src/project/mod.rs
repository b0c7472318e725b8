//! Projection of features to the plane, for figures: PCA and t-SNE.
//!
//! Both are exact up to rounding, and deterministic: sums are computed in a fixed order, nothing is random,
//! and no fused multiply-add is used, so the bytes depend neither on the number of threads nor on the
//! instruction set. t-SNE sums over all pairs of points instead of approximating distant ones. This costs
//! O(N²) per step, which vector instructions and threads make fast at the sizes of CIFAR
//! (`docs/reference/embedding.md` has the measurements, and the reasons for not using a library).

mod affinity;
mod neighbours;
pub mod pca;
mod repulsion;
pub mod tsne;

use rayon::prelude::*;

/// An error in features to project, or a parameter that does not fit them.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Too few rows for a map.
    #[error("there are {0} images to project, but at least 4 are needed; choose a larger --split")]
    Few(usize),
    /// Features that are NaN, infinite, or so large that their squares would be infinite.
    #[error(
        "the features of image {0} are not finite or exceed 10^15, probably because the training diverged; \
         train the network again"
    )]
    NotFinite(usize),
    /// No two rows differ.
    #[error("all {0} images have the same features; the network has collapsed, so train it again")]
    Same(usize),
    /// A perplexity that requires more neighbours than there are.
    #[error("--perplexity {0}: must be below a third of the {1} images")]
    Perplexity(f64, usize),
}

/// Largest absolute value of a feature; it leaves a wide margin for sums of squares to be finite in f32.
const LARGEST: f32 = 1e15;

/// Rows of features.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Rows<'a> {
    /// Interprets `values` as (N, `width`), row by row.
    ///
    /// # Errors
    /// Returns an error if there are fewer than four rows, if values are not finite or too large, or if all
    /// rows are equal.
    ///
    /// # Panics
    /// Panics if `values` does not consist of whole rows.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self, Error> {
        assert!(width > 0 && values.len().is_multiple_of(width), "whole rows");
        let rows = Rows { values, width };
        if rows.len() < 4 {
            return Err(Error::Few(rows.len()));
        }
        if let Some(bad) = values.par_iter().position_first(|x| x.is_nan() || x.abs() > LARGEST) {
            return Err(Error::NotFinite(bad / width));
        }
        if values.chunks_exact(width).all(|row| row == &values[..width]) {
            return Err(Error::Same(rows.len()));
        }
        Ok(rows)
    }

    /// Returns the number of rows.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn iter(&self) -> std::slice::ChunksExact<'a, f32> {
        self.values.chunks_exact(self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_features_are_refused() {
        assert_eq!(Rows::new(&[0.0; 6], 2).err(), Some(Error::Few(3)));
        assert_eq!(Rows::new(&[0.5; 8], 2).err(), Some(Error::Same(4)));
        let mut values = [0.0, 1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0, 7.0];
        assert_eq!(Rows::new(&values, 2).err(), Some(Error::NotFinite(2)));
        values[5] = -1e16;
        assert_eq!(Rows::new(&values, 2).err(), Some(Error::NotFinite(2)));
    }
}
