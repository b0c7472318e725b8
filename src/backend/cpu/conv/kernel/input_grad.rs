//! The input gradient: a correlation of the output gradient with the flipped weights. With stride 1 it is a
//! convolution like that of [`super::forward`]; with stride 2 it is four correlations, one for each parity of
//! row and column.

use rayon::prelude::*;

use super::Prefetcher;
use super::tile::correlate;
use super::walk::{Pixel, Run, Sink, Walk};
use crate::backend::cpu::source::View;
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Task, Vector};

/// Writes the weights in the order in which the input gradient reads them, each tap transposed.
pub(in crate::backend::cpu::conv) fn flip(geo: Geometry, weight: &[f32], flipped: &mut [f32]) {
    let Geometry { kernel, stride, cin, cout, .. } = geo;
    assert!(weight.len() >= geo.weight_len() && flipped.len() >= geo.weight_len());
    let mut order: Vec<usize> = (0..geo.taps()).rev().collect();
    if stride == 2 {
        let rows = PARITIES
            .iter()
            .flat_map(|&(a, b)| taps_of(kernel, a).iter().map(move |kh| (kh, taps_of(kernel, b))));
        order = rows.flat_map(|(kh, cols)| cols.iter().map(move |kw| kh * kernel + kw)).collect();
    }
    let taps = flipped.par_chunks_exact_mut(cin * cout).zip(order);
    taps.for_each(|(out, tap): (&mut [f32], usize)| {
        let tap = &weight[tap * cin * cout..][..cin * cout];
        // Take a few columns at a time, so that the rows that they become stay in the cache.
        for first in (0..cout).step_by(16) {
            for (ci, row) in tap.chunks_exact(cout).enumerate() {
                for co in first..cout.min(first + 16) {
                    out[co * cin + ci] = row[co];
                }
            }
        }
    });
}

/// Returns the number of taps of each correlation of the input gradient, one for each of [`PARITIES`] with
/// stride 2.
pub(in crate::backend::cpu::conv) fn walks(geo: Geometry) -> Vec<usize> {
    if geo.stride == 1 {
        return vec![geo.taps()];
    }
    PARITIES.iter().map(|&(a, b)| taps_of(geo.kernel, a).len() * taps_of(geo.kernel, b).len()).collect()
}

/// The parities of rows and columns of an input gradient with stride 2.
const PARITIES: [(usize, usize); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

/// Returns the rows (or columns) of a kernel that the rows of one parity of an input gradient meet with
/// stride 2. For a kernel of size 3, `y[i] = Σ_k x[2i + k − 1] w[k]`: an even row meets the middle tap; an
/// odd row meets the last tap for `y[i]` and the first for `y[i + 1]`. With a kernel of size 1, only even
/// rows meet it.
fn taps_of(kernel: usize, parity: usize) -> &'static [usize] {
    match (kernel, parity) {
        (1, 0) => &[0],
        (1, _) => &[],
        (_, 0) => &[1],
        _ => &[2, 0],
    }
}

/// The task that computes the input gradients of some images with stride 2, from their output gradients `g`
/// inside halos.
pub(super) struct StridedInputGrad<'a, T> {
    pub geo: Geometry,
    pub images: usize,
    pub g: &'a [f32],
    pub weight: &'a [f32],
    pub sink: Grad<'a, T, 2>,
}

impl<T: Value> Task for StridedInputGrad<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let StridedInputGrad { geo, images, g, mut weight, mut sink } = self;
        let (pixel, halo) = (T::lanes(geo.cout), geo.padding());
        let row = (geo.out_width() + 2 * halo) * pixel;
        let step = geo.padded_out::<T>();
        assert!(geo.kernel <= 3 && geo.stride == 2 && g.len() >= images * step);
        for (a, b) in PARITIES {
            let (rows, cols) = (taps_of(geo.kernel, a).len(), taps_of(geo.kernel, b).len());
            let runs: [Run; 2] = std::array::from_fn(|kh| Run { offset: kh * row, len: cols * pixel });
            let walk = Walk {
                images,
                image_step: step,
                rows: (geo.height + 1 - a) / 2,
                cols: (geo.width + 1 - b) / 2,
                row_step: row,
                col_step: pixel,
                runs: if cols > 0 { &runs[..rows] } else { &[] },
            };
            sink.parity = (a, b);
            let (taps, rest) = weight.split_at(rows * cols * pixel * geo.cin);
            // SAFETY: the caller's contract; `g` has a halo, so every tap of every pixel is inside it.
            unsafe {
                let x = g.as_ptr().add(halo * (row + pixel));
                correlate::<V, T, _>(x, walk, taps.as_ptr(), geo.cin, &mut sink);
            }
            weight = rest;
        }
    }
}

