//! AMX versions of the inner loops of [`super::tile`] and [`super::outer`], for suitable sizes. An output
//! tile is 16 or 8 pixels of a row by 16 channels, 16 pixels of several short rows by 16 channels, or 32
//! pixels of any rows, which are gathered first, by 32 channels.

// Indices match those of the formulas.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use super::walk::{Outer, PANEL, Pixel, Sink, Walk};
use super::{keep_scratch, take_scratch};
use crate::simd::{Vector, amx};

/// Returns the number of pixels per tile, 16 or 8, if rows of `cols` pixels consist of whole tiles.
fn pixels(cols: usize) -> Option<usize> {
    [16, 8].into_iter().find(|&p| cols.is_multiple_of(p))
}

/// How an output's pixels are split: into lines of consecutive pixels, and each line into tiles.
#[derive(Clone, Copy)]
pub struct Tiles {
    /// Number of pixels of a tile.
    pixels: usize,
    /// Number of pixels of a line. A line's last tile ends where the line does.
    line: usize,
    /// Number of lines of an image.
    lines: usize,
    /// Number of pixels of a line between two rows, whose outputs are computed and discarded.
    gap: usize,
    /// Number of tiles that are multiplied together.
    together: usize,
}

impl Tiles {
    /// Returns the tiles of a walk if its sizes and the number of channels suit AMX. A line is a row; a small
    /// image whose rows are not whole tiles of 16 is one line, as it lies in memory.
    pub fn of(walk: &Walk, cout: usize) -> Option<Tiles> {
        if walk.rows * walk.cols == 0 || !cout.is_multiple_of(16) {
            return None;
        }
        let rows = |pixels| Tiles { pixels, line: walk.cols, lines: walk.rows, gap: 0, together: 4 };
        let pitch = walk.row_step / walk.col_step;
        let line = (walk.rows - 1) * pitch + walk.cols;
        let count = line.div_ceil(16);
        // The sink receives whole pieces of four, seven or eight pixels.
        let whole = walk.cols.is_multiple_of(4) || (walk.rows == 1 && walk.cols.is_multiple_of(7));
        let even = walk.row_step.is_multiple_of(walk.col_step) && whole;
        match pixels(walk.cols) {
            Some(16) => Some(rows(16)),
            _ if even && line >= 16 && count <= amx::SUMS => {
                let together = amx::SUMS / count * count;
                Some(Tiles {
                    pixels: 16,
                    line,
                    lines: 1,
                    gap: if walk.rows == 1 { 0 } else { pitch - walk.cols },
                    together,
                })
            }
            None if walk.cols >= 16 && walk.cols.is_multiple_of(4) => Some(rows(16)),
            pixels => pixels.map(rows),
        }
    }
}

/// Returns the number of lanes of a run that are multiplied at a time.
fn lanes(walk: &Walk) -> usize {
    (2..=16).rev().find(|&n| walk.runs.iter().all(|r| r.len.is_multiple_of(n))).unwrap_or(1)
}

/// The sums of a group of tiles, in rows of 16 channels, after [`SPARE_ROWS`].
#[repr(align(64))]
struct Sums([f32; amx::SUM * (amx::SUMS + 1)]);

/// Spare rows before the sums: a line's last tile overlaps its predecessor, which may be in the previous
/// group.
const SPARE_ROWS: usize = 16;

/// Computes [`super::tile::correlate`] for pairs of bf16. Returns false, and does nothing, if the sizes do
/// not suit.
///
/// # Safety
/// The same as for [`super::tile::correlate`]; vectors must have 16 lanes, and the machine must have AMX.
#[inline(always)]
pub unsafe fn correlate<V: Vector, S: Sink>(
    x: *const f32,
    walk: Walk,
    w: *const f32,
    cout: usize,
    sink: &mut S,
) -> bool {
    let Some(tiles) = Tiles::of(&walk, cout) else { return false };
    let lanes = lanes(&walk);
    // SAFETY: the caller's contract.
    unsafe {
        amx::configure(tiles.pixels, lanes);
        if walk.cols.is_multiple_of(8) {
            blocks::<V, S, 8>(x, walk, tiles, lanes, w, cout, sink);
        } else if !walk.cols.is_multiple_of(4) {
            blocks::<V, S, 7>(x, walk, tiles, lanes, w, cout, sink);
        } else {
            blocks::<V, S, 4>(x, walk, tiles, lanes, w, cout, sink);
        }
    }
    true
}

