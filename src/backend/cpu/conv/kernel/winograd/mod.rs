//! The 3×3 convolution by Winograd's F(m×m, 3×3): (m + 2)² multiplications for m² outputs instead of 9 m².
//!
//! An output tile of m×m depends on an input tile d of (m + 2)×(m + 2) (Lavin and Gray, arXiv 1509.09308,
//! section 4):
//!
//! ```text
//! y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A        dw = Gᵀ [ Σ (Bᵀ d B) ⊙ (A dy Aᵀ) ] G
//!
//! m = 2:
//!      1  0 −1  0           1   0   0             1  0
//! Bᵀ = 0  1  1  0       G = ½   ½   ½         A = 1  1
//!      0 −1  1  0           ½  −½   ½             1 −1
//!      0  1  0 −1           0   0   1             0 −1
//! ```
//!
//! m = 4 uses the points 0, ±1, ±2, ∞ of the same paper. Its rounding errors are ten times as large, and it
//! serves inference only.
//!
//! With channels, each component of ⊙ is a matrix product over some tiles: [`product`] computes it for the
//! outputs, [`outer`] for the weight gradient. In bf16, transformed values are rounded to bf16 and lie in
//! lanes as [`super::tile`] and [`super::outer`] take them: for the weight gradient, two neighbouring tiles
//! share a lane.

mod form;
mod planes;
mod product;
mod weight;

pub use form::{F2x2, F4x4, Form};
pub use weight::{restore_weight, transform_weight};

use super::outer::outer;
use super::walk::{Outer, Sink};
use super::{by_blocks, is_wide};
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Isa, Vector, stores_are_slow};
use planes::finish;
pub use planes::{transform_grad, transform_input};
use product::{Sizes, products, products_by_component};

/// Returns whether a layer's sizes suit tiles of `out`×`out`: the image must consist of whole tiles, of which
/// some make up rows of eight pixels, and channels must be whole vectors. Rows of four pixels suffice if the
/// weight gradient combines images.
pub fn fits(geo: Geometry, isa: Isa, out: usize) -> bool {
    let row = if out == 2 && by_blocks(geo) { 4 } else { 8 };
    let whole = geo.height.is_multiple_of(out) && geo.width.is_multiple_of(row);
    isa.has_winograd()
        && geo.kernel == 3
        && geo.stride == 1
        && whole
        && geo.cin.is_multiple_of(16)
        && geo.cout.is_multiple_of(16)
}

/// Returns the number of tiles that are computed at a time: whole rows of tiles, of `images` images one below
/// the other. In a wide layer, more tiles share the weights.
fn tiles<F: Form<IN, OUT>, const IN: usize, const OUT: usize>(geo: Geometry, images: usize) -> usize {
    let per_row = geo.width / OUT;
    let group = if is_wide(geo) { 4 * F::TILES_PER_GROUP } else { F::TILES_PER_GROUP };
    (group / per_row).clamp(1, images * geo.height / OUT) * per_row
}

/// Returns the number of floats of work space for [`forward`].
pub fn scratch_len<F: Form<IN, OUT>, const IN: usize, const OUT: usize>(
    geo: Geometry,
    images: usize,
) -> usize {
    let tiles = tiles::<F, IN, OUT>(geo, images);
    F::ROWS_PER_PASS * tiles * IN * geo.cin + IN * pitch(tiles * OUT * geo.cout)
}

/// Returns the number of floats of work space for [`weight_grad`] of an image and the input gradient of
/// `images` images.
pub fn backward_scratch_len(geo: Geometry, images: usize) -> usize {
    let tiles = tiles::<F2x2, 4, 2>(geo, 1);
    let weight = 4 * tiles * geo.cin + 4 * pitch(tiles * geo.cout);
    weight.max(scratch_len::<F2x2, 4, 2>(Geometry { cin: geo.cout, cout: geo.cin, ..geo }, images))
}

/// Returns the distance in floats from one row of components, or one component, of `len` floats to the next.
/// It is a cache line longer than necessary: all rows or components of a tile are accessed together, and a
/// power of two between them would put them into the same set of the cache.
pub fn pitch(len: usize) -> usize {
    len + 16
}

/// Evaluates `$work` with a number of channels that is known at compile time, if there are as many input as
/// output channels and the number is one of `$channels`: distances are then constants.
macro_rules! with_channels {
    ($geo:ident, $($channels:literal)|+, $work:expr) => {
        match ($geo.cin, $geo.cout) {
            $(($channels, $channels) => {
                let $geo = Geometry { cin: $channels, cout: $channels, ..$geo };
                $work
            })+
            _ => $work,
        }
    };
}

