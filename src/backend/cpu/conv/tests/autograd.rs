//! Tests the convolution's gradients against candle's autograd.

use candle_core::{DType, Device, Var};

use super::*;
use crate::backend::cpu::norm::Norm;
use crate::backend::cpu::source::Raw;
use crate::net::EPS;
use crate::tensor::{write, zeros};

/// Compares a batch norm, ReLU and convolution, and the batch norm after it, with candle's own operations in
/// `f64` (N, C, H, W).
#[test]
fn gradients_match_candles_autograd() {
    for_each_isa(|isa| compare_with_candle(None, 1e-5).unwrap_or_else(|e| panic!("{isa:?}: {e}")));
}

/// Tests a channel of 1000 ± 0.01, whose variance is lost in sums of squares in `f32`. The remaining error is
/// the rounding of `y·scale + shift`, which PyTorch has as well.
#[test]
fn a_channel_far_from_zero_keeps_its_variance() {
    for_each_isa(|isa| {
        compare_with_candle(Some((5, 1000.0, 0.01)), 5e-3).unwrap_or_else(|e| panic!("{isa:?}: {e}"))
    });
}

/// Compares with candle's gradients; `far` is a channel of the first norm's input, with its mean and spread.
fn compare_with_candle(far: Option<(usize, f32, f32)>, tolerance: f64) -> Result<()> {
    for (stride, shortcut) in [(1, true), (2, false)] {
        let (batch, height, width, cin, cout) = (3, 6, 8, 16, 32);
        let geo = Geometry { height, width, cin, cout, kernel: 3, stride };
        let (out_height, out_width) = (geo.out_height(), geo.out_width());
        let (image, out_shape) = ([batch, height, width, cin], [batch, out_height, out_width, cout]);
        let (y0, x, weight) = (random(&image, 1), random(&image, 2), random(&[3, 3, cin, cout], 3));
        let (gb0, gb1, r) = (random(&[2, cin], 4), random(&[2, cout], 5), random(&out_shape, 6));
        if let Some((channel, mean, spread)) = far {
            write(&y0, |y| y.iter_mut().skip(channel).step_by(cin).for_each(|y| *y = mean + spread * *y))?;
            // Keep the channel away from the zero of the ReLU, where rounding alone would flip the mask.
            write(&gb0, |gb| (gb[channel], gb[cin + channel]) = (0.5, 5.0))?;
        }

        // Candle's gradients.
        let var = |t: &Tensor| Var::from_tensor(&t.to_dtype(DType::F64)?);
        let nchw = |t: &Tensor| t.permute((0, 3, 1, 2))?.contiguous();
        let (y_var, w_var, gb0_var, gb1_var) = (var(&y0)?, var(&weight)?, var(&gb0)?, var(&gb1)?);
        let norm_of = |z: &Tensor, gb: &Tensor| -> Result<Tensor> {
            let flat = z.permute((0, 2, 3, 1))?.contiguous()?.flatten(0, 2)?;
            let centred = flat.broadcast_sub(&flat.mean_keepdim(0)?)?;
            let var = centred.sqr()?.mean_keepdim(0)?;
            let hat = centred.broadcast_div(&(var + EPS)?.sqrt()?)?;
            let scaled = hat.broadcast_mul(&gb.narrow(0, 0, 1)?)?.broadcast_add(&gb.narrow(0, 1, 1)?)?;
            let (n, c, h, w) = z.dims4()?;
            scaled.reshape((n, h, w, c))?.permute((0, 3, 1, 2))?.contiguous()
        };
        let mut a = norm_of(&nchw(y_var.as_tensor())?, &gb0_var)?;
        if shortcut {
            a = (a + nchw(&x.to_dtype(DType::F64)?)?)?;
        }
        let kernel = w_var.permute((3, 2, 0, 1))?.contiguous()?;
        let z = norm_of(&a.relu()?.conv2d(&kernel, 1, stride, 1, 1)?, &gb1_var)?;
        let grads = (z * nchw(&r.to_dtype(DType::F64)?)?)?.sum_all()?.backward()?;
        let truth = |v: &Var| -> Result<Vec<f64>> {
            let g = grads.get(v).map_or_else(|| v.zeros_like(), |g| Ok(g.clone()))?;
            g.contiguous()?.flatten_all()?.to_vec1()
        };

        // Our gradients: the statistics of y0, then forward and backward.
        let norm_of = |gamma_beta: &Tensor, channels: usize| -> Result<Norm> {
            let pair = || zeros(&[2, channels]);
            let gamma_beta = gamma_beta.clone();
            Ok(Norm { gamma_beta, d_gamma_beta: pair()?, running: pair()?, stat: pair()?, affine: pair()? })
        };
        let (norm0, norm1) = (norm_of(&gb0, cin)?, norm_of(&gb1, cout)?);
        let sums = zeros(&[batch, 2, cout])?;
        let sums0 = Tensor::stack(&[y0.sum((1, 2))?, y0.sqr()?.sum((1, 2))?], 1)?.contiguous()?;
        norm0.forward(&sums0, batch, batch * height * width, &y0)?;
        let shortcut = if shortcut { Shortcut::Identity(&x) } else { Shortcut::None };
        let source = Input::Normed { of: Raw { y: &y0, affine: &norm0.affine }, shortcut };
        let (y1, work) = (zeros(&out_shape)?, Work::new(&[geo], batch)?);
        Forward { geo, batch, source, weight: &weight, store: None, out: &y1, sums: &sums }.run(&work)?;
        let pixels = batch * out_height * out_width;
        norm1.forward(&sums, batch, pixels, &y1)?;
        let dz_sums = Tensor::stack(&[r.sum((1, 2))?, (&r * &y1)?.sum((1, 2))?], 1)?.contiguous()?;
        let coef = zeros(&[3, cout])?;
        norm1.backward(&dz_sums, batch, pixels, [&r, &y1], &coef)?;
        let (dz0, dw) = (zeros(&image)?, zeros(weight.dims())?);
        let sums0 = zeros(&[batch, 2, cin])?;
        let input = Some(InputGrad { dz: &dz0, residual: Residual::None, y: &y0, sums: &sums0 });
        let op =
            Backward { geo, batch, source, weight: &weight, dz: &r, y: &y1, coef: &coef, dw: &dw, input };
        op.run(&work)?;
        let coef0 = zeros(&[3, cin])?;
        norm0.backward(&sums0, batch, batch * height * width, [&dz0, &y0], &coef0)?;
        let (d_gb0, d_gb1) = (norm0.d_gamma_beta, norm1.d_gamma_beta);
        let dy0 = {
            let (k, dz, y) = (read(&coef0)?, read(&dz0)?, read(&y0)?);
            let all: Vec<f32> = (0..dz.len())
                .map(|at| k[at % cin] * dz[at] + k[cin + at % cin] * y[at] + k[2 * cin + at % cin])
                .collect();
            Tensor::from_vec(all, &image, &Device::Cpu)?
        };
        assert_close("weight", &dw, &truth(&w_var)?, tolerance);
        assert_close("second norm", &d_gb1, &truth(&gb1_var)?, tolerance);
        assert_close("first norm", &d_gb0, &truth(&gb0_var)?, tolerance);
        assert_close("input", &dy0, &truth(&y_var)?, tolerance);
    }
    Ok(())
}