/// Computes [`correlate`] for wide layers whose rows are not whole tiles. Returns false, and does nothing, if
/// the sizes do not suit. Pixels are taken in order, whatever rows and images they are in, and their inputs
/// are first gathered into tiles: there are so many weights that copying pixels costs less than computing the
/// gaps between rows.
///
/// # Safety
/// The same as for [`correlate`].
#[inline(always)]
pub unsafe fn gathered<V: Vector, S: Sink>(
    x: *const f32,
    walk: Walk,
    w: *const f32,
    cout: usize,
    sink: &mut S,
) -> bool {
    /// Number of pixels that are gathered at a time.
    const PIXELS: usize = 128;
    /// Number of lanes of weights from which gathering pays off.
    const MIN_WEIGHTS: usize = 32 * 1024;
    /// Number of pixels that the sink receives at a time.
    const PIECE: usize = 4;
    let taps = walk.taps();
    let whole = cout.is_multiple_of(PANEL) && walk.runs.iter().all(|run| run.len.is_multiple_of(16));
    let cols_suit = !walk.cols.is_multiple_of(8) && walk.cols.is_multiple_of(PIECE);
    if !whole || taps * cout < MIN_WEIGHTS || !cols_suit {
        return false;
    }
    let (steps, per_image) = (taps / 16, walk.rows * walk.cols);
    let all = walk.images * per_image;
    let mut sums = Sums([0.0; amx::SUM * (amx::SUMS + 1)]);
    let own = sums.0.as_mut_ptr();
    let to = std::array::from_fn(|n| own.wrapping_add(amx::SUM * n));
    let mut scratch = take_scratch(PIXELS * taps);
    let inputs = scratch.as_mut_ptr();
    // SAFETY: the caller's contract; `inputs` has room for the tiles of `PIXELS` pixels.
    unsafe {
        amx::configure(16, 16);
        for first in (0..all).step_by(PIXELS) {
            let pixels = PIXELS.min(all - first);
            let pixel_at = |n: usize| {
                let (image, at) = ((first + n) / per_image, (first + n) % per_image);
                Pixel { image, row: at / walk.cols, col: at % walk.cols, channel: 0 }
            };
            for n in 0..pixels {
                let at = pixel_at(n);
                let x = x.add(at.image * walk.image_step + at.row * walk.row_step + at.col * walk.col_step);
                let mut row = inputs.add(n / 16 * taps * 16 + n % 16 * 16);
                for run in walk.runs {
                    for k in (run.offset..run.offset + run.len).step_by(16) {
                        V::load(x.add(k)).store(row);
                        row = row.wrapping_add(amx::SUM);
                    }
                }
            }
            for channel in (0..cout).step_by(PANEL) {
                let start: [V; 2] = [sink.start(channel), sink.start(channel + 16)];
                for pixel in (0..pixels).step_by(32) {
                    let first = inputs.add(pixel * taps);
                    let second = if pixel + 16 < pixels { first.add(16 * taps) } else { first };
                    let mut w = w.add(channel * taps);
                    amx::clear();
                    for step in 0..steps {
                        let left = [first.add(step * amx::SUM), second.add(step * amx::SUM)];
                        amx::multiply_square(left.map(<*mut f32>::cast_const), w, 4 * PANEL);
                        w = w.add(16 * PANEL);
                    }
                    amx::store(4, &to);
                    for n in (pixel..pixels.min(pixel + 32)).step_by(PIECE) {
                        let mut acc = [start; PIECE];
                        for p in 0..PIECE {
                            let at = (n - pixel) / 16 * 2 * amx::SUM + (n % 16 + p) * 16;
                            for q in 0..2 {
                                acc[p][q] = acc[p][q].add(V::load(own.add(at + q * amx::SUM)));
                            }
                        }
                        sink.put(acc, Pixel { channel, ..pixel_at(n) });
                    }
                }
            }
        }
    }
    keep_scratch(scratch);
    true
}

