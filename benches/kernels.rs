//! Throughput of the CPU engine: convolutions, whole training steps and inference of some networks, and, for
//! comparison, the fused multiply-add peak of the same machine in the same run.
//!
//! For a convolution and for the peak, `Gelem/s` are GFLOP/s (a multiply-add counts as two); for a step and
//! for inference, elements are images. `make bench` runs it, with PyTorch for comparison.

#![allow(missing_docs)]

use std::hint::black_box;
use std::marker::PhantomData;
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use candle_nn::{ModuleT, VarBuilder, VarMap};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use remix::backend::cpu::conv::{Backward, Forward, InputGrad, Work};
use remix::backend::cpu::infer::{BATCH, Folded};
use remix::backend::cpu::net::Net;
use remix::backend::cpu::source::Raw;
use remix::backend::{Input, Rates, Residual, Shortcut};
use remix::methods::loss::{Criterion as Loss, Targets};
use remix::net::{Arch, Geometry, Params};
use remix::nn::ResNet;
#[cfg(target_arch = "x86_64")]
use remix::simd::amx;
use remix::simd::value::Value;
use remix::simd::{Isa, Task, Vector};
use remix::tensor::zeros_of;

const IMAGES: usize = 128;
const DTYPES: [(&str, DType); 2] = [("f32", DType::F32), ("bf16", DType::BF16)];

/// The number of sums in [`Peak`]: enough to hide the latency, and few enough for sixteen registers.
const SUMS: usize = 12;

/// Rounds of independent multiply-adds, one for each of [`SUMS`], or of four products of AMX tiles.
struct Peak<T>(u64, PhantomData<T>);

impl<T: Value> Task for Peak<T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: inside `run`.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if V::TILES && T::PACK == 2 {
                return tiles(self.0);
            }
            let (a, b) = (V::splat(black_box(1.0)), V::splat(black_box(1e-9)));
            let mut acc = [V::splat(0.0); SUMS];
            for _ in 0..self.0 {
                for x in &mut acc {
                    *x = T::multiply_add(*x, a, b);
                }
            }
            let mut out = [0f32; 16];
            for x in acc {
                x.store(out.as_mut_ptr());
                black_box(out);
            }
        }
    }
}

/// Multiplies tiles by one that they share, all in the first-level cache.
///
/// # Safety
/// The machine must have AMX.
#[cfg(target_arch = "x86_64")]
unsafe fn tiles(rounds: u64) {
    #[repr(align(64))]
    struct Tile([f32; amx::SUM]);
    let (left, right) = (Tile([0.0; amx::SUM]), Tile([0.0; amx::SUM]));
    // SAFETY: the caller's contract; the tiles have 16 rows of 64 bytes.
    unsafe {
        amx::configure(16, 16);
        amx::clear();
        for _ in 0..rounds {
            amx::multiply_lefts(4, &[left.0.as_ptr(); amx::SUMS], 0, 64, right.0.as_ptr(), 64);
        }
    }
}

/// Returns the number of floating-point operations in a round of [`Peak`].
fn flops<T: Value>() -> u64 {
    let lanes = match T::isa() {
        Isa::Amx => return 4 * 2 * 16 * 16 * 32,
        Isa::Avx512 => 16,
        Isa::Avx2 => 8,
        Isa::Neon | Isa::Portable => 4,
    };
    (SUMS * lanes * 2 * T::PACK) as u64
}

fn peak(c: &mut Criterion) {
    let (rounds, threads) = (100_000, rayon::current_num_threads() as u64);
    let mut group = c.benchmark_group("peak");
    group.throughput(Throughput::Elements(threads * rounds * flops::<f32>()));
    group.bench_function("f32", |b| {
        b.iter(|| rayon::broadcast(|_| f32::run(Peak::<f32>(rounds, PhantomData))));
    });
    group.throughput(Throughput::Elements(threads * rounds * flops::<bf16>()));
    group.bench_function("bf16", |b| {
        b.iter(|| rayon::broadcast(|_| bf16::run(Peak::<bf16>(rounds, PhantomData))));
    });
}

fn fill(t: &Tensor) {
    let values = Tensor::arange(0u32, t.elem_count() as u32, &Device::Cpu)
        .and_then(|i| ((i.to_dtype(DType::F64)? * 0.7919)?.sin()?).to_dtype(t.dtype())?.reshape(t.dims()))
        .expect("values");
    t.slice_set(&values, 0, 0).expect("a tensor of the same size");
}

fn filled(dtype: DType, shape: &[usize]) -> Tensor {
    let t = zeros_of(dtype, shape).expect("memory");
    fill(&t);
    t
}

fn convolutions(c: &mut Criterion) {
    for (group, dtype) in DTYPES {
        convolutions_in(c, &format!("conv-{group}"), dtype);
    }
}

