//! What the inner loops of the convolution are told: the places that they go over, and what takes their sums.

use crate::simd::Vector;

/// Channels whose weights are neighbours. Were whole rows of them, a tile would jump from page to page in a
/// wide layer.
pub const PANEL: usize = 32;

/// Consecutive floats of the image that one output pixel sums over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// Distance of the first float from the output pixel's place in the image.
    pub offset: usize,
    /// Number of floats; each has its row of `cout` weights.
    pub len: usize,
}

/// How the output pixels walk over the images.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Images.
    pub images: usize,
    /// Floats between two images.
    pub image_step: usize,
    /// Output rows.
    pub rows: usize,
    /// Output columns.
    pub cols: usize,
    /// Floats between the places of two output rows.
    pub row_step: usize,
    /// Floats between the places of two output columns.
    pub col_step: usize,
    /// What is summed at each place.
    pub runs: &'a [Run],
}

impl Walk<'_> {
    /// Floats that are summed at each place.
    pub fn taps(&self) -> usize {
        self.runs.iter().map(|r| r.len).sum()
    }
}

/// The first pixel and channel of a tile of the output.
#[derive(Clone, Copy, Debug)]
pub struct Pixel {
    /// Image.
    pub image: usize,
    /// Row.
    pub row: usize,
    /// Column.
    pub col: usize,
    /// First channel.
    pub channel: usize,
}

/// Receives finished tiles: `P` neighbouring pixels by `Q` vectors of channels.
pub trait Sink {
    /// What the sums of the channels from `channel` on start from.
    ///
    /// # Safety
    /// As [`Vector`]; the channels are inside the output that the sink was made for.
    #[inline(always)]
    unsafe fn start<V: Vector>(&self, _channel: usize) -> V {
        // SAFETY: the caller's contract.
        unsafe { V::splat(0.0) }
    }

    /// Takes the sums of `P` pixels of a row from `at` on.
    ///
    /// # Safety
    /// As [`Vector`]; the pixels and channels are inside the output that the sink was made for.
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel);
}

/// A weight gradient: `dw[k, co] += Σ_{image, row, col} x[place(image, row, col) + k] · g[image, row, col,
/// co]` for `k < taps`.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Whether `dw` begins with these images.
    pub fresh: bool,
    /// Images, or groups of them that share lanes.
    pub images: usize,
    /// Floats between two images of `x`.
    pub x_image: usize,
    /// Floats between two images of `g`.
    pub g_image: usize,
    /// Rows of `g`.
    pub rows: usize,
    /// Columns of `g`.
    pub cols: usize,
    /// Floats between the places of two rows in `x`.
    pub x_row: usize,
    /// Floats between the places of two columns in `x`.
    pub x_col: usize,
    /// Floats between two rows of `g`.
    pub g_row: usize,
    /// Floats between two columns of `g`.
    pub g_col: usize,
    /// Floats at each place of `x`: the taps of a kernel row, of `cin` each.
    pub taps: usize,
    /// Channels of `g`.
    pub cout: usize,
    /// Floats between two rows of `dw`, each of which is a tap's.
    pub dw_row: usize,
}

impl Outer {
    /// One row of `cols` places, `x_col` floats apart in `x` and neighbours in `g`.
    pub fn line(fresh: bool, cols: usize, x_col: usize, taps: usize, cout: usize, dw_row: usize) -> Self {
        Outer {
            fresh,
            images: 1,
            x_image: 0,
            g_image: 0,
            rows: 1,
            cols,
            x_row: 0,
            x_col,
            g_row: 0,
            g_col: cout,
            taps,
            cout,
            dw_row,
        }
    }
}