/// Computes [`correlate`] a few tiles at a time. The sink receives their sums, `P` pixels at a time, while
/// the next tiles are multiplied.
///
/// # Safety
/// The same as for [`correlate`]; the tile registers must be configured for `tiles` and for factors of
/// `lanes` lanes.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn blocks<V: Vector, S: Sink, const P: usize>(
    x: *const f32,
    walk: Walk,
    tiles: Tiles,
    lanes: usize,
    w: *const f32,
    cout: usize,
    sink: &mut S,
) {
    let mut sums = Sums([0.0; amx::SUM * (amx::SUMS + 1)]);
    for channel in (0..cout).step_by(16) {
        let panel = channel / PANEL * PANEL;
        let width = PANEL.min(cout - panel);
        let w = w.wrapping_add(panel * walk.taps() + channel - panel);
        let (mut image, mut line, mut first) = (0, 0, 0);
        let at = Pixel { image, row: 0, col: 0, channel };
        let mut done = Done { at, from: 0, pieces: 0 };
        while image < walk.images {
            let (mut left, mut to) = ([x; amx::SUMS], [sums.0.as_mut_ptr(); amx::SUMS]);
            let (mut count, mut filled) = (0, 0);
            while count < tiles.together && image < walk.images {
                let start = first.min(tiles.line - tiles.pixels);
                let offset = image * walk.image_step + line * walk.row_step + start * walk.col_step;
                left[count] = x.wrapping_add(offset);
                to[count] = to[count].wrapping_add(16 * (SPARE_ROWS + filled + start - first));
                count += 1;
                filled += tiles.pixels.min(tiles.line - first);
                first += tiles.pixels;
                if first >= tiles.line {
                    (line, first) = (line + 1, 0);
                }
                if line == tiles.lines {
                    (image, line) = (image + 1, 0);
                }
            }
            let mut w = w;
            // SAFETY: the caller's contract.
            unsafe {
                amx::clear();
                for run in walk.runs {
                    for k in (run.offset..run.offset + run.len).step_by(lanes) {
                        amx::multiply_lefts(count, &left, k, 4 * walk.col_step, w, 4 * width);
                        if done.pieces > 0 {
                            done.put::<V, S, P>(&sums, &walk, tiles.gap, sink);
                        }
                        w = w.wrapping_add(lanes * width);
                    }
                }
                while done.pieces > 0 {
                    done.put::<V, S, P>(&sums, &walk, tiles.gap, sink);
                }
                amx::store(count, &to);
            }
            (done.from, done.pieces) = (0, filled * (walk.rows * walk.cols / tiles.lines) / (tiles.line * P));
        }
        while done.pieces > 0 {
            // SAFETY: as above.
            unsafe { done.put::<V, S, P>(&sums, &walk, tiles.gap, sink) };
        }
    }
}

/// Sums that the sink has not received yet.
struct Done {
    /// The first pixel of the next piece.
    at: Pixel,
    /// The pixel's row of the sums.
    from: usize,
    /// Number of pieces that are left.
    pieces: usize,
}

impl Done {
    /// Passes the next piece, of `P` pixels, to the sink.
    ///
    /// # Safety
    /// The machine must have the instruction set of `V`, vectors must have 16 lanes, and the sink must accept
    /// the pixels of the walk.
    #[inline(always)]
    unsafe fn put<V: Vector, S: Sink, const P: usize>(
        &mut self,
        sums: &Sums,
        walk: &Walk,
        gap: usize,
        sink: &mut S,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let mut acc = [[sink.start::<V>(self.at.channel)]; P];
            for p in 0..P {
                let row = SPARE_ROWS + self.from + p;
                acc[p][0] = acc[p][0].add(V::load(sums.0[16 * row..][..16].as_ptr()));
            }
            sink.put(acc, self.at);
        }
        self.pieces -= 1;
        self.from += P;
        self.at.col += P;
        if self.at.col == walk.cols {
            (self.at.row, self.at.col) = (self.at.row + 1, 0);
            if self.at.row == walk.rows {
                (self.at.image, self.at.row) = (self.at.image + 1, 0);
            } else {
                self.from += gap;
            }
        }
    }
}

