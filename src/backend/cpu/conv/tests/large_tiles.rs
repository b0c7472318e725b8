//! Tests Winograd's F(4×4, 3×3), which inference uses, against plain loops in `f64`.

use candle_core::Device;

use super::super::kernel::walk::{Pixel, Sink};
use super::super::kernel::winograd::F4x4;
use super::*;
use crate::simd::{Task, Vector, run};

/// The sums include a bias.
#[test]
fn large_tiles_match_plain_loops() {
    struct Keep<'a> {
        geo: Geometry,
        out: &'a mut [f32],
        bias: &'a [f32],
    }
    impl Sink for Keep<'_> {
        #[inline(always)]
        unsafe fn start<V: Vector>(&self, channel: usize) -> V {
            // SAFETY: the trait's contract.
            unsafe { V::load(self.bias[channel..channel + V::LANES].as_ptr()) }
        }
        #[inline(always)]
        unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel) {
            let Geometry { height, width, cout, .. } = self.geo;
            for (p, pixel) in acc.into_iter().enumerate() {
                let first = ((at.image * height + at.row) * width + at.col + p) * cout + at.channel;
                for (q, v) in pixel.into_iter().enumerate() {
                    // SAFETY: the trait's contract.
                    unsafe { v.store(self.out[first + q * V::LANES..][..V::LANES].as_mut_ptr()) };
                }
            }
        }
    }
    struct Forward<'a>(Geometry, usize, &'a [f32], &'a [f32], Keep<'a>);
    impl Task for Forward<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let Forward(geo, images, x, u, mut sink) = self;
            let mut scratch = vec![f32::NAN; winograd::scratch_len::<F4x4, 6, 4>(geo, images)];
            let (x, step, u) = (x.as_ptr(), geo.padded_in::<f32>(), u.as_ptr());
            // SAFETY: the images have their halos, and the caller is inside a task.
            unsafe {
                winograd::forward::<V, f32, _, F4x4, 6, 4>(geo, images, x, step, u, &mut scratch, &mut sink)
            };
        }
    }
    // (batch, height, width, cin, cout); for 12×24, 12×8 and 20×16 the last group of tiles is smaller.
    let sizes = [
        (1, 12, 24, 16, 48),
        (3, 4, 8, 32, 16),
        (3, 8, 8, 64, 64),
        (3, 12, 8, 16, 32),
        (2, 20, 16, 80, 16),
        (1, 32, 32, 16, 16),
        // A wide layer.
        (5, 8, 8, 96, 112),
    ];
    for_each_isa(|isa| {
        for (batch, height, width, cin, cout) in sizes {
            let geo = Geometry { height, width, cin, cout, kernel: 3, stride: 1 };
            if !winograd::fits(geo, isa, 4) {
                assert!(!isa.has_winograd());
                continue;
            }
            let (x, weight, bias) =
                (random(&[batch, height, width, cin], 1), random(&[3, 3, cin, cout], 2), random(&[cout], 3));
            let (a, w, b) = (values(&x), values(&weight), values(&bias));
            let mut truth: Vec<f64> = (0..batch * geo.out_len()).map(|at| b[at % cout]).collect();
            let len = geo.padded_in::<f32>();
            let mut padded = vec![0.0; batch * len];
            taps(geo, batch, |n, [row, col], k, [h, v]| {
                let x = ((n * height + h) * width + v) * cin;
                let y = ((n * height + row) * width + col) * cout;
                for (ci, co) in (0..cin).flat_map(|i| (0..cout).map(move |o| (i, o))) {
                    truth[y + co] += a[x + ci] * w[(k * cin + ci) * cout + co];
                }
                let pixel = n * len + ((h + 1) * (width + 2) + v + 1) * cin;
                (0..cin).for_each(|ci| padded[pixel + ci] = a[x + ci] as f32);
            });
            let (weight, bias) = (read(&weight).expect("weights"), read(&bias).expect("a bias"));
            let mut u = vec![f32::NAN; 36 * cin * cout];
            winograd::transform_weight::<f32, F4x4, 6, 4>(&weight, cout, &mut u);
            let mut out = vec![f32::NAN; truth.len()];
            run(Forward(geo, batch, &padded, &u, Keep { geo, out: &mut out, bias: &bias }));
            let out = Tensor::new(out, &Device::Cpu).expect("a tensor");
            assert_close(&format!("{isa:?} {batch} {geo:?}"), &out, &truth, 5e-5);
        }
    });
}