/// Computes the outputs of some images from their inputs inside halos, which are `x_step` values apart; `u`
/// is the weight as transformed by [`transform_weight`].
///
/// # Safety
/// The caller must uphold the contract of [`Vector`]; `x` must hold the images with their halos, `u` the
/// transformed weights and `scratch` [`scratch_len`] floats.
#[inline(always)]
pub unsafe fn forward<V, T, S, F, const IN: usize, const OUT: usize>(
    geo: Geometry,
    images: usize,
    x: *const T,
    x_step: usize,
    u: *const f32,
    scratch: &mut [f32],
    sink: &mut S,
) where
    V: Vector,
    T: Value,
    S: Sink,
    F: Form<IN, OUT>,
{
    with_channels!(geo, 16 | 32 | 64, {
        let (per_row, rows) = (geo.width / OUT, geo.height / OUT);
        let group = tiles::<F, IN, OUT>(geo, images);
        assert!(scratch.len() >= scratch_len::<F, IN, OUT>(geo, images));
        let lanes = T::lanes(geo.cin);
        let step = group * IN * geo.cin;
        let (v, m) = scratch.split_at_mut(F::ROWS_PER_PASS * step);
        for first in (0..images * rows).step_by(group / per_row) {
            let last = (first + group / per_row).min(images * rows);
            let count = (last - first) * per_row;
            let m_row = pitch(count * OUT * geo.cout);
            let size = Sizes { tiles: count, lanes, cout: geo.cout, m_row, whole: stores_are_slow() };
            // SAFETY: the caller's contract.
            unsafe {
                for (pass, component_rows) in F::ROWS.chunks_exact(F::ROWS_PER_PASS).enumerate() {
                    for row in first..last {
                        let x = x.add(row / rows * x_step);
                        let v = v.as_mut_ptr().add((row - first) * per_row * IN * lanes);
                        transform_input::<V, T, F, IN, OUT, 1>(geo, x, row % rows, pass, step, v);
                    }
                    for (&i, v) in component_rows.iter().zip(v.chunks_exact(step)) {
                        let (v, m) = (v.as_ptr(), m.as_mut_ptr());
                        if V::WIDE {
                            products::<V, T, S, F, IN, OUT>(size, i, v, u, m, sink);
                        } else {
                            products_by_component::<V, T, S, F, IN, OUT>(size, i, v, u, m, sink);
                        }
                    }
                }
                for row in first..last {
                    let m = m.as_ptr().add((row - first) * per_row * OUT * geo.cout);
                    let (image, row) = (row / rows, row % rows);
                    match OUT {
                        2 if V::WIDE && geo.width.is_multiple_of(8) => {
                            finish::<V, S, F, IN, OUT, 8>(geo, m, image, row, m_row, sink);
                        }
                        _ => finish::<V, S, F, IN, OUT, 4>(geo, m, image, row, m_row, sink),
                    }
                }
            }
        }
    })
}

/// Adds one image's weight gradient to `du`, or overwrites `du` if `fresh`. `x` is the input and `g` the
/// output's gradient, both inside halos.
///
/// # Safety
/// The same as for [`forward`], but with [`backward_scratch_len`]; `du` must hold 16·cin·cout floats.
#[inline(always)]
pub unsafe fn weight_grad<V: Vector, T: Value>(
    geo: Geometry,
    fresh: bool,
    x: *const T,
    g: *const T,
    du: *mut f32,
    scratch: &mut [f32],
) {
    // SAFETY: the caller's contract.
    unsafe {
        if T::PACK == 1 {
            with_channels!(geo, 16, weight_grad_by::<V, T, 1>(geo, fresh, x, g, du, scratch));
        } else {
            weight_grad_by::<V, T, 2>(geo, fresh, x, g, du, scratch);
        }
    }
}

/// Computes [`weight_grad`] with `N` = [`Value::PACK`] tiles per lane.
///
/// # Safety
/// The same as for [`weight_grad`].
#[inline(always)]
unsafe fn weight_grad_by<V: Vector, T: Value, const N: usize>(
    geo: Geometry,
    fresh: bool,
    x: *const T,
    g: *const T,
    du: *mut f32,
    scratch: &mut [f32],
) {
    let (per_row, rows) = (geo.width / 2, geo.height / 2);
    let group = tiles::<F2x2, 4, 2>(geo, 1);
    assert!(scratch.len() >= backward_scratch_len(geo, 1));
    let (v, d) = scratch.split_at_mut(group / N * 4 * geo.cin);
    for first in (0..rows).step_by(group / per_row) {
        let last = (first + group / per_row).min(rows);
        let cols = (last - first) * per_row / N;
        let plane = pitch(cols * geo.cout);
        let size = Outer::line(fresh && first == 0, cols, 4 * geo.cin, geo.cin, geo.cout, geo.cout);
        // SAFETY: the caller's contract.
        unsafe {
            for i in 0..4 {
                for row in first..last {
                    let at = (row - first) * per_row / N;
                    let (v, d) = (v.as_mut_ptr().add(at * 4 * geo.cin), d.as_mut_ptr().add(at * geo.cout));
                    transform_input::<V, T, F2x2, 4, 2, N>(geo, x, row, i, 0, v);
                    transform_grad::<V, T, N>(geo, g, row, i, plane, d);
                }
                for j in 0..4 {
                    outer::<V, T>(
                        size,
                        v.as_ptr().add(j * geo.cin),
                        d.as_ptr().add(j * plane),
                        du.add((4 * i + j) * geo.cin * geo.cout),
                    );
                }
            }
        }
    }
}
