//! The arguments of the kernels: structs and constants, declared once here for Rust and for the source of the
//! kernels. Addresses are addresses of device memory; 0 is null.

use crate::methods::loss::SCALE;
use crate::net::{EPS, MOMENTUM};

use super::tiles::{SCRATCH, SIZES, THREADS};

/// A type without padding for which any bits are a valid value.
///
/// # Safety
/// Any bits must be a valid value of the type, which must have no padding and no references.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: a number.
unsafe impl Plain for u8 {}
// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: a number.
unsafe impl Plain for u64 {}
// SAFETY: a number.
unsafe impl Plain for i32 {}
// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: a number.
unsafe impl Plain for f64 {}

/// The Rust type of a field: a pointer is an address.
macro_rules! rust {
    (ptr) => {
        u64
    };
    ($type:ident) => {
        $type
    };
}

/// The type of a field in the source of the kernels.
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

/// Declares structs, and a function that writes their declarations for the kernels, with assertions about
/// sizes and offsets.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ident $($pointer:literal)?),* $(,)? })*) => {
        $($(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $($(#[$field_doc])* pub $field: rust!($type)),* }
        // SAFETY: the fields are numbers and structs of numbers. There is a named field wherever there would be
        // padding.
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
    /// One sample of the epoch's plan. The rows of a step begin at step · batch.
    Row {
        /// Position of the image among those on the device.
        index: u32,
        /// The augmentation, in bytes from the lowest: dy + 128, dx + 128, flip.
        view: u32,
        /// Position of the partner in the batch.
        partner: u32,
        lambda: f32,
        /// The rows of the patch that shows the partner: the first row in the lower 16 bits, and the one
        /// behind the last row in the upper 16 bits.
        rows: u32,
        /// The columns of the patch, likewise.
        columns: u32,
        label_a: u32,
        label_b: u32,
        coef_a: f32,
        coef_b: f32,
    }
    /// The batch norm of a layer of C channels.
    Norm {
        /// (2, C): γ, β.
        gamma_beta: ptr "const float*",
        /// (2, C): mean and 1 / sqrt(variance + EPS) of the batch.
        stat: ptr "float*",
        /// (2, C): scale and shift from the running statistics.
        affine: ptr "float*",
        /// (2, C): running mean and unbiased variance.
        running: ptr "float*",
        /// (2, C): receives the gradients of γ and β.
        d_gamma_beta: ptr "float*",
        /// The sums of y and y², as `add_sum` of `common.cu` writes them.
        sums: ptr "u64*",
        /// The sums of dz and dz·y, likewise.
        d_sums: ptr "u64*",
    }
    /// The input of a convolution.
    Source {
        /// The input itself ([`PLAIN`]), or the raw output of the previous convolution.
        y: ptr "const real*",
        /// (2, C): scale and shift in inference; in training they are computed from the sums.
        affine: ptr "const float*",
        /// The shortcut's values: (N, H, W, C) for [`IDENTITY`], (N, 2H, 2W, C/2) for [`PADDED`].
        shortcut: ptr "const real*",
        /// Receives the input unless null.
        store: ptr "real*",
        /// [`PLAIN`], [`NORMED`], [`IDENTITY`] or [`PADDED`].
        kind: i32,
        height: i32,
        width: i32,
        unused: i32,
    }
    /// The gradient of a raw output, `coef[0]·dz + coef[1]·y + coef[2]`.
    Gradient {
        dz: ptr "const real*",
        y: ptr "const real*",
        height: i32,
        width: i32,
    }
    /// A range of parameters that are treated alike. Each segment begins with a block of its own.
    Segment {
        /// (groups, stride): parts of the gradient; null if the gradient is complete already.
        parts: ptr "const float*",
        /// Receives the weights in `weight_index` order for the forward pass; null if the parameters are not
        /// weights of a convolution.
        forward: ptr "real*",
        /// Receives the weights for the input gradient; null if there is none.
        backward: ptr "real*",
        /// Index of the first parameter.
        start: u32,
        len: u32,
        first_block: i32,
        groups: i32,
        cin: i32,
        cin_padded: i32,
        cout: i32,
        unused: i32,
    }
    /// Arguments of `remix_load`.
    LoadArgs {
        /// (N, H, W, 3).
        pixels: ptr "const u8*",
        plan: ptr "const Row*",
        step: ptr "const u32*",
        /// (3, 256): the normalised value of each byte.
        levels: ptr "const float*",
        /// (images, H, W, 4); the last channel is zero.
        x: ptr "real*",
        /// The sums of all batch norms, which are set to zero.
        sums: ptr "u64*",
        images: i32,
        batch: i32,
        height: i32,
        width: i32,
        /// The length of `sums`.
        count: i32,
        /// 0 if the batch is mixed later in the network.
        mixes: i32,
    }
    /// Arguments of `remix_forward_*`.
    ForwardArgs {
        source: Source,
        /// The batch norm of the source.
        before: Norm,
        /// The weights in `weight_index` order, k = tap·CK + channel.
        weight: ptr "const real*",
        /// (N, H', W', CN).
        out: ptr "real*",
        /// The sums of the output.
        sums: ptr "u64*",
        images: i32,
        /// Rows of the output per block.
        rows: i32,
        train: i32,
        unused: i32,
    }
    /// Arguments of `remix_backward_*`. Fields that only the input gradient needs are 0 for the stem.
    BackwardArgs {
        /// The convolution's input, as the forward pass stored it.
        x: ptr "const real*",
        /// The gradient of the convolution's raw output.
        gradient: Gradient,
        /// The batch norm that follows the convolution.
        norm: Norm,
        /// The weights in `weight_index` order, k = (8 − tap)·C_out + channel out, n = channel in.
        weight: ptr "const real*",
        /// Receives mask · (dx + residual), the gradient of the output of the batch norm before; the mask is
        /// that of the ReLU that made x.
        dz: ptr "real*",
        /// The residual for [`THROUGH_PADDED`]: (N, H/2, W/2, 2·C_in), of which the middle channels are added
        /// to every second pixel.
        half: ptr "const real*",
        /// The raw output that the batch norm before normalises, for the sums.
        y_before: ptr "const real*",
        sums_before: ptr "u64*",
        /// (groups, 9, C_in, C_out).
        weight_parts: ptr "float*",
        /// Height of x.
        height: i32,
        width: i32,
        images: i32,
        /// Rows of the input that a block of the input gradient computes.
        rows: i32,
        /// [`NO_RESIDUAL`], [`IN_PLACE`] or [`THROUGH_PADDED`].
        residual: i32,
        /// Rows of the output in a tile of the weight gradient.
        out_rows: i32,
        /// The number of groups of tiles, each of which makes a part of the weight gradient.
        groups: i32,
        weight_blocks: i32,
    }
    /// Arguments of `remix_head`.
    HeadArgs {
        /// The output of the last block, (N, H, W, 64).
        source: Source,
        plan: ptr "const Row*",
        /// The number of the step, which is incremented when the grid is done.
        step: ptr "u32*",
        /// The weight (classes, 64), then the bias (classes).
        linear: ptr "const float*",
        /// (rows of the plan, 64) if `train` is 0, otherwise (images, 64).
        features: ptr "float*",
        /// (…, classes), with the same rows.
        logits: ptr "float*",
        /// (steps, 2): the loss and the number of correct predictions of each step.
        losses: ptr "double*",
        /// (images, 2): the same for each image.
        samples: ptr "float*",
        /// (N, H, W, 64).
        dz: ptr "real*",
        /// (images, classes · 65): the parts of the gradient of `linear`, in its layout.
        linear_parts: ptr "float*",
        counter: ptr "u32*",
        /// The batch norm of the last convolution.
        norm: Norm,
        /// (classes), added to the logits in the loss.
        offsets: ptr "const float*",
        /// (classes), subtracted from the logit of a label in the loss; null if there are none.
        margins: ptr "const float*",
        /// (classes), the factors of the logits in the loss; null if there are none.
        scales: ptr "const float*",
        images: i32,
        batch: i32,
        classes: i32,
        train: i32,
        /// γ of the focal loss; 0 for none.
        gamma: f32,
        /// Whether the logits are cosines times COSINE_SCALE.
        normalised: i32,
    }
    /// Arguments of `remix_blend_*` and `remix_unblend_*`.
    BlendArgs {
        /// The block's output, of kind [`IDENTITY`]; its `store` receives the output before it is mixed.
        source: Source,
        /// The batch norm of the block's last convolution.
        norm: Norm,
        plan: ptr "const Row*",
        step: ptr "const u32*",
        /// Forward: receives the mixed output.
        mixed: ptr "real*",
        /// Backward: the gradient of `mixed`, which may be zero where `mixed` is zero.
        gradient: ptr "const real*",
        /// Backward: receives the gradient of the output of the batch norm.
        dz: ptr "real*",
        images: i32,
        batch: i32,
    }
    /// Arguments of `remix_step`.
    StepArgs {
        params: ptr "float*",
        grads: ptr "float*",
        velocity: ptr "float*",
        segments: ptr "const Segment*",
        /// Learning rate, momentum, weight decay, and 1 for Nesterov's momentum.
        rates: ptr "const float*",
        /// The number of segments.
        count: i32,
        /// 0 to only lay the weights out, without a step of SGD.
        moves: i32,
    }
    /// Arguments of `remix_fold`, which computes scale and shift of each batch norm from its running
    /// statistics, one block per layer.
    FoldArgs {
        norms: ptr "const Norm*",
        channels: ptr "const int*",
    }
}

/// Declares constants, and a function that writes their declarations for the kernels.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: i32 = $value;)*

        fn declare_numbers(text: &mut String) {
            $(*text += &format!("constexpr int {} = {};\n", stringify!($name), $name);)*
        }
    };
}

numbers! {
    /// Kind of a [`Source`]: the values themselves.
    PLAIN = 0;
    /// Kind of a [`Source`]: relu(y·scale + shift).
    NORMED = 1;
    /// Kind of a [`Source`]: like [`NORMED`], with values of the same size added before the ReLU.
    IDENTITY = 2;
    /// Kind of a [`Source`]: like [`NORMED`], with every second pixel of values of twice the size added
    /// before the ReLU, and C/4 zero channels on both sides.
    PADDED = 3;
    /// Residual of [`BackwardArgs`]: none.
    NO_RESIDUAL = 0;
    /// Residual of [`BackwardArgs`]: what is in `dz` already.
    IN_PLACE = 1;
    /// Residual of [`BackwardArgs`]: the gradient of a block's output through the shortcut [`PADDED`].
    THROUGH_PADDED = 2;
    /// Number of copies of the sums of a batch norm, to which the blocks add their parts in turn.
    COPIES = 4;
}

/// Returns the declarations for the source of the kernels: types, constants and structs. Sizes of tiles are
/// templates that take the number of channels, which must be 16, 32 or 64.
pub fn declarations() -> String {
    let mut text = String::from(
        "typedef unsigned int u32;\ntypedef unsigned long long u64;\ntypedef unsigned short u16;\ntypedef unsigned char u8;\n\
         #if REMIX_BF16\nstruct alignas(2) real {\n    u16 bits;\n};\n#else\ntypedef float real;\n#endif\n",
    );
    for (name, number) in [("THREADS", THREADS), ("SCRATCH", SCRATCH)] {
        text += &format!("constexpr int {name} = {number};\n");
    }
    // A size for any other number of channels refers to this incomplete type, which is a compile error.
    text += "template <int C> struct NoSizes;\n";
    for (name, size) in SIZES {
        text += &format!("template <int C> constexpr int {name} = NoSizes<C>::VALUE;\n");
        for channels in [16, 32, 64] {
            text += &format!("template <> constexpr int {name}<{channels}> = {};\n", size(channels));
        }
    }
    for (name, number) in [("EPS", EPS), ("MOMENTUM", MOMENTUM)] {
        text += &format!("constexpr double {name} = {number:?};\n");
    }
    text += &format!("constexpr float COSINE_SCALE = {SCALE:?}f;\n");
    declare_numbers(&mut text);
    declare_structs(&mut text);
    text
}
