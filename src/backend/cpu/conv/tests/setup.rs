//! Sizes of layers, tensors and comparisons for the tests.

use candle_core::{DType, Device, Tensor};

use crate::backend::cpu::conv::Work;
use crate::backend::cpu::conv::kernel::winograd;
use crate::backend::cpu::source::{Raw, Source};
use crate::backend::{Input, Shortcut};
use crate::net::Geometry;
use crate::rng::{Purpose, stream, uniform};
use crate::simd::Isa;
use crate::tensor::{read, write, zeros_of};

pub const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// (batch, height, width, cin, cout, stride) of 3×3 kernels.
const SIZES: [(usize, usize, usize, usize, usize, usize); 47] = [
    (3, 32, 32, 16, 16, 1),
    (2, 16, 16, 32, 32, 1),
    (9, 2, 8, 16, 48, 1),
    (2, 6, 24, 32, 16, 1),
    // Winograd's last group of tiles is smaller.
    (2, 10, 8, 16, 32, 1),
    (1, 5, 7, 3, 16, 1),
    (3, 9, 17, 16, 16, 1),
    (2, 8, 8, 64, 64, 1),
    (129, 3, 2, 5, 10, 1),
    (129, 2, 8, 16, 16, 1),
    (129, 3, 3, 16, 32, 2),
    (1, 1, 1, 16, 32, 1),
    (9, 16, 16, 32, 32, 1),
    (2, 7, 13, 20, 24, 1),
    (2, 9, 5, 16, 32, 2),
    (3, 8, 8, 32, 64, 2),
    (1, 7, 6, 10, 20, 2),
    (17, 4, 4, 16, 32, 2),
    (1, 4, 4, 64, 128, 2),
    // Wide enough that several images go through together.
    (9, 3, 3, 128, 96, 1),
    (3, 16, 9, 96, 84, 1),
    (11, 4, 6, 96, 80, 2),
    // Weight gradients by blocks of channels, with and without Winograd: several blocks, a last panel of a
    // few channels, short rows.
    (3, 8, 8, 80, 112, 1),
    (10, 4, 4, 88, 96, 1),
    (3, 4, 4, 104, 148, 2),
    (9, 4, 8, 112, 112, 1),
    (2, 2, 8, 80, 272, 1),
    // The same with rows of two Winograd tiles.
    (9, 4, 4, 96, 112, 1),
    (1, 2, 4, 112, 96, 1),
    (3, 6, 4, 128, 128, 1),
    // A smaller last group of tiles.
    (5, 10, 8, 96, 112, 1),
    // Pixels of several images that are gathered for AMX tiles, more than are taken at a time.
    (129, 2, 4, 80, 112, 1),
    (3, 4, 12, 96, 96, 1),
    (5, 8, 8, 128, 160, 2),
    // Too small for a Winograd tile.
    (1, 1, 1, 128, 128, 1),
    (3, 1, 1, 96, 112, 2),
    (9, 3, 1, 128, 96, 1),
    // AMX tiles over several panels of weights.
    (2, 3, 8, 48, 112, 1),
    (1, 6, 16, 32, 80, 2),
    // Images that AMX tiles cover as they lie in memory: with five tiles, with two, and with five in pieces
    // of four pixels; and an input gradient without odd rows.
    (7, 8, 8, 32, 16, 1),
    (5, 4, 4, 32, 32, 1),
    (3, 5, 12, 32, 32, 1),
    (2, 1, 16, 32, 32, 2),
    // Rows that are not whole tiles.
    (3, 5, 28, 32, 16, 1),
    (2, 3, 9, 16, 32, 1),
    (2, 14, 14, 32, 32, 1),
    (2, 6, 19, 16, 16, 1),
];