/// The sink that completes an input gradient: adds the shortcut's gradient, masks by the ReLU, stores and
/// sums.
pub(super) struct Grad<'a, T, const STRIDE: usize> {
    pub geo: Geometry,
    /// Receives the gradients, (images, height, width, cin).
    pub dz: *mut T,
    /// The inputs inside halos, which tell where the ReLU was positive.
    pub a: *const T,
    /// The raw outputs of the previous convolution, for the second sum.
    pub y: *const T,
    /// Receives the sums of `dz` and of `dz·y` by channel, (images, 2, cin).
    pub sums: *mut f32,
    /// Whether the values that are already in `dz` are added, as the shortcut's gradient.
    pub in_place: bool,
    /// The gradients of the outputs of a block with a padded shortcut, for these images.
    pub padded: Option<View<'a, T>>,
    /// The parity of the rows and columns that are being computed, with stride 2.
    pub parity: (usize, usize),
    pub ahead: Prefetcher<5>,
}

impl<T: Value, const STRIDE: usize> Grad<'_, T, STRIDE> {
    /// Adds the gradient that comes through a block's padded shortcut to that of some channels of a pixel.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, and the pixel and a whole vector of channels from
    /// `channel` on must be inside the image.
    #[inline(always)]
    unsafe fn add_padded<V: Vector>(&self, dx: V, image: usize, [row, col]: [usize; 2], channel: usize) -> V {
        let Some(block) = self.padded else { return dx };
        // The walk may have taken all rows as a single row.
        let index = row * self.geo.width + col;
        let (row, col) = (index / self.geo.width, index % self.geo.width);
        if !(row | col).is_multiple_of(2) {
            return dx;
        }
        // The middle channels of the block's output are those of its input.
        let [_, width, channels] = block.size;
        let first = (channels - self.geo.cin) / 2;
        let from = (row / 2 * width + col / 2) * channels + first + channel;
        // SAFETY: the caller's contract.
        unsafe { dx.add(T::load(block.values.as_ptr().add(image * block.image_len() + from))) }
    }
}

impl<T: Value, const STRIDE: usize> Sink for Grad<'_, T, STRIDE> {
    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], tile: Pixel) {
        self.ahead.advance(P * Q * V::LANES);
        let (geo, Geometry { width, cin, .. }) = (self.geo, self.geo);
        let (image, halo) = (tile.image, geo.padding());
        let row = tile.row * STRIDE + self.parity.0;
        // SAFETY: the trait's contract, by which the tile is inside the image.
        unsafe {
            let a = self.a.add(image * geo.padded_in::<T>() * T::PACK);
            let sums = self.sums.add(image * 2 * cin);
            for q in 0..Q {
                let channel = tile.channel + q * V::LANES;
                let (sum, product) = (sums.add(channel), sums.add(cin + channel));
                let (mut s, mut sy) = (V::load(sum), V::load(product));
                for (p, acc) in acc.iter().enumerate() {
                    let col = (tile.col + p) * STRIDE + self.parity.1;
                    let index = image * geo.in_len() + (row * width + col) * cin + channel;
                    let mut dx = acc[q];
                    if self.in_place {
                        dx = dx.add(T::load(self.dz.add(index)));
                    }
                    dx = self.add_padded(dx, image, [row, col], channel);
                    let pixel = (row + halo) * (width + 2 * halo) + col + halo;
                    let mask = T::load(a.add(pixel * T::lanes(cin) * T::PACK + channel));
                    let dz = dx.where_positive(mask);
                    T::stream(dz, self.dz.add(index));
                    s = s.add(dz);
                    sy = sy.fma(dz, T::load(self.y.add(index)));
                }
                s.store(sum);
                sy.store(product);
            }
        }
    }
}
