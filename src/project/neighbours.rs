//! The nearest neighbours of every row, by comparing all pairs: exact, and for rows that are tens of values
//! wide faster than any index that must be built first.

use rayon::prelude::*;

use super::Rows;
use crate::interrupt::{self, Interrupted};
use crate::simd::{self, Task, Vector};

/// Number of values that the compiler processes together.
const LANES: usize = 16;
/// Number of rows that are compared with all others at a time.
const BLOCK: usize = 8;

/// The nearest neighbours of all rows.
pub struct Neighbours {
    /// Number of neighbours per row.
    pub k: usize,
    /// Indices of the neighbours (N, k), nearest first, ties by index; never the row itself.
    pub index: Vec<u32>,
    /// Squared Euclidean distances of the neighbours (N, k).
    pub squared: Vec<f32>,
}

/// Finds the `k` nearest neighbours of each row; `k` must be below the number of rows.
///
/// # Errors
/// Returns [`Interrupted`] after a signal.
pub fn neighbours(rows: Rows, k: usize) -> Result<Neighbours, Interrupted> {
    let (n, d) = (rows.len(), rows.width);
    assert!(0 < k && k < n, "{k} neighbours among {n}");
    // Tiles of LANES rows, each (D, LANES): lanes correspond to rows, so that a distance needs no sum across
    // lanes.
    let mut tiles = vec![[0.0; LANES]; n.div_ceil(LANES) * d];
    for (i, row) in rows.iter().enumerate() {
        for (c, &x) in row.iter().enumerate() {
            tiles[i / LANES * d + c][i % LANES] = x;
        }
    }
    let (mut index, mut squared) = (vec![0; n * k], vec![0.0; n * k]);
    let chunks = index.par_chunks_mut(BLOCK * k).zip(squared.par_chunks_mut(BLOCK * k));
    chunks.zip(rows.values.par_chunks(BLOCK * d)).enumerate().try_for_each_init(
        || (vec![[[0.0; LANES]; BLOCK]; n.div_ceil(LANES)], Vec::new()),
        |(distances, keys), (block, ((index, squared), values))| {
            interrupt::check()?;
            simd::run(Distances { values, d, tiles: &tiles, distances });
            for (r, (index, squared)) in index.chunks_mut(k).zip(squared.chunks_mut(k)).enumerate() {
                // The bits of non-negative floats are ordered as the floats are.
                let key = |j: usize| u64::from(distances[j / LANES][r][j % LANES].to_bits()) << 32 | j as u64;
                keys.clear();
                keys.extend((0..n).filter(|&j| j != block * BLOCK + r).map(key));
                keys.select_nth_unstable(k - 1);
                keys[..k].sort_unstable();
                for ((index, squared), key) in index.iter_mut().zip(squared).zip(&keys[..k]) {
                    (*index, *squared) = (*key as u32, f32::from_bits((key >> 32) as u32));
                }
            }
            Ok::<_, Interrupted>(())
        },
    )?;
    Ok(Neighbours { k, index, squared })
}

/// Squared distances from up to BLOCK rows to all rows.
struct Distances<'a> {
    values: &'a [f32],
    d: usize,
    tiles: &'a [[f32; LANES]],
    distances: &'a mut [[[f32; LANES]; BLOCK]],
}

impl Task for Distances<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Distances { values, d, tiles, distances } = self;
        let mut rows = [&values[..d]; BLOCK];
        rows.iter_mut().zip(values.chunks_exact(d)).for_each(|(slot, row)| *slot = row);
        for (tile, out) in tiles.chunks_exact(d).zip(distances) {
            let mut sums = [[0.0f32; LANES]; BLOCK];
            for (c, xs) in tile.iter().enumerate() {
                for (sum, row) in sums.iter_mut().zip(&rows) {
                    for (sum, x) in sum.iter_mut().zip(xs) {
                        let delta = row[c] - x;
                        *sum += delta * delta;
                    }
                }
            }
            *out = sums;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::for_each_isa;

    #[test]
    fn neighbours_match_a_full_sort() {
        // 101 rows give neither whole tiles nor whole blocks; many distances are equal.
        let (n, d, k) = (101, 5, 10);
        let values: Vec<f32> = (0..n * d).map(|i| ((i * 7919) % 11) as f32).collect();
        let rows = Rows::new(&values, d).expect("sound");
        for_each_isa(|isa| {
            let found = neighbours(rows, k).expect("neighbours");
            for i in 0..n {
                let row = |j: usize| &values[j * d..(j + 1) * d];
                let squared = |j| row(i).iter().zip(row(j)).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
                let mut all: Vec<(f32, usize)> =
                    (0..n).filter(|&j| j != i).map(|j| (squared(j), j)).collect();
                all.sort_by(|a, b| a.partial_cmp(b).expect("finite"));
                for (m, &(distance, j)) in all[..k].iter().enumerate() {
                    let at = i * k + m;
                    assert_eq!((found.index[at], found.squared[at]), (j as u32, distance), "{isa:?}");
                }
            }
        });
    }
}