/// (batch, height, width, cin, cout, kernel, stride) of other kernels.
const OTHER_KERNELS: [(usize, usize, usize, usize, usize, usize, usize); 22] = [
    (3, 8, 8, 16, 32, 1, 1),
    (2, 7, 5, 10, 24, 1, 1),
    (3, 16, 16, 64, 128, 1, 2),
    (9, 7, 9, 16, 33, 1, 2),
    (129, 1, 1, 8, 16, 1, 1),
    (2, 4, 4, 96, 256, 1, 1),
    // Numbers of pixels that suit AMX tiles, and others that do not.
    (2, 6, 8, 64, 32, 1, 1),
    (2, 14, 14, 32, 64, 1, 1),
    (9, 7, 7, 64, 128, 1, 1),
    (5, 7, 7, 32, 48, 1, 1),
    (2, 6, 6, 16, 16, 1, 1),
    (2, 5, 8, 16, 16, 1, 1),
    (3, 28, 28, 32, 32, 1, 2),
    // Weight gradients by blocks of channels.
    (10, 2, 2, 256, 304, 1, 1),
    (9, 3, 3, 272, 256, 1, 2),
    (3, 1, 2, 288, 512, 1, 1),
    (2, 16, 16, 3, 64, 7, 2),
    (9, 13, 10, 3, 16, 7, 2),
    (2, 9, 8, 3, 20, 7, 1),
    (1, 2, 3, 3, 8, 7, 2),
    (2, 9, 7, 3, 16, 5, 2),
    (2, 6, 6, 4, 32, 5, 1),
];

/// Returns the sizes of all layers, with the number of images.
pub fn sizes() -> impl Iterator<Item = (Geometry, usize)> {
    let threes = SIZES.map(|(batch, height, width, cin, cout, stride)| {
        (Geometry { height, width, cin, cout, kernel: 3, stride }, batch)
    });
    let others = OTHER_KERNELS.map(|(batch, height, width, cin, cout, kernel, stride)| {
        (Geometry { height, width, cin, cout, kernel, stride }, batch)
    });
    threes.into_iter().chain(others)
}

pub fn random(shape: &[usize], seed: u64) -> Tensor {
    random_of(DType::F32, shape, seed)
}

/// Returns uniform random values in ±1. For bf16 they are multiples of 1/32, so that sums of a few products
/// are exact, and so is the value that they are rounded to.
pub fn random_of(precision: DType, shape: &[usize], seed: u64) -> Tensor {
    let mut rng = stream(seed, Purpose::Init, 0, 0);
    let value = |_| {
        let x = (2.0 * uniform(&mut rng) - 1.0) as f32;
        if precision == DType::BF16 { (32.0 * x).round() / 32.0 } else { x }
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    stored(DType::F32, shape, &values)
}

/// Creates a tensor of the given type.
fn stored(dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    let from = Tensor::from_slice(values, shape, &Device::Cpu).expect("values");
    let t = zeros_of(dtype, shape).expect("memory");
    t.slice_set(&from.to_dtype(dtype).expect("a type"), 0, 0).expect("one size");
    t
}

pub fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("values")
}

/// Returns the value that `x` is stored as.
pub fn rounded(dtype: DType, x: f64) -> f64 {
    if dtype == DType::BF16 { half::bf16::from_f32(x as f32).into() } else { x }
}

/// Returns the largest allowed errors of computed values and of values that are then stored, relative to the
/// largest value, where rounding of the sums is allowed `exact`. In bf16, Winograd also rounds the
/// transformed values.
pub fn tolerances(dtype: DType, isa: Isa, geo: Geometry, exact: f64) -> (f64, f64) {
    match dtype {
        DType::BF16 if winograd::fits(geo, isa.for_pairs(), 2) => (0.01, 0.01),
        DType::BF16 => (exact, 1.0 / 256.0),
        _ => (exact, exact),
    }
}

/// Asserts that `t` is within `tolerance` of the truth, relative to the truth's largest value.
pub fn assert_close(what: &str, t: &Tensor, truth: &[f64], tolerance: f64) {
    let found = values(t);
    assert_eq!(found.len(), truth.len(), "{what}");
    let scale = truth.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    let error = found.iter().zip(truth).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs())) / scale;
    assert!(error < tolerance, "{what}: {error:.1e} off");
}

/// Calls `f(image, [output row, output column], tap, [input row, input column])` for all taps inside the
/// image.
pub fn taps(geo: Geometry, batch: usize, mut f: impl FnMut(usize, [usize; 2], usize, [usize; 2])) {
    for n in 0..batch {
        for (row, col) in (0..geo.out_height()).flat_map(|r| (0..geo.out_width()).map(move |c| (r, c))) {
            for k in 0..geo.taps() {
                let (h, w) = (row * geo.stride + k / geo.kernel, col * geo.stride + k % geo.kernel);
                let (h, w) = (h.wrapping_sub(geo.padding()), w.wrapping_sub(geo.padding()));
                if h < geo.height && w < geo.width {
                    f(n, [row, col], k, [h, w]);
                }
            }
        }
    }
}

