//! The weight gradient of a layer so wide that no cache holds the gradient of one chunk: a single sum over
//! the whole batch, by blocks of channels.
//!
//! The chunks store their inputs and gradients in panels, (panels, images, pixels of the image and its halo,
//! channels of the panel). The threads then divide the blocks of the gradient among themselves instead of the
//! images. Each block takes the images in order, so the result does not depend on the number of threads.

#[cfg(target_arch = "x86_64")]
mod tiles;

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use super::outer::{outer, outer_rows};
use super::walk::{Outer, PANEL};
use super::winograd::{F2x2, pitch, transform_grad, transform_input};
use super::with_scratch;
use crate::net::Geometry;
use crate::simd::value::Value;
use crate::simd::{Isa, Task, Vector, finish};
use crate::tensor::Parts;

/// Number of input channels of a panel. A panel of output channels has [`PANEL`].
const IN_PANEL: usize = 16;

/// The layout of a batch's inputs and gradients.
#[derive(Clone, Copy)]
pub struct Panels {
    pub geo: Geometry,
    /// Whether [`super::winograd`] computes the weight gradient.
    pub winograd: bool,
    /// Number of images, or of groups of images that share lanes.
    images: usize,
    /// Number of images in a group, which share lanes.
    pub share: usize,
    /// Number of channels per lane.
    pack: usize,
}

/// A panel of one image.
#[derive(Clone, Copy)]
struct Panel {
    /// The index of its first lane.
    start: usize,
    /// Number of lanes per pixel.
    lanes: usize,
}

impl Panels {
    pub fn new<T: Value>(geo: Geometry, winograd: bool, batch: usize) -> Self {
        let (share, pack) = if winograd { (1, T::PACK) } else { (T::PACK, 1) };
        Panels { geo, winograd, images: batch.div_ceil(share), share, pack }
    }

    /// Returns the largest number of lanes that a layer and a batch need.
    pub fn max_lanes(geo: Geometry, batch: usize) -> usize {
        batch * (geo.padded_in::<f32>() + geo.padded_out::<f32>())
    }

    fn in_pixels(&self) -> usize {
        self.geo.padded_in::<f32>() / self.geo.cin
    }

    fn out_pixels(&self) -> usize {
        self.geo.padded_out::<f32>() / self.geo.cout
    }

    /// Returns the panel of an image's input that begins with `channel`.
    fn input(&self, image: usize, channel: usize) -> Panel {
        let (first, lanes) = (channel / self.pack, IN_PANEL.min(self.geo.cin - channel) / self.pack);
        Panel { start: (self.images * first + image * lanes) * self.in_pixels(), lanes }
    }

    /// Returns the panel of an image's gradient that begins with `channel`. All gradients come after the
    /// inputs.
    fn grad(&self, image: usize, channel: usize) -> Panel {
        let inputs = self.images * self.in_pixels() * (self.geo.cin / self.pack);
        let (first, lanes) = (channel / self.pack, PANEL.min(self.geo.cout - channel) / self.pack);
        Panel { start: inputs + (self.images * first + image * lanes) * self.out_pixels(), lanes }
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
                for channel in (0..self.geo.cin).step_by(IN_PANEL) {
                    keep_panel::<V>(a, cin, channel / self.pack, self.input(image, channel), kept);
                }
                for channel in (0..self.geo.cout).step_by(PANEL) {
                    keep_panel::<V>(g, cout, channel / self.pack, self.grad(image, channel), kept);
                }
            }
        }
    }
}

/// Stores the panel of an image that has `all` lanes per pixel; `first` is the index within a pixel of the
/// panel's first lane.
///
/// # Safety
/// The same as for [`Panels::keep`].
#[inline(always)]
unsafe fn keep_panel<V: Vector>(image: &[f32], all: usize, first: usize, panel: Panel, kept: Parts) {
    let Panel { start, lanes } = panel;
    // SAFETY: the caller's contract, by which this is the only access to the panel.
    let to: &mut [f32] = unsafe { kept.part(start..start + image.len() / all * lanes) };
    let whole = lanes / V::LANES * V::LANES;
    for (to, from) in to.chunks_exact_mut(lanes).zip(image.chunks_exact(all)) {
        let from = &from[first..first + lanes];
        for n in (0..whole).step_by(V::LANES) {
            // SAFETY: the caller's contract; both slices have `lanes` floats, so whole vectors are inside.
            unsafe { V::load(from.as_ptr().add(n)).store(to.as_mut_ptr().add(n)) };
        }
        to[whole..].copy_from_slice(&from[whole..]);
    }
}

