//! Tests the convolution against plain loops in `f64`, for every instruction set and at awkward sizes.

mod autograd;
mod large_tiles;
mod setup;

use setup::*;

use super::*;
use crate::backend::{Input, Shortcut};
use crate::simd::{Isa, for_each_isa, forced};
use crate::tensor::zeros_of;

#[test]
fn forward_matches_plain_loops() {
    for_each_isa(|isa| {
        for (dtype, size) in DTYPES.into_iter().flat_map(|d| sizes().map(move |s| (d, s))) {
            let case = Case::new(dtype, size);
            let Case { geo, batch, .. } = case;
            let work = used_work(geo, batch);
            for shortcut in case.shortcuts() {
                let (a, w) = (case.input(shortcut), case.weights());
                let mut truth = vec![0.0; batch * geo.out_len()];
                taps(geo, batch, |n, [row, col], k, [h, v]| {
                    let x = ((n * geo.height + h) * geo.width + v) * geo.cin;
                    let y = ((n * geo.out_height() + row) * geo.out_width() + col) * geo.cout;
                    for (ci, co) in (0..geo.cin).flat_map(|i| (0..geo.cout).map(move |o| (i, o))) {
                        truth[y + co] += a[x + ci] * w[(k * geo.cin + ci) * geo.cout + co];
                    }
                });
                let mut sums = vec![0.0; batch * 2 * geo.cout];
                for (at, y) in truth.iter().enumerate() {
                    let index = at / geo.out_len() * 2 * geo.cout + at % geo.cout;
                    sums[index] += y;
                    sums[index + geo.cout] += y * y;
                }
                let out = case.image(&[batch, geo.out_height(), geo.out_width(), geo.cout], 6);
                let (found, store) = (random(&[batch, 2, geo.cout], 7), case.image(case.y.dims(), 8));
                let source = case.source(shortcut);
                let (weight, sums_found) = (&case.weight, &found);
                let op =
                    Forward { geo, batch, source, weight, store: Some(&store), out: &out, sums: sums_found };
                op.run(&work).expect("a forward pass");
                let kind = std::mem::discriminant(&shortcut);
                let what = format!("{isa:?} {dtype:?} {size:?} {kind:?}");
                assert_close(&format!("{what} input"), &store, &a, 1e-6);
                let (computed, stored) = tolerances(dtype, isa, geo, 3e-6);
                assert_close(&what, &out, &truth, stored);
                assert_close(&format!("{what} sums"), &found, &sums, computed);
                let again = case.image(out.dims(), 9);
                let op = Forward { source: Input::Plain(&store), store: None, out: &again, ..op };
                op.run(&work).expect("a forward pass");
                assert_eq!(values(&again), values(&out), "{what}: the stored input gives the same");
            }
        }
    });
}

