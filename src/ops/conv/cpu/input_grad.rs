//! The input gradient: a correlation of the output gradient with the flipped weights. Under stride 2 it is four of them, one for each
//! parity of row and column.

use rayon::prelude::*;

use super::Ahead;
use super::tile::{Pixel, Run, Sink, Walk, correlate};
use crate::net::Geometry;
use crate::ops::simd::Vector;
use crate::ops::value::Value;

/// Weights of the input gradient, in the order in which [`input_grad`] meets them: each tap's transposed.
pub(in crate::ops::conv) fn flip(geo: Geometry, weight: &[f32], flipped: &mut [f32]) {
    let (cin, cout) = (geo.cin, geo.cout);
    assert!(weight.len() >= geo.weight_len() && flipped.len() >= geo.weight_len());
    let mut order: [usize; 9] = std::array::from_fn(|k| 8 - k);
    if geo.stride == 2 {
        let rows = PARITIES.iter().flat_map(|&(a, b)| taps_of(a).iter().map(move |kh| (kh, taps_of(b))));
        let taps = rows.flat_map(|(kh, cols)| cols.iter().map(move |kw| kh * 3 + kw));
        order.iter_mut().zip(taps).for_each(|(o, tap)| *o = tap);
    }
    let taps = flipped.par_chunks_exact_mut(cin * cout).zip(order);
    taps.for_each(|(out, tap): (&mut [f32], usize)| {
        let tap = &weight[tap * cin * cout..][..cin * cout];
        // Some columns at a time, so that the rows they become stay in the cache.
        for first in (0..cout).step_by(16) {
            for (ci, row) in tap.chunks_exact(cout).enumerate() {
                for co in first..cout.min(first + 16) {
                    out[co * cin + ci] = row[co];
                }
            }
        }
    });
}

/// Taps of each of the correlations of [`input_grad`], one for each of [`PARITIES`] under stride 2.
pub(in crate::ops::conv) fn walks(geo: Geometry) -> &'static [usize] {
    if geo.stride == 1 { &[9] } else { &[1, 2, 2, 4] }
}

/// Even and odd rows and columns of an input gradient under stride 2.
const PARITIES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// `y[i] = Σ_k x[2i + k − 1] w[k]`, so an even `x` meets the middle tap and an odd one the last of `y[i]`, the first of `y[i + 1]`.
fn taps_of(parity: usize) -> &'static [usize] {
    if parity == 0 { &[1] } else { &[2, 0] }
}

/// The input gradients of some images, from their output gradients `g` inside halos, without Winograd.
///
/// # Safety
/// As [`Vector`]; `g` and `flipped` hold what the sizes say.
#[inline(always)]
pub(super) unsafe fn input_grad<V: Vector, T: Value>(
    geo: Geometry,
    images: usize,
    g: &[f32],
    flipped: &[f32],
    sink: &mut Grad<T>,
) {
    let pixel = T::lanes(geo.cout);
    let row = (geo.out_width() + 2) * pixel;
    let step = geo.padded_out::<T>();
    assert!(g.len() >= images * step && flipped.len() >= 9 * pixel * geo.cin);
    if geo.stride == 1 {
        let runs: [Run; 3] = std::array::from_fn(|kh| Run { offset: kh * row, len: 3 * pixel });
        let walk = Walk {
            images,
            image_step: step,
            rows: geo.height,
            cols: geo.width,
            row_step: row,
            col_step: pixel,
            runs: &runs,
        };
        // SAFETY: `g` has a halo, so every tap of every pixel is inside it.
        unsafe { correlate::<V, T, _>(g.as_ptr(), walk, flipped.as_ptr(), geo.cin, sink) };
        return;
    }
    let mut weights = flipped;
    for (a, b) in PARITIES {
        let (rows, cols) = (taps_of(a).len(), taps_of(b).len());
        let runs: [Run; 2] = std::array::from_fn(|r| Run { offset: r * row, len: cols * pixel });
        let walk = Walk {
            images,
            image_step: step,
            rows: (geo.height + 1 - a) / 2,
            cols: (geo.width + 1 - b) / 2,
            row_step: row,
            col_step: pixel,
            runs: &runs[..rows],
        };
        sink.parity = (a, b);
        // SAFETY: the last odd row and column meet the halo of `g`.
        unsafe {
            let first = g.as_ptr().add(row + pixel);
            correlate::<V, T, _>(first, walk, weights.as_ptr(), geo.cin, sink);
        }
        weights = &weights[rows * cols * pixel * geo.cin..];
    }
}

/// Finishes an input gradient: adds the shortcut's, masks by the ReLU, stores, sums.
pub(super) struct Grad<T> {
    pub geo: Geometry,
    pub dz: *mut T,
    pub a: *const T,
    pub y: *const T,
    pub sums: *mut f32,
    pub in_place: bool,
    pub half: Option<*const T>,
    pub parity: (usize, usize),
    pub ahead: Ahead<5>,
}

impl<T: Value> Sink for Grad<T> {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel) {
        self.ahead.go_on(P * Q * V::LANES);
        let (geo, Geometry { width, cin, stride, .. }) = (self.geo, self.geo);
        let (row, image) = (at.row * stride + self.parity.0, at.image * geo.in_len());
        // SAFETY: the trait's contract: the tile is inside the image.
        unsafe {
            let a = self.a.add(at.image * geo.padded_in::<T>() * T::PACK);
            let sums = self.sums.add(at.image * 2 * cin);
            for q in 0..Q {
                let channel = at.channel + q * V::LANES;
                let (sum, product) = (sums.add(channel), sums.add(cin + channel));
                let (mut s, mut sy) = (V::load(sum), V::load(product));
                for (p, pixel) in acc.iter().enumerate() {
                    let col = (at.col + p) * stride + self.parity.1;
                    let at = image + (row * width + col) * cin + channel;
                    let mut dx = pixel[q];
                    if self.in_place {
                        dx = dx.add(T::load(self.dz.add(at)));
                    }
                    if let Some(half) = self.half
                        && self.parity == (0, 0)
                    {
                        // Channels cin/2.. of the 2·cin of the half-size image are this image's.
                        let place = (row / 2 * (width / 2) + col / 2) * 2 * cin + cin / 2 + channel;
                        dx = dx.add(T::load(half.add(image / 2 + place)));
                    }
                    let pixel = (row + 1) * (width + 2) + col + 1;
                    let a = a.add(pixel * T::lanes(cin) * T::PACK + channel);
                    let dz = dx.where_positive(T::load(a));
                    T::stream(dz, self.dz.add(at));
                    s = s.add(dz);
                    sy = sy.fma(dz, T::load(self.y.add(at)));
                }
                s.store(sum);
                sy.store(product);
            }
        }
    }
}