/// Computes the weight gradient from everything that [`Panels::keep`] has stored: (kernel, kernel, cin,
/// cout), or in the layout of [`super::winograd`].
pub fn weight_grad<T: Value>(panels: Panels, kept: &[f32], dw: &mut [f32]) {
    let geo = panels.geo;
    if panels.images == 0 {
        return dw.fill(0.0);
    }
    // The larger a block, the less often images are read and then transformed for Winograd or gathered for
    // AMX.
    let (rows, cin, cout) =
        if panels.winograd { (4, 4 * IN_PANEL, 8 * PANEL) } else { (1, 4 * IN_PANEL, 4 * PANEL) };
    let (ins, outs) = (geo.cin.div_ceil(cin), geo.cout.div_ceil(cout));
    let dw = Parts::new(dw);
    (0..rows * ins * outs).into_par_iter().with_max_len(1).for_each(|n| {
        let (row, cin, cout) =
            (n / outs / ins, block(n / outs % ins, cin, geo.cin), block(n % outs, cout, geo.cout));
        let sums = if panels.winograd { 4 } else { geo.taps() } * cin.len() * cout.len();
        let work = match T::isa() {
            _ if panels.winograd => {
                let tiles = tile_rows(geo) * geo.width / 2;
                tiles * 4 * cin.len() + 4 * pitch(tiles * PANEL)
            }
            Isa::Amx => PIXELS * (cin.len() + cout.len()),
            _ => 0,
        };
        with_scratch(sums + work, |scratch| {
            let (sums, work) = scratch.split_at_mut(sums);
            T::run(Block::<T> { panels, kept, row, cin, cout, sums, work, dw, _type: PhantomData });
            finish();
        });
    });
}

/// Number of output pixels that are gathered at a time for AMX.
const PIXELS: usize = 256;

/// Returns the number of rows of Winograd tiles that a block takes at a time.
fn tile_rows(geo: Geometry) -> usize {
    const TILES_PER_PASS: usize = 64;
    (TILES_PER_PASS / (geo.width / 2)).max(1)
}

fn block(n: usize, len: usize, all: usize) -> Range<usize> {
    n * len..all.min((n + 1) * len)
}

/// A block of the gradient: some input channels by some output channels, and with Winograd one row of
/// components.
struct Block<'a, T> {
    panels: Panels,
    /// All panels.
    kept: &'a [f32],
    row: usize,
    cin: Range<usize>,
    cout: Range<usize>,
    /// Receives the block.
    sums: &'a mut [f32],
    work: &'a mut [f32],
    dw: Parts<'a>,
    _type: PhantomData<T>,
}

impl<T: Value> Task for Block<'_, T> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let Geometry { cin, cout, .. } = self.panels.geo;
        // SAFETY: the caller's contract, by which the machine has AMX if `V::TILES`; `kept` holds all panels,
        // and `sums` has room for the block. With Winograd, the panels consist of whole vectors of channels,
        // as `winograd::fits` requires.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if V::TILES && T::PACK == 2 && (self.cin.len() | self.cout.len()).is_multiple_of(16) {
                return self.with_amx();
            }
            if V::WINOGRAD && self.panels.winograd {
                match T::PACK {
                    1 => self.with_winograd::<V, 1>(),
                    _ => self.with_winograd::<V, 2>(),
                }
            } else {
                self.direct::<V>();
            }
        }
        let mut rows = self.sums.chunks_exact(self.cout.len());
        let mut keep = |plane: usize, channels: Range<usize>| {
            for (channel, row) in channels.zip(&mut rows) {
                let at = (plane * cin + channel) * cout;
                // SAFETY: blocks do not overlap.
                unsafe { self.dw.part(at + self.cout.start..at + self.cout.end) }.copy_from_slice(row);
            }
        };
        if self.panels.winograd {
            (0..4).for_each(|j| keep(4 * self.row + j, self.cin.clone()));
        } else {
            for first in self.cin.clone().step_by(IN_PANEL) {
                let channels = first..self.cin.end.min(first + IN_PANEL);
                (0..self.panels.geo.taps()).for_each(|tap| keep(tap, channels.clone()));
            }
        }
    }
}

