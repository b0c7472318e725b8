//! What the kernels take: structs and numbers that are declared here for Rust and for the kernels' source.
//! Addresses are of device memory; 0 is null.

use crate::methods::loss::SCALE;
use crate::net::{EPS, MOMENTUM};

use super::tiles::{SCRATCH, THREADS};

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

/// The type of a field in Rust: a pointer is an address.
macro_rules! rust {
    (ptr) => {
        u64
    };
    ($type:ident) => {
        $type
    };
}

/// The type of a field in the kernels' source.
macro_rules! cuda {
    (ptr $type:literal) => {
        $type
    };
    (i32) => {
        "int"
    };
    (f32) => {
        "float"
    };
    ($type:ident) => {
        stringify!($type)
    };
}

/// Declares structs, and writes the same for the kernels, with assertions of sizes and places.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ident $($pointer:literal)?),* $(,)? })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: rust!($type)),* }
        // SAFETY: numbers and structs of numbers.
        unsafe impl Plain for $name {})*

        fn declare_structs(text: &mut String) {
            $(
                text.push_str(concat!("struct ", stringify!($name), " {\n"));
                $(text.push_str(concat!("    ", cuda!($type $($pointer)?), " ", stringify!($field), ";\n"));)*
                text.push_str("};\n");
                let name = stringify!($name);
                *text += &format!("static_assert(sizeof({name}) == {}, \"\");\n", size_of::<$name>());
                $(*text += &format!(
                    "static_assert(__builtin_offsetof({name}, {0}) == {1}, \"\");\n",
                    stringify!($field),
                    std::mem::offset_of!($name, $field),
                );)*
            )*
        }
    };
}

structs! {
    /// One sample of the plan. A step's rows begin at step · batch.
    Row {
        /// Position in the split.
        index: u32,
        /// Bytes: dy + 128, dx + 128, flip.
        view: u32,
        /// Position in the batch.
        partner: u32,
        lambda: f32,
        /// Of the patch that shows the partner: the first, and 16 bits higher the one behind the last.
        rows: u32,
        /// Likewise.
        columns: u32,
        label_a: u32,
        label_b: u32,
        coef_a: f32,
        coef_b: f32,
    }
    /// Batch norm of a layer of C channels.
    Norm {
        /// (2, C).
        gamma_beta: ptr "const float*",
        /// (2, C): mean, 1 / sqrt(variance + EPS).
        stat: ptr "float*",
        /// (2, C): scale, shift of the running statistics.
        affine: ptr "float*",
        /// (2, C): mean, unbiased variance.
        running: ptr "float*",
        /// (2, C).
        d_gamma_beta: ptr "float*",
        /// Of Σ y and Σ y².
        sums: ptr "u64*",
        /// Of Σ dz and Σ dz·y.
        d_sums: ptr "u64*",
    }
    /// Where the input of a convolution comes from.
    Source {
        /// Values as they are ([`PLAIN`]), or the raw output of the convolution before.
        y: ptr "const real*",
        /// (2, C): scale and shift in inference; in training they come from the sums.
        affine: ptr "const float*",
        /// Of [`IDENTITY`] (N, H, W, C), of [`PADDED`] (N, 2H, 2W, C/2).
        shortcut: ptr "const real*",
        /// Receives the values, if any.
        store: ptr "real*",
        /// [`PLAIN`], [`NORMED`], [`IDENTITY`] or [`PADDED`].
        kind: i32,
        height: i32,
        width: i32,
        unused: i32,
    }
    /// The gradient of a raw output: coef[0]·dz + coef[1]·y + coef[2].
    Gradient {
        dz: ptr "const real*",
        y: ptr "const real*",
        height: i32,
        width: i32,
    }
    /// A run of parameters that are treated alike; each begins with a block of its own.
    Segment {
        /// (groups, stride): parts of the gradient; null where the gradient is there already.
        parts: ptr "const float*",
        /// The weights in `place` order for forward, null where they are none.
        forward: ptr "real*",
        /// The same for the input gradient, null where there is none.
        backward: ptr "real*",
        /// First of the parameters.
        start: u32,
        len: u32,
        first_block: i32,
        groups: i32,
        cin: i32,
        cin_padded: i32,
        cout: i32,
        unused: i32,
    }
    /// `remix_load`.
    LoadArgs {
        /// (N, H, W, 3).
        pixels: ptr "const u8*",
        plan: ptr "const Row*",
        step: ptr "const u32*",
        /// (3, 256): normalised value of each byte.
        levels: ptr "const float*",
        /// (images, H, W, 4), the last channel zero.
        x: ptr "real*",
        /// Of all batch norms, which are set to zero.
        sums: ptr "u64*",
        images: i32,
        batch: i32,
        height: i32,
        width: i32,
        /// Of the sums.
        count: i32,
        /// 0 where the images are mixed later in the network.
        mixes: i32,
    }
    /// `remix_forward_*`.
    ForwardArgs {
        source: Source,
        /// The source's batch norm.
        before: Norm,
        /// In `place` order, k = tap·CK + channel.
        weight: ptr "const real*",
        /// (N, H', W', CN).
        out: ptr "real*",
        /// Of the output.
        sums: ptr "u64*",
        images: i32,
        /// Rows of the output a block.
        rows: i32,
        train: i32,
        unused: i32,
    }
    /// `remix_backward_*`.
    BackwardArgs {
        /// The convolution's input, as forward stored it.
        x: ptr "const real*",
        /// Of its raw output.
        gradient: Gradient,
        /// The batch norm behind it.
        norm: Norm,
        /// In `place` order, k = (8 − tap)·C_out + channel out, n = channel in.
        weight: ptr "const real*",
        /// mask · (dx + residual), the gradient behind the batch norm before; the mask is that of the ReLU
        /// that made x.
        dz: ptr "real*",
        /// Of [`THROUGH_PADDED`]: (N, H/2, W/2, 2·C_in) to every second pixel, its middle channels.
        half: ptr "const real*",
        /// Raw output before that batch norm, for the sums.
        y_before: ptr "const real*",
        sums_before: ptr "u64*",
        /// (groups, 9, C_in, C_out).
        weight_parts: ptr "float*",
        /// Of x.
        height: i32,
        width: i32,
        images: i32,
        /// Rows of the input that a block of the input gradient takes.
        rows: i32,
        /// [`NO_RESIDUAL`], [`IN_PLACE`] or [`THROUGH_PADDED`].
        residual: i32,
        /// Rows of the output that are a tile of the weight gradient.
        out_rows: i32,
        /// Of tiles.
        groups: i32,
        weight_blocks: i32,
    }
    /// `remix_head`.
    HeadArgs {
        /// Of the last block's output, (N, H, W, 64).
        source: Source,
        plan: ptr "const Row*",
        /// Advanced when the grid is done.
        step: ptr "u32*",
        /// Weight (classes, 64), bias (classes).
        linear: ptr "const float*",
        /// (rows of the plan, 64) where `train` is 0, else (images, 64).
        features: ptr "float*",
        /// (…, classes).
        logits: ptr "float*",
        /// (steps, 2): loss and right predictions of each step.
        losses: ptr "double*",
        /// (images, 2).
        samples: ptr "float*",
        /// (N, H, W, 64).
        dz: ptr "real*",
        /// (images, classes · 65), as `linear`.
        linear_parts: ptr "float*",
        counter: ptr "u32*",
        /// Of the last convolution.
        norm: Norm,
        /// (classes), added to the logits in the loss.
        offsets: ptr "const float*",
        /// (classes), taken from a label's logit there; null if none.
        margins: ptr "const float*",
        /// (classes), what logits are multiplied by there; null if none.
        scales: ptr "const float*",
        images: i32,
        batch: i32,
        classes: i32,
        train: i32,
        /// Of the focal loss; 0 for none.
        gamma: f32,
        /// Whether logits are cosines, times COSINE_SCALE.
        normalised: i32,
    }
    /// `remix_blend_*` and `remix_unblend_*`.
    BlendArgs {
        /// Of the block's output, [`IDENTITY`]; its `store` receives the output as it is.
        source: Source,
        /// Of the block's last convolution.
        norm: Norm,
        plan: ptr "const Row*",
        step: ptr "const u32*",
        /// Forward: receives what is mixed.
        mixed: ptr "real*",
        /// Backward: of that, which may be zero where it is.
        gradient: ptr "const real*",
        /// Backward: gradient behind the batch norm.
        dz: ptr "real*",
        images: i32,
        batch: i32,
    }
    /// `remix_step`.
    StepArgs {
        params: ptr "float*",
        grads: ptr "float*",
        velocity: ptr "float*",
        segments: ptr "const Segment*",
        /// Learning rate, momentum, weight decay, and 1 for Nesterov's momentum.
        rates: ptr "const float*",
        /// Segments.
        count: i32,
        /// 0: only lay out.
        moves: i32,
    }
    /// `remix_fold`: scale and shift of a batch norm from its running statistics, a block a layer.
    FoldArgs {
        norms: ptr "const Norm*",
        channels: ptr "const int*",
    }
}