/// Returns work space filled with NaN, so that no operation can rely on its contents.
pub fn used_work(geo: Geometry, batch: usize) -> Work {
    let work = Work::new(&[geo], batch).expect("work space");
    for t in [&work.partial, &work.flipped, &work.arranged] {
        write(t, |values| values.fill(f32::NAN)).expect("a tensor");
    }
    work
}

/// A layer with its weights, and everything that its input may be computed from.
pub struct Case {
    dtype: DType,
    pub geo: Geometry,
    pub batch: usize,
    pub y: Tensor,
    affine: Tensor,
    identity: Tensor,
    /// Images of twice the size, and of one row and column less than that, with half of the channels.
    padded: [Tensor; 2],
    projected: Tensor,
    projected_affine: Tensor,
    pub weight: Tensor,
}

impl Case {
    pub fn new(dtype: DType, (geo, batch): (Geometry, usize)) -> Self {
        let Geometry { height, width, cin, cout, kernel, .. } = geo;
        let image = |height: usize, width: usize, channels: usize, seed: u64| {
            image(dtype, &[batch, height, width, channels], seed)
        };
        Case {
            dtype,
            geo,
            batch,
            y: image(height, width, cin, 1),
            affine: random_of(dtype, &[2, cin], 2),
            identity: image(height, width, cin, 3),
            padded: [(0, 4), (1, 18)]
                .map(|(less, seed)| image(2 * height - less, 2 * width - less, cin / 2, seed)),
            projected: image(height, width, cin, 19),
            projected_affine: random_of(dtype, &[2, cin], 20),
            weight: random(&[kernel, kernel, cin, cout], 5),
        }
    }

    /// Returns random images of the case's type.
    pub fn image(&self, shape: &[usize], seed: u64) -> Tensor {
        image(self.dtype, shape, seed)
    }

    /// Returns the weights as the convolution rounds them.
    pub fn weights(&self) -> Vec<f64> {
        values(&self.weight).into_iter().map(|w| rounded(self.dtype, w)).collect()
    }

    pub fn source<'a>(&'a self, shortcut: Shortcut<&'a Tensor, Raw<'a>>) -> Source<'a> {
        Input::Normed { of: Raw { y: &self.y, affine: &self.affine }, shortcut }
    }

    /// Returns all kinds of shortcuts that fit.
    pub fn shortcuts(&self) -> Vec<Shortcut<&Tensor, Raw<'_>>> {
        let projected = Raw { y: &self.projected, affine: &self.projected_affine };
        let mut all =
            vec![Shortcut::None, Shortcut::Identity(&self.identity), Shortcut::Projected(projected)];
        if self.geo.cin.is_multiple_of(4) {
            all.extend(self.padded.iter().map(Shortcut::Padded));
        }
        all
    }

    /// Returns the input of the convolution.
    pub fn input(&self, shortcut: Shortcut<&Tensor, Raw>) -> Vec<f64> {
        let (y, affine, c) = (values(&self.y), values(&self.affine), self.geo.cin);
        let (height, width) = (self.geo.height, self.geo.width);
        let other = match shortcut {
            Shortcut::None => vec![],
            Shortcut::Identity(x) | Shortcut::Padded(x) => values(x),
            Shortcut::Projected(p) => {
                let affine = values(p.affine);
                let y = values(p.y).into_iter().enumerate();
                y.map(|(at, y)| y * affine[at % c] + affine[c + at % c]).collect()
            }
        };
        let added = |at: usize| {
            let (pixel, channel) = (at / c, at % c);
            match shortcut {
                Shortcut::None => 0.0,
                Shortcut::Identity(_) | Shortcut::Projected(_) => other[at],
                Shortcut::Padded(x) if (c / 4..c / 4 + c / 2).contains(&channel) => {
                    let (n, row, col) = (pixel / width / height, pixel / width % height, pixel % width);
                    let (_, high, wide, _) = x.dims4().expect("images");
                    other[((n * high + 2 * row) * wide + 2 * col) * (c / 2) + channel - c / 4]
                }
                Shortcut::Padded(_) => 0.0,
            }
        };
        (0..y.len())
            .map(|at| (y[at] * affine[at % c] + affine[c + at % c] + added(at)).max(0.0))
            .map(|a| rounded(self.dtype, a))
            .collect()
    }
}

/// Returns random images, rounded to `dtype`.
fn image(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    stored(dtype, shape, &read(&random_of(dtype, shape, seed)).expect("values"))
}
