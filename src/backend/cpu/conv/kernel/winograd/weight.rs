//! Transforms of weights and of their gradients, for a whole layer at once and once per step.

// Indices match those of the formulas.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use super::form::{Form, weight_transposed};
use super::planes::{column, store_components};
use crate::simd::value::Value;
use crate::simd::{Task, Vector, run};

/// Computes `u = G w Gᵀ`: from (3, 3, rows, cols) to (rows of components, cols / vector, parts of a row of
/// components, rows, components of a part, vector). In bf16, the values are rounded to bf16, and two rows
/// share lanes.
pub fn transform_weight<T: Value, F: Form<IN, OUT>, const IN: usize, const OUT: usize>(
    w: &[f32],
    cols: usize,
    u: &mut [f32],
) {
    if T::PACK == 1 {
        T::run(Transform::<T, F, IN, OUT, 1>(w, cols, u, PhantomData));
    } else {
        T::run(Transform::<T, F, IN, OUT, 2>(w, cols, u, PhantomData));
    }
}

/// The task of [`transform_weight`] with `N` = [`Value::PACK`] rows per lane.
struct Transform<'a, T, F, const IN: usize, const OUT: usize, const N: usize>(
    &'a [f32],
    usize,
    &'a mut [f32],
    PhantomData<(T, F)>,
);

impl<T: Value, F: Form<IN, OUT>, const IN: usize, const OUT: usize, const N: usize> Task
    for Transform<'_, T, F, IN, OUT, N>
{
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Transform(w, cols, u, _) = self;
        let plane = w.len() / 9;
        let (rows, blocks) = (plane / cols / N, cols / V::LANES);
        assert!(cols.is_multiple_of(V::LANES) && plane == rows * cols * N);
        assert!(u.len() >= IN * IN * rows * cols);
        for row in 0..rows {
            for block in 0..blocks {
                // SAFETY: the caller's contract; by the assertions, all accesses are inside the weights and
                // their transforms.
                unsafe {
                    let mut columns = [[[V::splat(0.0); IN]; 3]; N];
                    for n in 0..N {
                        let w = w.as_ptr().add((row * N + n) * cols + block * V::LANES);
                        for kw in 0..3 {
                            columns[n][kw] = F::weight(column::<V, f32, 3>(w.add(kw * plane), 3 * plane));
                        }
                    }
                    for i in 0..IN {
                        let mut components = [[V::splat(0.0); IN]; N];
                        for n in 0..N {
                            components[n] = F::weight([columns[n][0][i], columns[n][1][i], columns[n][2][i]]);
                        }
                        for j in 0..IN {
                            let mut component = [[V::splat(0.0)]; N];
                            for n in 0..N {
                                component[n] = [components[n][j]];
                            }
                            let (parts, part) = (IN / F::PART_LEN, j / F::PART_LEN);
                            let at = ((i * blocks + block) * parts + part) * rows + row;
                            let at = at * F::PART_LEN + j % F::PART_LEN;
                            store_components::<V, T, N, 1>(component, u.as_mut_ptr(), at * V::LANES, 0);
                        }
                    }
                }
            }
        }
    }
}

/// Computes `dw = Gᵀ du G`: from (16, rows, cols) to (3, 3, rows, cols).
pub fn restore_weight(du: &[f32], dw: &mut [f32]) {
    struct Restore<'a>(&'a [f32], &'a mut [f32]);
    impl Task for Restore<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            let plane = self.1.len() / 9;
            assert!(plane.is_multiple_of(V::LANES) && self.0.len() >= 16 * plane);
            for at in (0..plane).step_by(V::LANES) {
                // SAFETY: the caller's contract; by the assertion, all accesses are inside the planes.
                unsafe {
                    let u = |j: usize| self.0.as_ptr().add(j * plane + at);
                    let columns = [
                        weight_transposed(column::<V, f32, 4>(u(0), 4 * plane)),
                        weight_transposed(column::<V, f32, 4>(u(1), 4 * plane)),
                        weight_transposed(column::<V, f32, 4>(u(2), 4 * plane)),
                        weight_transposed(column::<V, f32, 4>(u(3), 4 * plane)),
                    ];
                    for kh in 0..3 {
                        let w = weight_transposed([
                            columns[0][kh],
                            columns[1][kh],
                            columns[2][kh],
                            columns[3][kh],
                        ]);
                        for (kw, w) in w.into_iter().enumerate() {
                            w.store(self.1.as_mut_ptr().add((kh * 3 + kw) * plane + at));
                        }
                    }
                }
            }
        }
    }
    run(Restore(du, dw));
}