#[test]
fn backward_matches_plain_loops() {
    for_each_isa(|isa| {
        for (dtype, size) in DTYPES.into_iter().flat_map(|d| sizes().map(move |s| (d, s))) {
            let case = Case::new(dtype, size);
            let Case { geo, batch, .. } = case;
            let out_shape = [batch, geo.out_height(), geo.out_width(), geo.cout];
            let (dz, y) = (case.image(&out_shape, 10), case.image(&out_shape, 11));
            let coef = random_of(dtype, &[3, geo.cout], 12);
            let c = geo.cout;
            let (a, w, k) = (case.input(Shortcut::None), case.weights(), values(&coef));
            let g: Vec<f64> = values(&dz)
                .iter()
                .zip(values(&y))
                .enumerate()
                .map(|(at, (dz, y))| k[at % c] * dz + k[c + at % c] * y + k[2 * c + at % c])
                .map(|g| rounded(dtype, g))
                .collect();
            let (mut dw, mut da) = (vec![0.0; geo.weight_len()], vec![0.0; a.len()]);
            taps(geo, batch, |n, [row, col], k, [h, v]| {
                let x = ((n * geo.height + h) * geo.width + v) * geo.cin;
                let y = ((n * geo.out_height() + row) * geo.out_width() + col) * c;
                for (ci, co) in (0..geo.cin).flat_map(|i| (0..c).map(move |o| (i, o))) {
                    let at = (k * geo.cin + ci) * c + co;
                    dw[at] += a[x + ci] * g[y + co];
                    da[x + ci] += w[at] * g[y + co];
                }
            });
            let before = case.image(case.y.dims(), 13);
            let half = [geo.height.div_ceil(2), geo.width.div_ceil(2), 2 * geo.cin];
            let small = case.image(&[batch, half[0], half[1], half[2]], 14);
            // Test them for any stride: a block may have its stride in another layer than the first.
            let residuals = [Residual::None, Residual::InPlace, Residual::Padded(&small, half)];
            // There is no input gradient of the larger kernels, which only stems have.
            let residuals = if geo.kernel > 3 { &residuals[..1] } else { &residuals };
            for &residual in residuals {
                let (held, through) = (values(&before), values(&small));
                let added = |at: usize| {
                    let (pixel, channel) = (at / geo.cin, at % geo.cin);
                    let (row, col) = (pixel / geo.width % geo.height, pixel % geo.width);
                    match residual {
                        Residual::InPlace => held[at],
                        Residual::Padded(_, [height, width, _]) if row % 2 == 0 && col % 2 == 0 => {
                            let n = pixel / geo.width / geo.height;
                            let pixel = (n * height + row / 2) * width + col / 2;
                            through[pixel * 2 * geo.cin + geo.cin / 2 + channel]
                        }
                        _ => 0.0,
                    }
                };
                let truth: Vec<f64> =
                    (0..a.len()).map(|at| if a[at] > 0.0 { da[at] + added(at) } else { 0.0 }).collect();
                let y_before = values(&case.y);
                let mut sums = vec![0.0; batch * 2 * geo.cin];
                for (at, dz) in truth.iter().enumerate() {
                    let index = at / geo.in_len() * 2 * geo.cin + at % geo.cin;
                    sums[index] += dz;
                    sums[index + geo.cin] += dz * y_before[at];
                }
                let found = zeros_of(dtype, case.y.dims()).expect("a tensor");
                found.slice_set(&before, 0, 0).expect("one size");
                let found_sums = random(&[batch, 2, geo.cin], 15);
                let found_dw = random(case.weight.dims(), 16);
                let work = used_work(geo, batch);
                let input = InputGrad { dz: &found, residual, y: &case.y, sums: &found_sums };
                let op = Backward {
                    geo,
                    batch,
                    source: case.source(Shortcut::None),
                    weight: &case.weight,
                    dz: &dz,
                    y: &y,
                    coef: &coef,
                    dw: &found_dw,
                    input: (geo.kernel <= 3).then_some(input),
                };
                op.run(&work).expect("a backward pass");
                let what = format!("{isa:?} {dtype:?} {size:?} {residual:?}");
                let (computed, stored) = tolerances(dtype, isa, geo, 5e-6);
                assert_close(&format!("{what} weight gradient"), &found_dw, &dw, computed);
                if geo.kernel > 3 {
                    continue;
                }
                assert_close(&format!("{what} input gradient"), &found, &truth, stored);
                assert_close(&format!("{what} sums"), &found_sums, &sums, computed);
            }
        }
    });
}

/// Tests layers so wide that threads divide the channels, not the images, among themselves.
#[test]
fn wide_layers_are_the_same_on_any_number_of_threads() {
    // Include more pixels than are gathered at a time.
    let sizes = [
        (20, 4, 4, 88, 96, 3, 1),
        (20, 4, 4, 96, 96, 3, 1),
        (9, 4, 8, 112, 112, 3, 1),
        (70, 4, 4, 96, 96, 3, 2),
        (70, 3, 3, 256, 304, 1, 1),
    ];
    let sizes = sizes.map(|(batch, height, width, cin, cout, kernel, stride)| {
        (Geometry { height, width, cin, cout, kernel, stride }, batch)
    });
    for (isa, dtype, size) in Isa::available()
        .into_iter()
        .flat_map(|isa| DTYPES.into_iter().flat_map(move |dtype| sizes.map(|size| (isa, dtype, size))))
    {
        let [one, three] = [1, 3].map(|threads| {
            forced(isa, threads, || {
                let case = Case::new(dtype, size);
                let Case { geo, batch, .. } = case;
                let out = [batch, geo.out_height(), geo.out_width(), geo.cout];
                let (dz, y, coef) = (case.image(&out, 1), case.image(&out, 2), random(&[3, geo.cout], 3));
                let (dx, dw) = (case.image(case.y.dims(), 4), random(case.weight.dims(), 5));
                let (sums, work) = (random(&[batch, 2, geo.cin], 6), used_work(geo, batch));
                let input = InputGrad { dz: &dx, residual: Residual::None, y: &case.y, sums: &sums };
                let op = Backward {
                    geo,
                    batch,
                    source: case.source(Shortcut::None),
                    weight: &case.weight,
                    dz: &dz,
                    y: &y,
                    coef: &coef,
                    dw: &dw,
                    input: Some(input),
                };
                op.run(&work).expect("a backward pass");
                [values(&dx), values(&dw), values(&sums)]
            })
        });
        assert!(one == three, "{isa:?} {dtype:?} {size:?}");
    }
}
