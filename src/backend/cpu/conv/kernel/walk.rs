//! Parameters of the convolution's inner loops: the positions that they visit, and the sink that receives
//! their sums.

use crate::simd::Vector;

/// Number of output channels whose weights are contiguous. If whole rows were contiguous, a tile of a wide
/// layer would jump from page to page.
pub const PANEL: usize = 32;

/// Consecutive floats of the image that one output pixel sums over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// Distance of the first float from the output pixel's position in the image.
    pub offset: usize,
    /// Number of floats; each has its own row of `cout` weights.
    pub len: usize,
}

/// How the output pixels walk over the images.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    /// Number of images.
    pub images: usize,
    /// Stride between images, in floats.
    pub image_step: usize,
    /// Number of output rows.
    pub rows: usize,
    /// Number of output columns.
    pub cols: usize,
    /// Stride between the positions of output rows, in floats.
    pub row_step: usize,
    /// Stride between the positions of output columns, in floats.
    pub col_step: usize,
    /// The runs that are summed at each position.
    pub runs: &'a [Run],
}

impl Walk<'_> {
    /// Returns the number of floats that are summed at each position.
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
    /// Returns the initial value of the sums of the channels from `channel` on.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`], and the channels must be inside the output that the
    /// sink was made for.
    #[inline(always)]
    unsafe fn start<V: Vector>(&self, _channel: usize) -> V {
        // SAFETY: the caller's contract.
        unsafe { V::splat(0.0) }
    }

    /// Takes the sums of `P` pixels of a row from `at` on.
    ///
    /// # Safety
    /// The caller must uphold the contract of [`Vector`], and the pixels and channels must be inside the
    /// output that the sink was made for.
    unsafe fn put<V: Vector, const P: usize, const Q: usize>(&mut self, acc: [[V; Q]; P], at: Pixel);
}

/// The sizes and strides of a weight gradient:
///
/// `dw[k, co] += Σ_{image, row, col} x[position(image, row, col) + k] · g[image, row, col, co]` for
/// `k < taps`.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Whether to overwrite `dw` instead of adding to it.
    pub fresh: bool,
    /// Number of images, or of groups of images that share lanes.
    pub images: usize,
    /// Stride between images of `x`, in floats.
    pub x_image: usize,
    /// Stride between images of `g`, in floats.
    pub g_image: usize,
    /// Number of rows of `g`.
    pub rows: usize,
    /// Number of columns of `g`.
    pub cols: usize,
    /// Stride between the positions of rows in `x`, in floats.
    pub x_row: usize,
    /// Stride between the positions of columns in `x`, in floats.
    pub x_col: usize,
    /// Stride between rows of `g`, in floats.
    pub g_row: usize,
    /// Stride between columns of `g`, in floats.
    pub g_col: usize,
    /// Number of floats at each position in `x`: the taps of a kernel row, of `cin` floats each.
    pub taps: usize,
    /// Number of channels of `g`.
    pub cout: usize,
    /// Stride between rows of `dw`, of which there is one per tap, in floats.
    pub dw_row: usize,
}

impl Outer {
    /// Returns the sizes of a single row of `cols` columns, `x_col` floats apart in `x` and contiguous in
    /// `g`.
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
