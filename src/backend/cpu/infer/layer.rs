//! One folded convolution of some images, whose input and output lie inside halos, and operations on halos.

use crate::backend::cpu::conv::kernel::walk::{Pixel, Sink};
use crate::backend::cpu::conv::kernel::winograd::{self, F4x4};
use crate::backend::cpu::conv::kernel::{convolve, panels};
use crate::net::{EPS, Geometry};
use crate::simd::{Task, Vector};
use crate::tensor::Aligned;

/// A convolution with its batch norm folded in.
pub(super) struct Conv {
    pub geo: Geometry,
    /// The folded weight, in panels, or transformed if [`winograd`] is used.
    weight: Aligned,
    pub winograd: bool,
    bias: Vec<f32>,
}

impl Conv {
    /// Folds a batch norm with γ, β, mean and variance into a weight (kernel, kernel, cin, cout).
    pub fn new(
        geo: Geometry,
        mut weight: Vec<f32>,
        [gamma, beta, mean, var]: [&[f32]; 4],
        winograd: bool,
    ) -> Self {
        let Geometry { cin, cout, .. } = geo;
        let scale: Vec<f64> =
            (0..cout).map(|c| f64::from(gamma[c]) / (f64::from(var[c]) + EPS).sqrt()).collect();
        for row in weight.chunks_exact_mut(cout) {
            row.iter_mut().zip(&scale).for_each(|(w, s)| *w = (f64::from(*w) * s) as f32);
        }
        let mut kept = Aligned::new(if winograd { 36 * cin * cout } else { weight.len() });
        if winograd {
            winograd::transform_weight::<f32, F4x4, 6, 4>(&weight, cout, &mut kept);
        } else {
            panels::<f32>(&weight, cin, &[geo.taps()], &mut kept);
        }
        let bias = (0..cout).map(|c| (f64::from(beta[c]) - f64::from(mean[c]) * scale[c]) as f32).collect();
        Conv { geo, weight: kept, winograd, bias }
    }
}

/// The task that computes one convolution of some images, from halo to halo, `step` floats apart.
pub(super) struct Layer<'a> {
    pub conv: &'a Conv,
    /// Width of the halo around the input.
    pub halo: usize,
    pub x: &'a [f32],
    pub out: &'a mut [f32],
    pub step: usize,
    /// Whether to add the result to what `out` holds.
    pub add: bool,
    /// Whether to cut off negative values.
    pub relu: bool,
    pub work: &'a mut [f32],
}

impl Task for Layer<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Layer { conv, halo, x, out, step, add, relu, work } = self;
        let (geo, images) = (conv.geo, out.len() / step);
        let mut sink = Finish { geo, out: out.as_mut_ptr(), step, bias: &conv.bias, add, relu };
        // SAFETY: the caller's contract; the buffers hold the images with their halos.
        unsafe {
            if V::WINOGRAD && conv.winograd {
                let (x, u) = (x.as_ptr(), conv.weight.as_ptr());
                winograd::forward::<V, f32, _, F4x4, 6, 4>(geo, images, x, step, u, work, &mut sink);
            } else {
                convolve::<V, f32, _>(geo, images, x, step, halo, &conv.weight, &mut sink);
            }
        }
    }
}

/// The sink that starts from the bias, adds the shortcut, cuts off negative values and stores inside the
/// halo.
struct Finish<'a> {
    geo: Geometry,
    out: *mut f32,
    /// Stride between images, in floats.
    step: usize,
    bias: &'a [f32],
    add: bool,
    relu: bool,
}

impl Sink for Finish<'_> {
    #[inline(always)]
    unsafe fn start<V: Vector>(&self, channel: usize) -> V {
        // SAFETY: the trait's contract; there is a bias for each channel.
        unsafe { V::load(self.bias.as_ptr().add(channel)) }
    }

    #[inline(always)]
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel) {
        let Pixel { image, row, col, channel } = at;
        let (cout, width) = (self.geo.cout, self.geo.out_width());
        // SAFETY: the trait's contract, by which the tile is inside the image.
        unsafe {
            let out = self.out.add(image * self.step + ((row + 1) * (width + 2) + col + 1) * cout + channel);
            for q in 0..Q {
                let at = q * V::LANES;
                for (p, pixel) in acc.iter().enumerate() {
                    let out = out.add(p * cout + at);
                    let mut v = pixel[q];
                    if self.add {
                        v = v.add(V::load(out));
                    }
                    if self.relu {
                        v = v.relu();
                    }
                    v.store(out);
                }
            }
        }
    }
}

/// Sets the halo of an image to zero.
pub(super) fn clear_halo([height, width, channels]: [usize; 3], image: &mut [f32]) {
    let row = (width + 2) * channels;
    image[..row + channels].fill(0.0);
    for pixels in image[channels..][row..].chunks_exact_mut(row).take(height) {
        // The last pixel of a row and the first of the next.
        pixels[row - 2 * channels..].fill(0.0);
    }
    image[(height + 1) * row..(height + 2) * row].fill(0.0);
}

/// Returns the width of the halo around an image: what the stem needs, and at least one pixel.
pub(super) fn halo_width(stem: Geometry) -> usize {
    stem.padding().max(1)
}

/// Copies an image into a buffer with a halo of zeros.
pub(super) fn copy_into_halo(geo: Geometry, pixels: &[f32], out: &mut [f32]) {
    let (halo, width) = (halo_width(geo) * geo.cin, geo.width * geo.cin);
    let row = width + 2 * halo;
    out[..(geo.height + 2 * halo_width(geo)) * row].fill(0.0);
    let rows = out[halo_width(geo) * row..].chunks_exact_mut(row);
    for (row, pixels) in rows.zip(pixels.chunks_exact(width)) {
        row[halo..halo + width].copy_from_slice(pixels);
    }
}

/// Computes what [`Shortcut::Padded`] adds to the output of the last layer of a block whose first layer has
/// the input `x`, both inside halos.
pub(super) fn padded_shortcut(first: Geometry, last: Geometry, x: &[f32], out: &mut [f32]) {
    let (cin, cout, width) = (first.cin, last.cout, last.out_width());
    out[..(last.out_height() + 2) * (width + 2) * cout].fill(0.0);
    for row in 0..last.out_height() {
        for col in 0..width {
            let from = ((2 * row + 1) * (first.width + 2) + 2 * col + 1) * cin;
            let to = ((row + 1) * (width + 2) + col + 1) * cout + (cout - cin) / 2;
            out[to..to + cin].copy_from_slice(&x[from..from + cin]);
        }
    }
}

/// Computes the 3×3 max-pool with stride 2 and padding 1 of the stem's output `x`, both inside halos, with an
/// output of `height`×`width`.
pub(super) fn max_pool(stem: Geometry, [height, width]: [usize; 2], x: &[f32], out: &mut [f32]) {
    let c = stem.cout;
    clear_halo([height, width, c], out);
    let (from, to) = ((stem.out_width() + 2) * c, (width + 2) * c);
    for (row, out) in out[to..].chunks_exact_mut(to).take(height).enumerate() {
        for (col, out) in out[c..].chunks_exact_mut(c).take(width).enumerate() {
            // Take the nine pixels of the window; those in the halo are zero, and so no larger than any
            // other.
            let first = &x[2 * row * from + 2 * col * c..];
            out.copy_from_slice(&first[..c]);
            for at in (0..9).map(|n| n / 3 * from + n % 3 * c) {
                for (out, &x) in out.iter_mut().zip(&first[at..at + c]) {
                    // NaN stays NaN.
                    *out = if x > *out || x.is_nan() { x } else { *out };
                }
            }
        }
    }
}
