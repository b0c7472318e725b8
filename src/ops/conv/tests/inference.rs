//! What inference uses, Winograd's F(4×4, 3×3) and values split into two bf16, against plain loops in `f64`.

use super::super::cpu::tile::{Pixel, Sink};
use super::super::cpu::{split, winograd::Four};
use super::*;
use crate::ops::simd::{Task, Vector, run, run_pairs};

/// Starts from a bias and keeps what it gets.
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
        let (geo, cout) = (self.geo, self.geo.cout);
        for (p, pixel) in acc.into_iter().enumerate() {
            let row = at.image * geo.out_height() + at.row;
            let place = (row * geo.out_width() + at.col + p) * cout + at.channel;
            for (q, v) in pixel.into_iter().enumerate() {
                // SAFETY: the trait's contract.
                unsafe { v.store(self.out[place + q * V::LANES..][..V::LANES].as_mut_ptr()) };
            }
        }
    }
}

/// Random inputs inside halos, weights and a bias, and what they make.
struct Layer {
    geo: Geometry,
    batch: usize,
    padded: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    truth: Vec<f64>,
}

impl Layer {
    fn new(batch: usize, geo: Geometry) -> Self {
        let Geometry { height, width, cin, cout, .. } = geo;
        let (x, weight, bias) =
            (random(&[batch, height, width, cin], 1), random(&[3, 3, cin, cout], 2), random(&[cout], 3));
        let (a, w, b) = (values(&x), values(&weight), values(&bias));
        let mut truth: Vec<f64> = (0..batch * geo.out_len()).map(|at| b[at % cout]).collect();
        let len = geo.padded_in::<f32>();
        let mut padded = vec![0.0; batch * len];
        taps(geo, batch, |n, [row, col], k, [h, v]| {
            let x = ((n * height + h) * width + v) * cin;
            let y = ((n * geo.out_height() + row) * geo.out_width() + col) * cout;
            for (ci, co) in (0..cin).flat_map(|i| (0..cout).map(move |o| (i, o))) {
                truth[y + co] += a[x + ci] * w[(k * cin + ci) * cout + co];
            }
            let place = n * len + ((h + 1) * (width + 2) + v + 1) * cin;
            (0..cin).for_each(|ci| padded[place + ci] = a[x + ci] as f32);
        });
        let read = |t: &Tensor| read(t).expect("values").to_vec();
        Layer { geo, batch, padded, weight: read(&weight), bias: read(&bias), truth }
    }

    /// What some kernel makes of it is close.
    fn check(&self, isa: Isa, tolerance: f64, kernel: impl FnOnce(Keep)) {
        let mut out = vec![f32::NAN; self.truth.len()];
        kernel(Keep { geo: self.geo, out: &mut out, bias: &self.bias });
        let out = Tensor::new(out, &Device::Cpu).expect("a tensor");
        assert_close(&format!("{isa:?} {} {:?}", self.batch, self.geo), &out, &self.truth, tolerance);
    }
}

#[test]
fn large_tiles_give_the_plain_sum() {
    struct Forward<'a>(Geometry, usize, &'a [f32], &'a [f32], Keep<'a>);
    impl Task for Forward<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let Forward(geo, images, x, u, mut sink) = self;
            let mut scratch = vec![f32::NAN; winograd::scratch_len::<Four, 6, 4>(geo, images)];
            let (x, step, u) = (x.as_ptr(), geo.padded_in::<f32>(), u.as_ptr());
            // SAFETY: the images have their halos; inside a task.
            unsafe {
                winograd::forward::<V, f32, _, Four, 6, 4>(geo, images, x, step, u, &mut scratch, &mut sink)
            };
        }
    }
    // (batch, height, width, cin, cout); of 12×24, 12×8 and 20×16 the last group of tiles is smaller.
    let sizes = [
        (1, 12, 24, 16, 48),
        (3, 4, 8, 32, 16),
        (3, 8, 8, 64, 64),
        (3, 12, 8, 16, 32),
        (2, 20, 16, 80, 16),
        (1, 32, 32, 16, 16),
    ];
    for_each_isa(|isa| {
        for (batch, height, width, cin, cout) in sizes {
            let geo = Geometry { height, width, cin, cout, stride: 1 };
            if !winograd::fits(geo, isa, 4) {
                assert!(!isa.is_wide());
                continue;
            }
            let layer = Layer::new(batch, geo);
            let mut u = vec![f32::NAN; 36 * cin * cout];
            winograd::transform_weight::<f32, Four, 6, 4>(isa, &layer.weight, cout, &mut u);
            layer.check(isa, 5e-5, |keep| run(isa, Forward(geo, batch, &layer.padded, &u, keep)));
        }
    });
}

#[test]
fn split_values_give_the_plain_sum() {
    struct Forward<'a>(&'a Layer, Vec<f32>, Keep<'a>);
    impl Task for Forward<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let Forward(Layer { geo, batch, padded, .. }, weight, mut keep) = self;
            let mut x = vec![0.0; padded.len()];
            let pixels = padded.chunks_exact(geo.cin).zip(x.chunks_exact_mut(geo.cin));
            // SAFETY: whole vectors of a pixel, and images with their halos; inside a task.
            unsafe {
                for (from, to) in pixels {
                    for channel in (0..geo.cin).step_by(V::LANES) {
                        split::store(V::load(from[channel..].as_ptr()), to.as_mut_ptr(), geo.cin, channel);
                        let back: V = split::load(to.as_ptr(), geo.cin, channel);
                        let mut left = [0.0; 16];
                        back.sub(V::load(from[channel..].as_ptr())).store(left.as_mut_ptr());
                        assert!(left.iter().all(|x| x.abs() < 1.6e-5), "{left:?}");
                    }
                }
                let step = geo.padded_in::<f32>();
                split::forward::<V, _>(*geo, *batch, x.as_ptr(), step, weight.as_ptr(), &mut keep);
            }
        }
    }
    // (batch, height, width, cin, cout, stride): tiles of a row, of 8 of a row, of an image, of some images.
    let sizes = [
        (1, 32, 32, 16, 16, 1),
        (2, 16, 16, 32, 32, 1),
        (3, 8, 8, 64, 64, 1),
        (1, 3, 8, 64, 48, 1),
        (2, 32, 32, 16, 32, 2),
        (3, 16, 16, 32, 64, 2),
        (5, 4, 4, 96, 80, 1),
        (3, 8, 8, 64, 128, 2),
        (2, 9, 24, 16, 16, 1),
    ];
    for_each_isa(|isa| {
        for (batch, height, width, cin, cout, stride) in sizes {
            let geo = Geometry { height, width, cin, cout, stride };
            assert_eq!(split::fits(geo, isa), isa == Isa::Amx, "{geo:?}");
            if split::fits(geo, isa) {
                let layer = Layer::new(batch, geo);
                let mut w = vec![f32::NAN; split::weight_len(geo)];
                split::arrange(geo, &layer.weight, &mut w);
                assert!(w.iter().all(|w| half::bf16::unpack(&mut [*w]).iter().all(|w| !w.is_nan())));
                layer.check(isa, 2e-5, |keep| run_pairs(isa, Forward(&layer, w, keep)));
            }
        }
        for (cin, width) in [(16, 10), (24, 16), (3, 32)] {
            assert!(!split::fits(Geometry { height: 8, width, cin, cout: 16, stride: 1 }, isa));
        }
    });
}