/// Computes [`super::outer::outer_rows`] for pairs of bf16. Returns false, and does nothing, if the sizes do
/// not suit. The tiles hold the transposed gradient, output channels by taps: this way only the output's
/// gradient has to be transposed, to be a left factor.
///
/// # Safety
/// The same as for [`super::outer::outer_rows`]; vectors must have 16 lanes, and the machine must have AMX.
#[inline(always)]
pub unsafe fn outer<V: Vector>(
    size: Outer,
    kernel: usize,
    kernel_row: usize,
    x: *const f32,
    g: *const f32,
    dw: *mut f32,
) -> bool {
    /// Number of tiles of the output's gradient that are transposed at a time: 64 KB.
    const TILES_PER_BATCH: usize = 64;
    /// Number of tiles of taps that are multiplied together.
    const TOGETHER: usize = 4;
    #[repr(C, align(64))]
    struct Transposed([[f32; 256]; TILES_PER_BATCH]);
    let pixels = pixels(size.cols).unwrap_or(if size.cols < 16 { 8 } else { 16 });
    if size.cols < pixels || !size.taps.is_multiple_of(16) || !size.cout.is_multiple_of(16) {
        return false;
    }
    let per_row = size.cols.div_ceil(pixels);
    let all = size.images * size.rows * per_row;
    // A row's last tile is shifted left so that it ends with the row; the pixels that it shares with its
    // predecessor are zeroed.
    let position = |n: usize| {
        let col = (n % per_row * pixels).min(size.cols - pixels);
        (n / per_row / size.rows, n / per_row % size.rows, col)
    };
    let common = |n: usize, col: usize| n % per_row * pixels - col;
    // Left uninitialised: zeroing 64 KB per call costs a few percent.
    let mut transposed = MaybeUninit::<Transposed>::uninit();
    let transposed = transposed.as_mut_ptr().cast::<[f32; 256]>();
    let mut sums = Sums([0.0; amx::SUM * (amx::SUMS + 1)]);
    let own = sums.0.as_mut_ptr();
    let to = std::array::from_fn(|n| own.wrapping_add(amx::SUM * n));
    // SAFETY: the caller's contract; each tile is written before it is read.
    unsafe {
        amx::configure(16, pixels);
        for channel in (0..size.cout).step_by(16) {
            for first in (0..all).step_by(TILES_PER_BATCH) {
                let tiles = TILES_PER_BATCH.min(all - first);
                for n in 0..tiles {
                    let (image, row, col) = position(first + n);
                    let g = g.add(image * size.g_image + row * size.g_row + col * size.g_col + channel);
                    transpose_16x16(common(first + n, col)..pixels, g, size.g_col, transposed.add(n).cast());
                }
                for kh in 0..kernel {
                    let (x, dw) = (x.add(kh * kernel_row), dw.add(kh * size.taps * size.dw_row + channel));
                    for tap in (0..size.taps).step_by(16 * TOGETHER) {
                        let count = ((size.taps - tap) / 16).min(TOGETHER);
                        amx::clear();
                        for n in 0..tiles {
                            let (image, row, col) = position(first + n);
                            let x = x.add(image * size.x_image + row * size.x_row + col * size.x_col + tap);
                            amx::multiply_rights(count, transposed.add(n).cast(), 64, x, 4 * size.x_col);
                        }
                        amx::store(count, &to);
                        for (q, own) in to.into_iter().enumerate().take(count) {
                            transpose_16x16(0..16, own, 16, own);
                            for k in 0..16 {
                                let dw = dw.add((tap + 16 * q + k) * size.dw_row);
                                let sum = V::load(own.add(16 * k));
                                if size.fresh && first == 0 {
                                    sum.store(dw)
                                } else {
                                    V::load(dw).add(sum).store(dw)
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    true
}

/// Transposes 16 rows of 16 lanes, of which those outside `rows` are taken as zero.
///
/// # Safety
/// The machine must have AVX-512; `from` must hold the rows, `step` floats apart, and `to` must have room for
/// 16 rows of 16 floats.
#[inline(always)]
pub unsafe fn transpose_16x16(rows: std::ops::Range<usize>, from: *const f32, step: usize, to: *mut f32) {
    use std::arch::x86_64::{_mm512_loadu_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    // SAFETY: the caller's contract.
    unsafe {
        let mut lines = [_mm512_setzero_ps(); 16];
        for n in rows {
            lines[n] = _mm512_loadu_ps(from.add(n * step));
        }
        for (n, line) in amx::transpose(lines).into_iter().enumerate() {
            _mm512_storeu_ps(to.add(16 * n), line);
        }
    }
}
