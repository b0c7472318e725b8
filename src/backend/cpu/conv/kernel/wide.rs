//! The weight gradient of a layer so wide that no cache holds the gradient of one chunk: a single sum over
//! the whole batch, by blocks of channels.
//!
//! The chunks store their inputs and gradients in panels, (panels, images, pixels of the image and its halo,
//! channels of the panel). The threads then divide the blocks of the gradient among themselves instead of the
//! images. Each block takes the images in order, so the result does not depend on the number of threads.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::outer::{outer, outer_rows};
#[cfg(target_arch = "x86_64")]
use super::tiled::transpose_16x16;
use super::walk::{Outer, PANEL};
use super::winograd::{Two, pitch, transform_grad, transform_input};
use super::with_scratch;
use crate::net::Geometry;
#[cfg(target_arch = "x86_64")]
use crate::simd::amx;
use crate::simd::value::Value;
use crate::simd::{Isa, Task, Vector, finish};
use crate::tensor::Parts;

/// Input channels of a panel. A panel of output channels has [`PANEL`].
const IN: usize = 16;

/// The layout of a batch's inputs and gradients.
#[derive(Clone, Copy)]
pub struct Panels {
    pub geo: Geometry,
    /// Whether [`winograd`] computes the weight gradient.
    pub winograd: bool,
    /// Number of images, or of groups of images that share lanes.
    images: usize,
    /// Images per group, and (`pack`) channels per lane.
    pub share: usize,
    pack: usize,
}

/// The place of one image's panel: its first lane, and the number of lanes per pixel.
type Place = (usize, usize);

impl Panels {
    pub fn new<T: Value>(geo: Geometry, winograd: bool, batch: usize) -> Self {
        let (share, pack) = if winograd { (1, T::PACK) } else { (T::PACK, 1) };
        Panels { geo, winograd, images: batch.div_ceil(share), share, pack }
    }

    /// Returns the largest number of lanes that a layer and a batch need.
    pub fn most(geo: Geometry, batch: usize) -> usize {
        batch * (geo.padded_in::<f32>() + geo.padded_out::<f32>())
    }

    fn in_pixels(&self) -> usize {
        self.geo.padded_in::<f32>() / self.geo.cin
    }

    fn out_pixels(&self) -> usize {
        self.geo.padded_out::<f32>() / self.geo.cout
    }

    /// Returns the place of the input's panel that begins with `channel`.
    fn input(&self, image: usize, channel: usize) -> Place {
        let (first, pixel) = (channel / self.pack, IN.min(self.geo.cin - channel) / self.pack);
        ((self.images * first + image * pixel) * self.in_pixels(), pixel)
    }

    /// Returns the place of the gradient's panel that begins with `channel`. All gradients come after the
    /// inputs.
    fn grad(&self, image: usize, channel: usize) -> Place {
        let inputs = self.images * self.in_pixels() * (self.geo.cin / self.pack);
        let (first, pixel) = (channel / self.pack, PANEL.min(self.geo.cout - channel) / self.pack);
        (inputs + (self.images * first + image * pixel) * self.out_pixels(), pixel)
    }

    /// Stores the inputs and gradients of some images (or groups), given inside halos, in `kept`.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`], and no other thread may access these images' parts
    /// of `kept`.
    #[inline(always)]
    pub unsafe fn keep<V: Vector>(&self, first: usize, images: usize, a: &[f32], g: &[f32], kept: Parts) {
        for (n, image) in (first..first + images).enumerate() {
            let (cin, cout) = (self.geo.cin / self.pack, self.geo.cout / self.pack);
            let a = &a[n * self.in_pixels() * cin..][..self.in_pixels() * cin];
            let g = &g[n * self.out_pixels() * cout..][..self.out_pixels() * cout];
            // SAFETY: the caller's contract.
            unsafe {
                for channel in (0..self.geo.cin).step_by(IN) {
                    keep_panel::<V>(a, cin, channel / self.pack, self.input(image, channel), kept);
                }
                for channel in (0..self.geo.cout).step_by(PANEL) {
                    keep_panel::<V>(g, cout, channel / self.pack, self.grad(image, channel), kept);
                }
            }
        }
    }
}

