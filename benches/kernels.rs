//! Throughput of the CPU engine: each convolution of a ResNet-32, a whole training step, inference, and beside them
//! the fused multiply-add peak of the same machine in the same run.
//!
//! `Gelem/s` of a convolution or of the peak is GFLOP/s (two a multiply-add); of a step and of inference it is images.
//! Run it by `make bench`, which sets PyTorch beside it.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use remix::methods::loss::Targets;
use remix::model::Arch;
use remix::model::infer::{BATCH, Folded};
use remix::model::resnet::Net;
use remix::ops::conv::{self, Geometry, InputGrad, Residual, Shortcut, Source, Work};
use remix::ops::sgd::Rates;
use remix::ops::simd::{Isa, Task, Vector, run};
use remix::ops::{write, zeros};

const IMAGES: usize = 128;
const SHAPE: [usize; 3] = [32, 32, 3];

/// Sixteen independent chains of multiply-adds: as many as hide the latency.
struct Peak(u64);

impl Task for Peak {
    #[inline(always)]
    unsafe fn run<V: Vector, const WIDE: bool>(self) {
        // SAFETY: inside `run`.
        unsafe {
            let (a, b) = (V::splat(black_box(1.0)), V::splat(black_box(1e-9)));
            let mut acc = [V::splat(0.0); 16];
            for _ in 0..self.0 {
                for x in &mut acc {
                    *x = x.fma(a, b);
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

fn lanes() -> u64 {
    match Isa::get() {
        Isa::Avx512 => 16,
        Isa::Avx2 => 8,
        Isa::Neon | Isa::Portable => 4,
    }
}

fn peak(c: &mut Criterion) {
    let (rounds, threads) = (100_000, rayon::current_num_threads() as u64);
    let mut group = c.benchmark_group("peak");
    group.throughput(Throughput::Elements(threads * rounds * 16 * lanes() * 2));
    group.bench_function("fma", |b| {
        b.iter(|| rayon::broadcast(|_| run(Isa::get(), Peak(rounds))));
    });
}

fn filled(shape: &[usize]) -> candle_core::Tensor {
    let t = zeros(shape).expect("memory");
    write(&t, |t| {
        t.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919 % 1000) as f32 / 500.0 - 1.0);
        Ok(())
    })
    .expect("a fresh tensor");
    t
}

fn convolutions(c: &mut Criterion) {
    let sizes =
        [(32, 3, 16, 1), (32, 16, 16, 1), (32, 16, 32, 2), (16, 32, 32, 1), (16, 32, 64, 2), (8, 64, 64, 1)];
    for (side, cin, cout, stride) in sizes {
        let geo = Geometry { height: side, width: side, cin, cout, stride };
        let out = [IMAGES, geo.out_height(), geo.out_width(), cout];
        let (y, affine, weight) =
            (filled(&[IMAGES, side, side, cin]), filled(&[2, cin]), filled(&[3, 3, cin, cout]));
        let (z, sums, dz, coef) =
            (filled(&out), filled(&[IMAGES, 2, cout]), filled(&out), filled(&[3, cout]));
        let (dx, dx_sums, dw) = (filled(y.dims()), filled(&[IMAGES, 2, cin]), filled(weight.dims()));
        let work = Work::new(geo.weight_len(), IMAGES).expect("memory");
        let source = Source::Norm { y: &y, affine: &affine, shortcut: Shortcut::None };
        let name = format!("{cin}-{cout}@{side}/{stride}");
        let flops = 2 * 9 * (IMAGES * cin * out[1] * out[2] * cout) as u64;

        let mut group = c.benchmark_group("conv");
        group.throughput(Throughput::Elements(flops));
        group.bench_function(BenchmarkId::new("forward", &name), |b| {
            b.iter(|| {
                conv::forward(geo, IMAGES, source, &weight, &work, None, &z, &sums).expect("sizes fit")
            });
        });
        let stem = cin == 3;
        group.throughput(Throughput::Elements(if stem { flops } else { 2 * flops }));
        group.bench_function(BenchmarkId::new("backward", &name), |b| {
            b.iter(|| {
                let input = InputGrad { dz: &dx, residual: Residual::None, y: &y, sums: &dx_sums };
                let input = (!stem).then_some(input);
                conv::backward(geo, IMAGES, source, &weight, &dz, &z, &coef, &work, &dw, input)
                    .expect("sizes fit");
            });
        });
    }
}

fn network() -> Net {
    let net = Net::new(Arch::RESNET32, SHAPE, 10, IMAGES).expect("memory");
    net.init(0).expect("a fresh network");
    net
}

fn step(c: &mut Criterion) {
    let net = network();
    write(&net.x, |x| {
        x.iter_mut().enumerate().for_each(|(i, x)| *x = (i * 7919 % 1000) as f32 / 500.0 - 1.0);
        Ok(())
    })
    .expect("a fresh tensor");
    let labels: Vec<u32> = (0..IMAGES as u32).map(|n| n % 10).collect();
    let (one, none) = (vec![1.0 / IMAGES as f32; IMAGES], vec![0.0; IMAGES]);
    let targets = Targets { label_a: &labels, label_b: &labels, coef_a: &one, coef_b: &none };
    let rates = Rates { lr: 0.01, momentum: 0.9, weight_decay: 2e-4 };
    let mut group = c.benchmark_group("resnet32");
    group.throughput(Throughput::Elements(IMAGES as u64));
    group.bench_function("train", |b| b.iter(|| net.step(targets, rates).expect("a step")));
    let net = Folded::new(&net.state_dict().expect("names"), Arch::RESNET32, SHAPE, 10).expect("folded");
    group.throughput(Throughput::Elements(8 * IMAGES as u64));
    group.bench_function("infer", |b| {
        b.iter(|| net.forward(8 * IMAGES, BATCH, |n, x| x.fill(n as f32 * 1e-3)))
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).without_plots();
    targets = peak, convolutions, step
}
criterion_main!(benches);