fn convolutions_in(c: &mut Criterion, group: &str, dtype: DType) {
    let filled_f32 = |shape: &[usize]| filled(DType::F32, shape);
    let filled = |shape: &[usize]| filled(dtype, shape);
    let sizes = [
        (32, 3, 16, 3, 1),
        (32, 16, 16, 3, 1),
        (32, 16, 32, 3, 2),
        (16, 32, 32, 3, 1),
        (16, 32, 64, 3, 2),
        (8, 64, 64, 3, 1),
        (32, 64, 64, 3, 1),
        (16, 128, 128, 3, 1),
        (8, 256, 256, 3, 1),
        (8, 256, 512, 3, 2),
        (4, 512, 512, 3, 1),
        (32, 64, 128, 1, 2),
        (14, 256, 256, 3, 1),
        (14, 1024, 256, 1, 1),
        (7, 512, 2048, 1, 1),
    ];
    for (side, cin, cout, kernel, stride) in sizes {
        let geo = Geometry { height: side, width: side, cin, cout, kernel, stride };
        let out = [IMAGES, geo.out_height(), geo.out_width(), cout];
        let (y, affine, weight) = (
            filled(&[IMAGES, side, side, cin]),
            filled_f32(&[2, cin]),
            filled_f32(&[kernel, kernel, cin, cout]),
        );
        let (z, sums, dz, coef) =
            (filled(&out), filled_f32(&[IMAGES, 2, cout]), filled(&out), filled_f32(&[3, cout]));
        let (dx, dx_sums, dw) = (filled(y.dims()), filled_f32(&[IMAGES, 2, cin]), filled_f32(weight.dims()));
        let work = Work::new(&[geo], IMAGES).expect("memory");
        let source = Input::Normed { of: Raw { y: &y, affine: &affine }, shortcut: Shortcut::None };
        let name = format!("{cin}-{cout}@{side}/{stride}{}", if kernel == 3 { "" } else { ":1x1" });
        let flops = 2 * geo.taps() as u64 * (IMAGES * cin * out[1] * out[2] * cout) as u64;

        let mut group = c.benchmark_group(group);
        group.throughput(Throughput::Elements(flops));
        let (batch, weight) = (IMAGES, &weight);
        let forward = Forward { geo, batch, source, weight, store: None, out: &z, sums: &sums };
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| forward.run(&work).expect("sizes fit"));
        });
        let stem = cin == 3;
        group.throughput(Throughput::Elements(if stem { flops } else { 2 * flops }));
        let input = InputGrad { dz: &dx, residual: Residual::None, y: &y, sums: &dx_sums };
        let input = (!stem).then_some(input);
        let backward = Backward { geo, batch, source, weight, dz: &dz, y: &z, coef: &coef, dw: &dw, input };
        group.bench_function(BenchmarkId::new("backward", &name), |b| {
            b.iter(|| backward.run(&work).expect("sizes fit"));
        });
    }
}

/// Networks, the side length of their images, and the number of images in a batch.
const NETWORKS: [(&str, usize, usize); 3] =
    [("resnet32", 32, IMAGES), ("resnet18-cifar", 32, IMAGES), ("resnet50", 224, 16)];

fn parameters(arch: &str) -> Params {
    let arch: Arch = arch.parse().expect("a name");
    let params = Params::new(&arch.network(), 10).expect("memory");
    params.init(0).expect("values");
    params
}

fn step(c: &mut Criterion) {
    for (arch, side, images) in NETWORKS {
        let labels: Vec<u32> = (0..images as u32).map(|n| n % 10).collect();
        let (one, none) = (vec![1.0 / images as f32; images], vec![0.0; images]);
        let targets = Targets { label_a: &labels, label_b: &labels, coef_a: &one, coef_b: &none };
        let rates = Rates { lr: 0.01, momentum: 0.9, weight_decay: 2e-4, nesterov: false };
        let mut group = c.benchmark_group(arch);
        group.throughput(Throughput::Elements(images as u64));
        for (name, dtype) in DTYPES {
            group.bench_function(BenchmarkId::new("train", name), |b| {
                let loss = Loss::cross_entropy(10);
                let net = Net::new(parameters(arch), loss, [side, side, 3], images, dtype).expect("memory");
                fill(&net.x);
                b.iter(|| net.step(targets, None, rates).expect("a step"));
            });
        }
        // Inference on small images is measured with about a thousand of them at a time.
        let many = if side == 32 { 8 * images } else { images };
        group.throughput(Throughput::Elements(many as u64));
        group.bench_function("infer", |b| {
            let net = Folded::new(&parameters(arch), [side, side, 3]).expect("folded");
            b.iter(|| net.forward(many, BATCH, |n, x| x.fill(n as f32 * 1e-3)));
        });
    }
}

/// Measures a training step, without SGD, on candle's own operations and autograd, which the engine replaces.
fn candle(c: &mut Criterion) {
    const FEW: usize = 16;
    let (vars, network) = (VarMap::new(), Arch::RESNET32.network());
    let builder = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let net = ResNet::new(&network, 10, builder).expect("memory");
    let x = filled(DType::F32, &[FEW, 3, 32, 32]);
    let labels = Tensor::zeros(FEW, DType::U32, &Device::Cpu).expect("memory");
    let step = || cross_entropy(&net.forward_t(&x, true)?, &labels)?.backward();
    let mut group = c.benchmark_group("candle");
    group.throughput(Throughput::Elements(FEW as u64)).sample_size(10);
    group.bench_function("train", |b| b.iter(|| step().expect("a step")));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .without_plots();
    targets = peak, convolutions, step, candle
}
criterion_main!(benches);