/// Stores a panel of an image that has `all` lanes per pixel.
#[inline(always)]
unsafe fn keep_panel<V: Vector>(image: &[f32], all: usize, first: usize, (at, pixel): Place, kept: Parts) {
    // SAFETY: the contract of `keep`; the vectors are inside the panel and the image.
    unsafe {
        let to: &mut [f32] = kept.part(at..at + image.len() / all * pixel);
        for (to, from) in to.chunks_exact_mut(pixel).zip(image.chunks_exact(all)) {
            let from = &from[first..first + pixel];
            let whole = pixel / V::LANES * V::LANES;
            for n in (0..whole).step_by(V::LANES) {
                V::load(from.as_ptr().add(n)).store(to.as_mut_ptr().add(n));
            }
            to[whole..].copy_from_slice(&from[whole..]);
        }
    }
}

/// Computes the weight gradient from everything that [`Panels::keep`] has stored: (kernel, kernel, cin,
/// cout), or in the layout of [`winograd`].
pub fn weight_grad<T: Value>(isa: Isa, panels: Panels, kept: &[f32], dw: &mut [f32]) {
    let geo = panels.geo;
    if panels.images == 0 {
        return dw.fill(0.0);
    }
    // The larger a block, the less often images are read and then transformed for Winograd or gathered for
    // AMX.
    let (rows, cin, cout) = if panels.winograd { (4, 4 * IN, 8 * PANEL) } else { (1, 4 * IN, 4 * PANEL) };
    let (ins, outs) = (geo.cin.div_ceil(cin), geo.cout.div_ceil(cout));
    let dw = Parts::new(dw);
    (0..rows * ins * outs).into_par_iter().with_max_len(1).for_each(|n| {
        let (row, cin, cout) =
            (n / outs / ins, block(n / outs % ins, cin, geo.cin), block(n % outs, cout, geo.cout));
        let sums = if panels.winograd { 4 } else { geo.taps() } * cin.len() * cout.len();
        let work = match isa {
            _ if panels.winograd => {
                let tiles = tile_rows(geo) * geo.width / 2;
                tiles * 4 * cin.len() + 4 * pitch(tiles * PANEL)
            }
            Isa::Amx => SOME * (cin.len() + cout.len()),
            _ => 0,
        };
        with_scratch(sums + work, |scratch| {
            let (sums, work) = scratch.split_at_mut(sums);
            T::run(isa, Block::<T> { panels, kept, row, cin, cout, sums, work, dw, _type: PhantomData });
            finish(isa);
        });
    });
}

/// Number of output pixels that are gathered at a time for AMX.
const SOME: usize = 256;

/// Returns the number of rows of Winograd tiles that a block takes at a time.
fn tile_rows(geo: Geometry) -> usize {
    const TILES: usize = 64;
    (TILES / (geo.width / 2)).max(1)
}

fn block(n: usize, len: usize, all: usize) -> Range<usize> {
    n * len..all.min((n + 1) * len)
}

/// A block of the gradient: some input channels by some output channels, and with Winograd one row of places.
struct Block<'a, T> {
    panels: Panels,
    kept: &'a [f32],
    row: usize,
    cin: Range<usize>,
    cout: Range<usize>,
    sums: &'a mut [f32],
    work: &'a mut [f32],
    dw: Parts<'a>,
    _type: PhantomData<T>,
}

impl<T: Value> Task for Block<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let Geometry { cin, cout, .. } = self.panels.geo;
        // SAFETY: all accesses are inside the panels, and `sums` has room for the whole block.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if V::TILES && T::PACK == 2 && (self.cin.len() | self.cout.len()).is_multiple_of(16) {
                return self.tiles();
            }
            if V::WINOGRAD && self.panels.winograd {
                match T::PACK {
                    1 => self.places::<V, 1>(),
                    _ => self.places::<V, 2>(),
                }
            } else {
                self.taps::<V>();
            }
        }
        let mut rows = self.sums.chunks_exact(self.cout.len());
        let mut keep = |place: usize, channels: Range<usize>| {
            for (channel, row) in channels.zip(&mut rows) {
                let at = (place * cin + channel) * cout;
                // SAFETY: blocks do not overlap.
                unsafe { self.dw.part(at + self.cout.start..at + self.cout.end) }.copy_from_slice(row);
            }
        };
        if self.panels.winograd {
            (0..4).for_each(|j| keep(4 * self.row + j, self.cin.clone()));
        } else {
            for first in self.cin.clone().step_by(IN) {
                (0..self.panels.geo.taps()).for_each(|tap| keep(tap, first..self.cin.end.min(first + IN)));
            }
        }
    }
}

