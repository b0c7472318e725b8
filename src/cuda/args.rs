//! What the kernels take, as `kernels/*.cu` declare it: the same fields in the same order. Addresses are of device memory; 0 is null.

/// A value without padding, any bits of which are one.
///
/// # Safety
/// The type is `Copy`, without references.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u64 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: numbers.
unsafe impl Plain for f64 {}

/// The struct of a kernel.
pub trait Args: Plain {
    /// Its bytes.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a struct of numbers; its padding, where there is any, is named.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $(pub $field: $type),* }
        // SAFETY: numbers and structs of numbers.
        unsafe impl Plain for $name {})*
    };
}

structs! {
    /// One sample of the plan.
    Row {
        index: u32, view: u32, partner: u32, lambda: f32, rows: u32, columns: u32, label_a: u32, label_b: u32, coef_a: f32, coef_b: f32,
    }
    /// Batch norm of a layer.
    Norm { gamma_beta: u64, stat: u64, affine: u64, running: u64, d_gamma_beta: u64, sums: u64, d_sums: u64 }
    /// Where the input of a convolution comes from.
    Source { y: u64, affine: u64, shortcut: u64, store: u64, kind: i32, height: i32, width: i32, unused: i32 }
    /// The gradient of a raw output.
    Gradient { dz: u64, y: u64, height: i32, width: i32 }
    /// Parameters that are treated alike.
    Segment {
        parts: u64, forward: u64, backward: u64, start: u32, len: u32, first_block: i32, groups: i32,
        cin: i32, cin_padded: i32, cout: i32, unused: i32,
    }
    /// `remix_load`.
    LoadArgs {
        pixels: u64, plan: u64, step: u64, levels: u64, x: u64, sums: u64, images: i32, batch: i32, height: i32, width: i32,
        count: i32, mixes: i32,
    }
    /// `remix_forward_*`.
    ForwardArgs {
        source: Source, before: Norm, weight: u64, out: u64, sums: u64, images: i32, rows: i32, train: i32, unused: i32,
    }
    /// `remix_backward_*`.
    BackwardArgs {
        x: u64, gradient: Gradient, norm: Norm, weight: u64, dz: u64, half: u64, y_before: u64, sums_before: u64, weight_parts: u64,
        height: i32, width: i32, images: i32, rows: i32, residual: i32, out_rows: i32, groups: i32, weight_blocks: i32,
    }
    /// `remix_head`.
    HeadArgs {
        source: Source, plan: u64, step: u64, linear: u64, features: u64, logits: u64, losses: u64, samples: u64, dz: u64,
        linear_parts: u64, counter: u64, norm: Norm, offsets: u64, margins: u64, images: i32, batch: i32, classes: i32, train: i32,
        gamma: f32, normalised: i32,
    }
    /// `remix_blend_*` and `remix_unblend_*`.
    BlendArgs {
        source: Source, norm: Norm, plan: u64, step: u64, mixed: u64, gradient: u64, dz: u64, images: i32, batch: i32,
    }
    /// `remix_step`.
    StepArgs { params: u64, grads: u64, velocity: u64, segments: u64, rates: u64, count: i32, move_: i32 }
    /// `remix_fold`.
    FoldArgs { norms: u64, channels: u64 }
}

impl Args for LoadArgs {}
impl Args for ForwardArgs {}
impl Args for BackwardArgs {}
impl Args for HeadArgs {}
impl Args for BlendArgs {}
impl Args for StepArgs {}
impl Args for FoldArgs {}
