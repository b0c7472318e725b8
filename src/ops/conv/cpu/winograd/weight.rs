//! Transforms of weights and of their gradients: whole layers, once a step.

// Indices are those of the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use half::bf16;

use super::form::{Form, g_transposed};
use super::planes::column;
use crate::ops::simd::{Isa, Task, Vector, run};
use crate::ops::value::Value;

/// `u = G w Gᵀ`: (3, 3, rows, cols) to (places, rows, cols).
pub fn transform_weight<F: Form<IN, OUT>, const IN: usize, const OUT: usize>(
    isa: Isa,
    w: &[f32],
    u: &mut [f32],
) {
    struct Transform<'a, F, const IN: usize, const OUT: usize>(&'a [f32], &'a mut [f32], PhantomData<F>);
    impl<F: Form<IN, OUT>, const IN: usize, const OUT: usize> Task for Transform<'_, F, IN, OUT> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let Transform(w, u, _) = self;
            let plane = w.len() / 9;
            assert!(plane.is_multiple_of(V::LANES) && u.len() >= IN * IN * plane);
            for at in (0..plane).step_by(V::LANES) {
                // SAFETY: inside the planes, by the assertion.
                unsafe {
                    let w = w.as_ptr().add(at);
                    let mut columns = [[V::splat(0.0); IN]; 3];
                    for kw in 0..3 {
                        columns[kw] = F::weight(column::<V, f32, 3>(w.add(kw * plane), 3 * plane));
                    }
                    for i in 0..IN {
                        let row = F::weight([columns[0][i], columns[1][i], columns[2][i]]);
                        for j in 0..IN {
                            row[j].store(u.as_mut_ptr().add((i * IN + j) * plane + at));
                        }
                    }
                }
            }
        }
    }
    run(isa, Transform::<F, IN, OUT>(w, u, PhantomData));
}

/// Rounds to bf16 and pairs the rows of transformed weights, in place: (places, rows, cols) to (places, rows / 2, cols, 2).
pub fn pair_weight(isa: Isa, cols: usize, u: &mut [f32]) {
    struct Pair<'a>(usize, &'a mut [f32]);
    impl Task for Pair<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let Pair(cols, u) = self;
            assert!(cols.is_multiple_of(V::LANES) && u.len().is_multiple_of(2 * cols));
            let start = u.as_mut_ptr();
            for row in 0..u.len() / cols / 2 {
                for at in (0..cols).step_by(V::LANES) {
                    // SAFETY: inside the rows, by the assertion. What is written has been read: rows 0 and 1 go to
                    // row 0, rows 2 and 3 to row 1.
                    unsafe {
                        let rows = start.add(2 * row * cols + at);
                        V::pair(V::load(rows), V::load(rows.add(cols))).store(start.add(row * cols + at));
                    }
                }
            }
        }
    }
    bf16::run(isa, Pair(cols, u));
}

/// `dw = Gᵀ du G`: (16, rows, cols) to (3, 3, rows, cols).
pub fn restore_weight(isa: Isa, du: &[f32], dw: &mut [f32]) {
    struct Restore<'a>(&'a [f32], &'a mut [f32]);
    impl Task for Restore<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector, const WIDE: bool>(self) {
            let plane = self.1.len() / 9;
            assert!(plane.is_multiple_of(V::LANES) && self.0.len() >= 16 * plane);
            for at in (0..plane).step_by(V::LANES) {
                // SAFETY: inside the planes, by the assertion.
                unsafe {
                    let u = |j: usize| self.0.as_ptr().add(j * plane + at);
                    let columns = [
                        g_transposed(column::<V, f32, 4>(u(0), 4 * plane)),
                        g_transposed(column::<V, f32, 4>(u(1), 4 * plane)),
                        g_transposed(column::<V, f32, 4>(u(2), 4 * plane)),
                        g_transposed(column::<V, f32, 4>(u(3), 4 * plane)),
                    ];
                    for kh in 0..3 {
                        let w =
                            g_transposed([columns[0][kh], columns[1][kh], columns[2][kh], columns[3][kh]]);
                        for (kw, w) in w.into_iter().enumerate() {
                            w.store(self.1.as_mut_ptr().add((kh * 3 + kw) * plane + at));
                        }
                    }
                }
            }
        }
    }
    run(isa, Restore(du, dw));
}