impl Args for LoadArgs {}
impl Args for ForwardArgs {}
impl Args for BackwardArgs {}
impl Args for HeadArgs {}
impl Args for BlendArgs {}
impl Args for StepArgs {}
impl Args for FoldArgs {}

/// Declares numbers, and writes the same for the kernels.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: i32 = $value;)*

        fn declare_numbers(text: &mut String) {
            $(*text += &format!("constexpr int {} = {};\n", stringify!($name), $name);)*
        }
    };
}

numbers! {
    /// [`Source`]: values as they are.
    PLAIN = 0;
    /// [`Source`]: relu(y·scale + shift).
    NORMED = 1;
    /// [`Source`]: the same with values of the same size added before the ReLU.
    IDENTITY = 2;
    /// [`Source`]: the same with every second pixel of values of twice the size, C/4 zero channels on both
    /// sides.
    PADDED = 3;
    /// [`BackwardArgs`]: the input gradient as it is.
    NO_RESIDUAL = 0;
    /// [`BackwardArgs`]: with what is there already.
    IN_PLACE = 1;
    /// [`BackwardArgs`]: with the gradient of a block's output under [`PADDED`].
    THROUGH_PADDED = 2;
}

/// The declarations for the kernels' source: types, numbers and structs.
pub fn declarations() -> String {
    let mut text = String::from(
        "typedef unsigned int u32;\ntypedef unsigned long long u64;\ntypedef unsigned short u16;\ntypedef unsigned char u8;\n\
         #if REMIX_BF16\nstruct alignas(2) real {\n    u16 bits;\n};\n#else\ntypedef float real;\n#endif\n",
    );
    for (name, number) in [("THREADS", THREADS), ("SCRATCH", SCRATCH)] {
        text += &format!("constexpr int {name} = {number};\n");
    }
    for (name, number) in [("EPS", EPS), ("MOMENTUM", MOMENTUM)] {
        text += &format!("constexpr double {name} = {number:?};\n");
    }
    text += &format!("constexpr float COSINE_SCALE = {SCALE:?}f;\n");
    declare_numbers(&mut text);
    declare_structs(&mut text);
    text
}
