//! Counter-based random streams: every random number of a run is a function of (seed, purpose, epoch, step)
//! alone.
//!
//! Any step of any epoch can therefore be computed on its own, in any order, on any thread or device, and a
//! resumed run continues with exactly the numbers that it would have had. There is no generator state to
//! save.
//!
//! **The numbers, for implementations elsewhere (such as a CUDA kernel).** [`stream`] is the key stream of
//! ChaCha with 8 rounds in Bernstein's original form: the 256-bit key is the four numbers, each as a 64-bit
//! little-endian integer, in the order seed, purpose, epoch, step; the 64-bit nonce is 0; the 64-bit block
//! counter starts at 0. Word `i` of the stream is 32-bit word `i mod 16` of block `i / 16`. `next_u32` takes
//! the next word; `next_u64` takes the next two, the lower half first. The derived draws of this module each
//! take a fixed number of words, so they can be computed directly as well.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The purpose of a stream. Two purposes never share numbers, so adding a draw to one does not change those
/// of another.
///
/// The discriminants are part of every result: never renumber them, only append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights; `epoch` is 0 and `step` the number of the parameter.
    Init = 0,
    /// Which images an epoch sees, and in which order; `step` is 0.
    Order = 1,
    /// Crop offsets and flips of a batch.
    Augment = 2,
    /// Which images of a batch are mixed with each other.
    Pair = 3,
    /// The mixing coefficients λ of a batch.
    Lambda = 4,
    /// The mix point of a batch: the images, or the layer of the network at which it is mixed.
    MixPoint = 5,
    /// Any other augmentation of an image of a batch; `step` is the step times 2³² plus the image's position
    /// in the batch.
    Change = 6,
}

/// Returns the stream of one purpose at one step. Epochs count from 1, steps from 0; callers without an epoch
/// or a step pass 0.
pub fn stream(seed: u64, purpose: Purpose, epoch: u64, step: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, epoch, step]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Draws a uniform f64 in [0, 1): the upper 53 bits of two words.
pub fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Draws a uniform f32 in [0, 1): the upper 24 bits of one word. `1 - x` is exact, too.
pub fn uniform_f32(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Draws a uniform integer below `n`, from two words: the upper half of the 128-bit product `u64 · n`. The
/// probability of each value is off by at most 2⁻⁶⁴, so nothing is rejected and the number of words stays
/// fixed.
pub fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize
}

/// Shuffles by Fisher–Yates, from the last element down: for i = n−1 … 1, swaps i with `below(i + 1)`.
pub fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zero_stream_is_the_published_test_vector() {
        // ChaCha8, 256-bit zero key, zero IV: draft-strombergson-chacha-test-vectors-01, TC1.
        let mut bytes = [0u8; 32];
        stream(0, Purpose::Init, 0, 0).fill_bytes(&mut bytes);
        let expected = [
            0x3e, 0x00, 0xef, 0x2f, 0x89, 0x5f, 0x40, 0xd6, 0x7f, 0x5b, 0xb8, 0xe8, 0x1f, 0x09, 0xa5, 0xa1,
            0x2c, 0x84, 0x0e, 0xc3, 0xce, 0x9a, 0x7f, 0x3b, 0x18, 0x1b, 0xe1, 0x88, 0xef, 0x71, 0x1a, 0x1e,
        ];
        assert_eq!(bytes, expected);
    }

    /// Computes a block of ChaCha8 from its definition, as the module documentation describes it.
    fn block(key: [u64; 4], counter: u64) -> [u32; 16] {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let mut s = [0u32; 16];
        s[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
        for (n, k) in key.into_iter().enumerate() {
            s[4 + 2 * n..6 + 2 * n].copy_from_slice(&halves(k));
        }
        s[12..14].copy_from_slice(&halves(counter));
        let start = s;
        let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
            for (x, y, z, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
                s[x] = s[x].wrapping_add(s[y]);
                s[z] = (s[z] ^ s[x]).rotate_left(by);
            }
        };
        for _ in 0..4 {
            (0..4).for_each(|i| quarter(i, 4 + i, 8 + i, 12 + i));
            (0..4).for_each(|i| quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4));
        }
        std::array::from_fn(|i| s[i].wrapping_add(start[i]))
    }

    #[test]
    fn a_stream_is_plain_chacha8_over_the_four_numbers() {
        let (seed, epoch, step) = (0x0123_4567_89ab_cdef, 17, 1 << 40);
        let mut rng = stream(seed, Purpose::Lambda, epoch, step);
        for counter in 0..9 {
            let expected = block([seed, 4, epoch, step], counter);
            let words: [u32; 16] = std::array::from_fn(|_| rng.next_u32());
            assert_eq!(words, expected, "block {counter}");
        }
        // Draws an odd number of words first, since a 64-bit draw may straddle two blocks.
        let mut rng = stream(seed, Purpose::Lambda, epoch, step);
        let (first, second) = (block([seed, 4, epoch, step], 0), block([seed, 4, epoch, step], 1));
        rng.fill_bytes(&mut [0; 15 * 4]);
        assert_eq!(rng.next_u64(), u64::from(first[15]) | u64::from(second[0]) << 32);
    }

    #[test]
    fn each_of_the_four_numbers_matters() {
        let first = |mut rng: ChaCha8Rng| rng.next_u64();
        let all = [
            first(stream(1, Purpose::Order, 1, 1)),
            first(stream(2, Purpose::Order, 1, 1)),
            first(stream(1, Purpose::Pair, 1, 1)),
            first(stream(1, Purpose::Order, 2, 1)),
            first(stream(1, Purpose::Order, 1, 2)),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a));
        }
    }

    #[test]
    fn derived_draws_stay_in_range_and_reach_everything() {
        let mut rng = stream(3, Purpose::Order, 1, 0);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[below(&mut rng, 7)] += 1;
            assert!((0.0..1.0).contains(&uniform(&mut rng)));
            assert!((0.0..1.0).contains(&uniform_f32(&mut rng)));
        }
        // 7000 draws, σ ≈ 29.3 per cell; the bound is five σ.
        assert!(seen.iter().all(|n| n.abs_diff(1000) < 147), "{seen:?}");
    }

    #[test]
    fn a_shuffle_is_a_permutation_and_every_one_is_reached() {
        let mut counts = std::collections::HashMap::new();
        for step in 0..2400 {
            let mut items = [0, 1, 2, 3];
            shuffle(&mut stream(5, Purpose::Pair, 1, step), &mut items);
            *counts.entry(items).or_insert(0u32) += 1;
        }
        // 24 permutations, 100 expected of each, σ ≈ 9.8; the bound is five σ.
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|n| n.abs_diff(100) < 50), "{counts:?}");
    }
}