impl<T: Value> Block<'_, T> {
    /// Computes the sums as (panels, taps, input channels of the panel, output channels).
    #[inline(always)]
    unsafe fn taps<V: Vector>(&mut self) {
        /// Pixels at a time, so that their inputs and gradients stay in the first-level cache.
        const NEAR: usize = 128;
        let Panels { geo, images, .. } = self.panels;
        let halo = geo.padding();
        let some = (NEAR / (geo.out_height() * geo.out_width())).max(1);
        let block = (NEAR / geo.out_width()).clamp(1, geo.out_height());
        for image in (0..images).step_by(some) {
            for first in (0..geo.out_height()).step_by(block) {
                for co in self.cout.clone().step_by(PANEL) {
                    let (g, g_col) = self.panels.grad(image, co);
                    let g_row = (geo.out_width() + 2 * halo) * g_col;
                    for ci in self.cin.clone().step_by(IN) {
                        let (x, pixel) = self.panels.input(image, ci);
                        let x_row = (geo.width + 2 * halo) * pixel;
                        let size = Outer {
                            fresh: image + first == 0,
                            images: some.min(images - image),
                            x_image: (geo.height + 2 * halo) * x_row,
                            g_image: (geo.out_height() + 2 * halo) * g_row,
                            rows: block.min(geo.out_height() - first),
                            cols: geo.out_width(),
                            x_row: geo.stride * x_row,
                            x_col: geo.stride * pixel,
                            g_row,
                            g_col,
                            taps: geo.kernel * pixel,
                            cout: g_col,
                            dw_row: self.cout.len(),
                        };
                        let x = &self.kept[x + first * size.x_row..];
                        let g = &self.kept[g + (first + halo) * g_row + halo * g_col..];
                        let at = (ci - self.cin.start) * geo.taps() * size.dw_row + co - self.cout.start;
                        let sums = self.sums[at..].as_mut_ptr();
                        // SAFETY: the panels of consecutive images are contiguous.
                        unsafe { outer_rows::<V, T>(size, geo.kernel, x_row, x.as_ptr(), g.as_ptr(), sums) };
                    }
                }
            }
        }
    }

    /// Computes the sums as (places of the row, input channels, output channels), with `N` = [`Value::PACK`]
    /// tiles per lane.
    #[inline(always)]
    unsafe fn places<V: Vector, const N: usize>(&mut self) {
        let Panels { geo, images, .. } = self.panels;
        let (per_row, rows) = (geo.width / 2, geo.height / 2);
        let some = tile_rows(geo);
        let dw_row = self.cout.len();
        let (v, d) = self.work.split_at_mut(some * per_row / N * 4 * self.cin.len());
        for first in (0..images * rows).step_by(some) {
            let tile_rows = first..(images * rows).min(first + some);
            let cols = tile_rows.len() * per_row / N;
            // SAFETY: the panels hold whole images, and the work space has room for as many tiles.
            unsafe {
                for ci in self.cin.clone().step_by(IN) {
                    let width = IN.min(self.cin.end - ci);
                    let part = Geometry { cin: width, ..geo };
                    let v = v.as_mut_ptr().add((ci - self.cin.start) * 4 * cols);
                    for row in tile_rows.clone() {
                        let x = self.kept[self.panels.input(row / rows, ci).0..].as_ptr().cast::<T>();
                        let v = v.add((row - first) * per_row / N * 4 * width);
                        transform_input::<V, T, Two, 4, 2, N>(part, x, row % rows, self.row, 0, v);
                    }
                }
                for co in self.cout.clone().step_by(PANEL) {
                    let width = PANEL.min(self.cout.end - co);
                    let part = Geometry { cout: width, ..geo };
                    let plane = pitch(cols * width);
                    for row in tile_rows.clone() {
                        let g = self.kept[self.panels.grad(row / rows, co).0..].as_ptr().cast::<T>();
                        let d = d.as_mut_ptr().add((row - first) * per_row / N * width);
                        transform_grad::<V, T, N>(part, g, row % rows, self.row, plane, d);
                    }
                    for ci in self.cin.clone().step_by(IN) {
                        let taps = IN.min(self.cin.end - ci);
                        let v = v.as_ptr().add((ci - self.cin.start) * 4 * cols);
                        let size = Outer::line(first == 0, cols, 4 * taps, taps, width, dw_row);
                        for j in 0..4 {
                            let at =
                                (j * self.cin.len() + ci - self.cin.start) * dw_row + co - self.cout.start;
                            let sums = self.sums[at..].as_mut_ptr();
                            outer::<V, T>(size, v.add(j * taps), d.as_ptr().add(j * plane), sums);
                        }
                    }
                }
            }
        }
    }

    /// Computes the gradient with AMX tiles. For each tap, [`SOME`] pixels at a time are gathered, wherever
    /// they are. The tiles hold the transposed gradient, output channels by input channels: this way only the
    /// output's gradient has to be transposed, to be a left factor.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn tiles(&mut self) {
        const SIDE: usize = 16;
        const TILE: usize = amx::SUM;
        let Panels { geo, images, .. } = self.panels;
        let (ins, outs) = (self.cin.len() / SIDE, self.cout.len() / SIDE);
        let (halo, taps) = (geo.padding(), geo.taps());
        let (x_row, g_row) = (geo.width + 2 * halo, geo.out_width() + 2 * halo);
        let (near, turned) = self.work.split_at_mut(SOME * self.cin.len());
        let (kept, own) = (self.kept.as_ptr(), self.sums.as_mut_ptr());
        let tiles_of = |tap: usize, out: usize| -> [*mut f32; amx::SUMS] {
            std::array::from_fn(|n| own.wrapping_add(((tap * outs + out) * ins + n) * TILE))
        };
        let per_image = geo.out_height() * geo.out_width();
        let pixels = images * per_image;
        // SAFETY: the places are inside the panels; work space and sums have room for the whole block.
        unsafe {
            amx::configure(SIDE, SIDE);
            for first in (0..pixels).step_by(SOME) {
                let some = SOME.min(pixels - first);
                let steps = some.div_ceil(SIDE);
                let mut places = [(0, 0); SOME];
                for (n, place) in places[..some].iter_mut().enumerate() {
                    let (image, at) = ((first + n) / per_image, (first + n) % per_image);
                    let (row, col) = (at / geo.out_width(), at % geo.out_width());
                    let x = image * self.panels.in_pixels() + (row * x_row + col) * geo.stride;
                    *place = (x, image * self.panels.out_pixels() + (row + halo) * g_row + col + halo);
                }
                for out in 0..outs {
                    let channel = self.cout.start + out * SIDE;
                    let (g, pixel) = self.panels.grad(0, channel / PANEL * PANEL);
                    let g = kept.add(g + channel % PANEL);
                    for step in 0..steps {
                        let mut rows = [[0.0; SIDE]; SIDE];
                        for (row, place) in rows.iter_mut().zip(&places[step * SIDE..some]) {
                            std::ptr::copy_nonoverlapping(g.add(place.1 * pixel), row.as_mut_ptr(), SIDE);
                        }
                        let to = turned[(out * steps + step) * TILE..][..TILE].as_mut_ptr();
                        transpose_16x16(0..SIDE, rows.as_ptr().cast(), SIDE, to);
                    }
                }
                for tap in 0..taps {
                    for n in 0..ins {
                        let (x, _) = self.panels.input(0, self.cin.start + n * SIDE);
                        let x = kept.add(x + (tap / geo.kernel * x_row + tap % geo.kernel) * SIDE);
                        for (place, near) in places[..some].iter().zip(near.chunks_exact_mut(ins * SIDE)) {
                            let near = near[n * SIDE..][..SIDE].as_mut_ptr();
                            std::ptr::copy_nonoverlapping(x.add(place.0 * SIDE), near, SIDE);
                        }
                    }
                    near[some * ins * SIDE..steps * SIDE * ins * SIDE].fill(0.0);
                    for out in 0..outs {
                        let sums = tiles_of(tap, out);
                        if first == 0 {
                            amx::clear();
                        } else {
                            amx::load(ins, &sums);
                        }
                        for step in 0..steps {
                            let left = turned[(out * steps + step) * TILE..].as_ptr();
                            let right = near[step * SIDE * ins * SIDE..].as_ptr();
                            amx::multiply_rights(ins, left, 64, right, 4 * ins * SIDE);
                        }
                        amx::store(ins, &sums);
                    }
                }
            }
            for (tap, out) in (0..taps).flat_map(|tap| (0..outs).map(move |out| (tap, out))) {
                for (n, tile) in tiles_of(tap, out).into_iter().enumerate().take(ins) {
                    transpose_16x16(0..SIDE, tile, SIDE, tile);
                    for k in 0..SIDE {
                        let row = tap * geo.cin + self.cin.start + n * SIDE + k;
                        let at = row * geo.cout + self.cout.start + out * SIDE;
                        let to: &mut [f32] = self.dw.part(at..at + SIDE);
                        std::ptr::copy_nonoverlapping(tile.add(k * SIDE), to.as_mut_ptr(), SIDE);
                    }
                }
            }
        }
    }
}