impl<T: Value> Block<'_, T> {
    /// Computes the sums as (panels, taps, input channels of the panel, output channels).
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, `kept` must hold all panels, and `sums` must have
    /// room for the block.
    #[inline(always)]
    unsafe fn direct<V: Vector>(&mut self) {
        /// Number of pixels that are taken at a time: their inputs and gradients stay in the first-level
        /// cache.
        const PIXELS_PER_PASS: usize = 128;
        let Panels { geo, images, .. } = self.panels;
        let halo = geo.padding();
        let images_per_pass = (PIXELS_PER_PASS / (geo.out_height() * geo.out_width())).max(1);
        let rows_per_pass = (PIXELS_PER_PASS / geo.out_width()).clamp(1, geo.out_height());
        for image in (0..images).step_by(images_per_pass) {
            for first in (0..geo.out_height()).step_by(rows_per_pass) {
                for co in self.cout.clone().step_by(PANEL) {
                    let grad = self.panels.grad(image, co);
                    let g_row = (geo.out_width() + 2 * halo) * grad.lanes;
                    for ci in self.cin.clone().step_by(IN_PANEL) {
                        let input = self.panels.input(image, ci);
                        let x_row = (geo.width + 2 * halo) * input.lanes;
                        let size = Outer {
                            fresh: image + first == 0,
                            images: images_per_pass.min(images - image),
                            x_image: (geo.height + 2 * halo) * x_row,
                            g_image: (geo.out_height() + 2 * halo) * g_row,
                            rows: rows_per_pass.min(geo.out_height() - first),
                            cols: geo.out_width(),
                            x_row: geo.stride * x_row,
                            x_col: geo.stride * input.lanes,
                            g_row,
                            g_col: grad.lanes,
                            taps: geo.kernel * input.lanes,
                            cout: grad.lanes,
                            dw_row: self.cout.len(),
                        };
                        let x = &self.kept[input.start + first * size.x_row..];
                        let g = &self.kept[grad.start + (first + halo) * g_row + halo * grad.lanes..];
                        let at = (ci - self.cin.start) * geo.taps() * size.dw_row + co - self.cout.start;
                        let sums = self.sums[at..].as_mut_ptr();
                        // SAFETY: the caller's contract; the panels of consecutive images are contiguous.
                        unsafe { outer_rows::<V, T>(size, geo.kernel, x_row, x.as_ptr(), g.as_ptr(), sums) };
                    }
                }
            }
        }
    }

    /// Computes the sums as (components of the row, input channels, output channels), with `N` =
    /// [`Value::PACK`] tiles per lane.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, the panels must consist of whole vectors of
    /// channels, and `sums` must have room for the block.
    #[inline(always)]
    unsafe fn with_winograd<V: Vector, const N: usize>(&mut self) {
        let Panels { geo, images, .. } = self.panels;
        let (per_row, all) = (geo.width / 2 / N, images * geo.height / 2);
        let rows = tile_rows(geo);
        let (v, d) = std::mem::take(&mut self.work).split_at_mut(rows * per_row * 4 * self.cin.len());
        for first in (0..all).step_by(rows) {
            let tile_rows = first..all.min(first + rows);
            let tiles = tile_rows.len() * per_row;
            // SAFETY: the caller's contract; the work space has room for `rows` rows of tiles.
            unsafe {
                self.transform_inputs::<V, N>(tile_rows.clone(), v);
                for co in self.cout.clone().step_by(PANEL) {
                    self.transform_grads::<V, N>(tile_rows.clone(), co, d);
                    self.add_products::<V>(tiles, co, v, d, first == 0);
                }
            }
        }
    }

    /// Transforms the inputs of some rows of tiles, counted over all images, to `v`: (panels, tiles,
    /// components of the row, channels of the panel).
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, and the panels must consist of whole vectors of
    /// channels.
    #[inline(always)]
    unsafe fn transform_inputs<V: Vector, const N: usize>(&self, tile_rows: Range<usize>, v: &mut [f32]) {
        let geo = self.panels.geo;
        let (per_row, rows) = (geo.width / 2 / N, geo.height / 2);
        let image_pixels = self.panels.in_pixels();
        for ci in self.cin.clone().step_by(IN_PANEL) {
            let width = IN_PANEL.min(self.cin.end - ci);
            let part = Geometry { cin: width, ..geo };
            let panel = &mut v[(ci - self.cin.start) * 4 * tile_rows.len() * per_row..];
            for (row, v) in tile_rows.clone().zip(panel.chunks_exact_mut(per_row * 4 * width)) {
                let Panel { start, lanes } = self.panels.input(row / rows, ci);
                let x = self.kept[start..start + image_pixels * lanes].as_ptr().cast::<T>();
                // SAFETY: the caller's contract; `x` is a whole image, and `v` has room for the row's tiles.
                unsafe {
                    transform_input::<V, T, F2x2, 4, 2, N>(part, x, row % rows, self.row, 0, v.as_mut_ptr())
                };
            }
        }
    }

    /// Transforms the gradients of some rows of tiles for the panel that begins with channel `co` to `d`:
    /// (components of the row, tiles, channels), with [`pitch`] between components.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, and the panels must consist of whole vectors of
    /// channels.
    #[inline(always)]
    unsafe fn transform_grads<V: Vector, const N: usize>(
        &self,
        tile_rows: Range<usize>,
        co: usize,
        d: &mut [f32],
    ) {
        let geo = self.panels.geo;
        let (per_row, rows) = (geo.width / 2 / N, geo.height / 2);
        let image_pixels = self.panels.out_pixels();
        let width = PANEL.min(self.cout.end - co);
        let part = Geometry { cout: width, ..geo };
        let plane = pitch(tile_rows.len() * per_row * width);
        let d = d[..4 * plane].as_mut_ptr();
        for (n, row) in tile_rows.enumerate() {
            let Panel { start, lanes } = self.panels.grad(row / rows, co);
            let g = self.kept[start..start + image_pixels * lanes].as_ptr().cast::<T>();
            // SAFETY: the caller's contract; `g` is a whole image, and `d` has room for the tiles of all
            // rows.
            unsafe {
                transform_grad::<V, T, N>(part, g, row % rows, self.row, plane, d.add(n * per_row * width))
            };
        }
    }

    /// Adds the products of all transformed inputs and of the transformed gradients of a panel to the sums,
    /// or overwrites the sums if `fresh`. There are `tiles` tiles, or pairs of tiles that share lanes.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, and `sums` must have room for the block.
    #[inline(always)]
    unsafe fn add_products<V: Vector>(&mut self, tiles: usize, co: usize, v: &[f32], d: &[f32], fresh: bool) {
        let dw_row = self.cout.len();
        let width = PANEL.min(self.cout.end - co);
        let plane = pitch(tiles * width);
        for ci in self.cin.clone().step_by(IN_PANEL) {
            let taps = IN_PANEL.min(self.cin.end - ci);
            let v = &v[(ci - self.cin.start) * 4 * tiles..][..4 * tiles * taps];
            let size = Outer::line(fresh, tiles, 4 * taps, taps, width, dw_row);
            for j in 0..4 {
                let at = (j * self.cin.len() + ci - self.cin.start) * dw_row + co - self.cout.start;
                let (v, d) = (v[j * taps..].as_ptr(), d[j * plane..][..tiles * width].as_ptr());
                // SAFETY: the caller's contract; the slices hold component `j` of all tiles, and the sums
                // hold the whole block.
                unsafe { outer::<V, T>(size, v, d, self.sums[at..].as_mut_ptr()) };
            }
        }
    }
}
