// 3×3 convolutions (padding 1, stride 1 or 2) with what stands before and behind them. A block makes its input in shared memory, with a
// halo of zeros, multiplies it with the weights as one (pixels, 9·CK) × (9·CK, CN) matrix product, and finishes the result in vectors of
// eight channels.
//
// Template parameters: CK channels in (of the product), CN channels out, S stride. A warp computes 32 pixels × 16 channels.

template <int CN>
constexpr int WIDE = CN / 16;  // warps side by side in channels
template <int CN>
constexpr int PIXELS = WARPS / WIDE<CN> * 32;  // pixels of a block's tile at most

// Where the input of a convolution comes from.
struct Source {
    const real* y;         // values as they are (kind 0), or the raw output of the convolution before
    const float* affine;   // (2, C): scale, shift
    const real* shortcut;  // kind 2: (N, H, W, C); kind 3: (N, 2H, 2W, C/2), every second pixel, C/4 zero channels on both sides
    real* store;           // receives the values, if any
    int kind;              // 0 as they are; 1 relu(y·scale + shift); 2, 3 with a shortcut before the ReLU
    int height, width, unused;
};

// Rows row0 … row0 + rows of an image's input with a halo, (rows, width + 2, CK + PAD); rows from `from` to `to` are also stored.
// CS values a pixel are stored outside: 4 for images (three and a zero), else CK.
template <int CK, int CS>
__device__ void fill_input(const Source& s, int image, int row0, int rows, int from, int to, real* tile) {
    constexpr int GROUPS = CK / 8;
    const int g = threadIdx.x % GROUPS, cols = s.width + 2;
    float scale[8], shift[8];
    if (CS == CK && s.kind != 0) {
        for (int i = 0; i < 8; i++) scale[i] = s.affine[g * 8 + i], shift[i] = s.affine[CK + g * 8 + i];
    }
    for (int at = threadIdx.x; at < rows * cols * GROUPS; at += THREADS) {
        const int pos = at / GROUPS, row = row0 + pos / cols, col = pos % cols - 1;
        float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (row >= 0 && row < s.height && col >= 0 && col < s.width) {
            const size_t pixel = ((size_t)image * s.height + row) * s.width + col;
            if (CS != CK) {
                if (g == 0) load4(s.y + pixel * CS, v);
            } else {
                load8(s.y + pixel * CK + g * 8, v);
                if (s.kind != 0) {
                    float x[8] = {0, 0, 0, 0, 0, 0, 0, 0};
                    if (s.kind == 2) load8(s.shortcut + pixel * CK + g * 8, x);
                    if (s.kind == 3 && g >= GROUPS / 4 && g < GROUPS - GROUPS / 4) {
                        const size_t big = ((size_t)image * 2 * s.height + 2 * row) * 2 * s.width + 2 * col;
                        load8(s.shortcut + big * (CK / 2) + (g - GROUPS / 4) * 8, x);
                    }
                    for (int i = 0; i < 8; i++) {
                        const float sum = v[i] * scale[i] + shift[i] + x[i];
                        v[i] = sum < 0 ? 0 : sum;
                    }
                }
                if (s.store && row >= from && row < to) store8(s.store + pixel * CK + g * 8, v);
            }
        }
        store8(tile + pos * (CK + PAD) + g * 8, v);
    }
}

// The gradient of a raw output: coef[0]·dz + coef[1]·y + coef[2].
struct Gradient {
    const real* dz;
    const real* y;
    const float* coef;  // (3, C)
    int height, width;
};

// Rows of an image's gradient into shared memory, with a halo of HALO pixels, spread by D: pixel (r, c) goes to (D·r, D·c), zeros between.
template <int C, int D, int HALO>
__device__ void fill_gradient(const Gradient& s, int image, int row0, int rows, int cols, real* tile) {
    constexpr int GROUPS = C / 8;
    const int g = threadIdx.x % GROUPS;
    float k[3][8];
    for (int j = 0; j < 3; j++) {
        for (int i = 0; i < 8; i++) k[j][i] = s.coef[j * C + g * 8 + i];
    }
    for (int at = threadIdx.x; at < rows * cols * GROUPS; at += THREADS) {
        const int pos = at / GROUPS, row = row0 + pos / cols, col = pos % cols - HALO;
        const bool inside = row >= 0 && row % D == 0 && row / D < s.height && col >= 0 && col % D == 0 && col / D < s.width;
        float v[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        if (inside) {
            const size_t pixel = ((size_t)image * s.height + row / D) * s.width + col / D;
            float dz[8], y[8];
            load8(s.dz + pixel * C + g * 8, dz);
            load8(s.y + pixel * C + g * 8, y);
            for (int i = 0; i < 8; i++) v[i] = k[0][i] * dz[i] + k[1][i] * y[i] + k[2][i];
        }
        store8(tile + pos * (C + PAD) + g * 8, v);
    }
}

// The matrix product of a tile with a halo (cols pixels wide) with weights in `place` order; result (pixels, CN + 4) in `out`, which may
// be the same memory: all threads have read the tile before any writes.
template <int CK, int CN, int S>
__device__ void multiply(const real* tile, int cols, int out_width, int pixels, const real* weight, float* out) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = warp / WIDE<CN> * 32, column = warp % WIDE<CN> * 16;
    float acc[2][2][4] = {};
    auto at = [&](int p) {
        p = p < pixels ? p : pixels - 1;
        return tile + ((p / out_width) * S * cols + p % out_width * S) * (CK + PAD);
    };
    if (first < pixels) {
        const real* block = weight + column / 8 * 128;
#if REMIX_BF16
        const real* a[2];
        for (int m = 0; m < 2; m++) a[m] = at(first + m * 16 + lane % 16) + lane / 16 * 8;
#pragma unroll 1
        for (int tap = 0; tap < 9; tap++) {
            const int shift = (tap / 3 * cols + tap % 3) * (CK + PAD);
#pragma unroll
            for (int k = 0; k < CK; k += 16) {
                u32 f[2][4];
                uint2 b[2];
                for (int n = 0; n < 2; n++) b[n] = *reinterpret_cast<const uint2*>(block + n * 128 + lane * 4);
                for (int m = 0; m < 2; m++) load_matrices(f[m], a[m] + shift + k);
                for (int m = 0; m < 2; m++) {
                    for (int n = 0; n < 2; n++) multiply_add(acc[m][n], f[m], b[n].x, b[n].y);
                }
                block += CN / 8 * 128;
            }
        }
#else
        const real* a[4];
        for (int m = 0; m < 4; m++) a[m] = at(first + m * 8 + lane / 4);
#pragma unroll 1
        for (int tap = 0; tap < 9; tap++) {
            const int shift = (tap / 3 * cols + tap % 3) * (CK + PAD);
#pragma unroll 1
            for (int k = 0; k < CK; k += 16) {
#pragma unroll
                for (int i = 0; i < 16; i += 4) {
                    float v[4][4];
                    for (int m = 0; m < 4; m++) load4(a[m] + shift + k + i, v[m]);
                    for (int n = 0; n < 2; n++) {
                        for (int j = 0; j < 4; j++) {
                            const float2 b = *reinterpret_cast<const float2*>(block + n * 128 + (i + j) * 8 + lane % 4 * 2);
                            for (int m = 0; m < 4; m++) {
                                acc[m / 2][n][m % 2 * 2] += v[m][j] * b.x;
                                acc[m / 2][n][m % 2 * 2 + 1] += v[m][j] * b.y;
                            }
                        }
                    }
                }
                block += CN / 8 * 128;
            }
        }
#endif
    }
    __syncthreads();
    for (int m = 0; m < 2; m++) {
        for (int n = 0; n < 2; n++) {
            float* to = out + (first + m * 16 + lane / 4) * (CN + 4) + column + n * 8 + lane % 4 * 2;
            to[0] = acc[m][n][0], to[1] = acc[m][n][1];
            to[8 * (CN + 4)] = acc[m][n][2], to[8 * (CN + 4) + 1] = acc[m][n][3];
        }
    }
    __syncthreads();
}

struct ForwardArgs {
    Source source;
    const real* weight;  // in `place` order, k = tap·CK + channel
    real* out;           // (N, H', W', CN)
    float* partial;      // (blocks, 2, CN)
    u32* counter;
    Norm norm;
    int images, rows;  // rows of the output a block
    int train, unused;
};

template <int CK, int CS, int CN, int S>
__device__ void conv_forward(const ForwardArgs& a) {
    DYNAMIC_SHARED(memory);
    const Source& s = a.source;
    const int height = (s.height - 1) / S + 1, width = (s.width - 1) / S + 1, tiles = (height + a.rows - 1) / a.rows;
    const int image = blockIdx.x / tiles, row0 = blockIdx.x % tiles * a.rows;
    const int rows = min(a.rows, height - row0), pixels = rows * width;
    real* tile = reinterpret_cast<real*>(memory);
    fill_input<CK, CS>(s, image, row0 * S - 1, (rows - 1) * S + 3, row0 * S, (row0 + rows) * S, tile);
    __syncthreads();
    float* result = reinterpret_cast<float*>(memory);
    multiply<CK, CN, S>(tile, s.width + 2, width, pixels, a.weight, result);

    constexpr int GROUPS = CN / 8;
    const int g = threadIdx.x % GROUPS;
    float sum[8] = {}, square[8] = {};
    real* out = a.out + ((size_t)image * height + row0) * width * CN + g * 8;
    for (int p = threadIdx.x / GROUPS; p < pixels; p += THREADS / GROUPS) {
        float v[8];
        for (int i = 0; i < 8; i++) {
            v[i] = result[p * (CN + 4) + g * 8 + i];
            sum[i] += v[i];
            square[i] += v[i] * v[i];
        }
        store8(out + (size_t)p * CN, v);
    }
    if (!a.train) return;
    __syncthreads();
    add_threads<CN>(sum, square, result, a.partial + (size_t)blockIdx.x * 2 * CN);
    if (last_block(a.counter, gridDim.x)) norm_forward<CN>(a.norm, a.partial, gridDim.x, (double)a.images * height * width);
}

struct BackwardArgs {
    Source source;       // the convolution's input, as forward had it or as it was stored
    Gradient gradient;   // of its raw output
    const real* weight;  // in `place` order, k = (8 − tap)·C_out + channel out, n = channel in
    // dz = mask · (dx + residual), the gradient behind the batch norm before; the mask is that of the source's ReLU.
    real* dz;
    const real* half;      // residual 2: (N, H/2, W/2, 2·C_in) to every second pixel, its middle channels
    const real* y_before;  // raw output before that batch norm, for the sums
    float* partial;        // (input blocks, 2, C_in)
    u32* counter;
    Norm norm;            // the batch norm before
    float* weight_parts;  // (groups, 9, C_in, C_out)
    int images;
    int rows;      // rows of the input that a block of the input gradient takes
    int residual;  // 0 none, 1 what dz holds, 2 half
    int out_rows;  // rows of the output that are a tile of the weight gradient
    int groups;    // of tiles
    int weight_blocks;
};

template <int CI, int CO, int S>
__device__ void input_gradient(const BackwardArgs& a, int block, int blocks) {
    DYNAMIC_SHARED(memory);
    const int height = a.source.height, width = a.source.width, tiles = (height + a.rows - 1) / a.rows;
    const int image = block / tiles, row0 = block % tiles * a.rows;
    const int rows = min(a.rows, height - row0), pixels = rows * width;
    real* tile = reinterpret_cast<real*>(memory);
    fill_gradient<CO, S, 1>(a.gradient, image, row0 - 1, rows + 2, width + 2, tile);
    __syncthreads();
    float* result = reinterpret_cast<float*>(memory);
    multiply<CO, CI, 1>(tile, width + 2, width, pixels, a.weight, result);

    constexpr int GROUPS = CI / 8;
    const int g = threadIdx.x % GROUPS;
    float scale[8], shift[8], sum[8] = {}, product[8] = {};
    if (a.source.kind != 0) {
        for (int i = 0; i < 8; i++) scale[i] = a.source.affine[g * 8 + i], shift[i] = a.source.affine[CI + g * 8 + i];
    }
    for (int p = threadIdx.x / GROUPS; p < pixels; p += THREADS / GROUPS) {
        const int row = row0 + p / width, col = p % width;
        const size_t at = (((size_t)image * height + row) * width + col) * CI + g * 8;
        float v[8], x[8], y[8], more[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        load8(a.source.y + at, x);
        if (a.source.kind != 0) {
            for (int i = 0; i < 8; i++) y[i] = x[i], x[i] = x[i] * scale[i] + shift[i];
        } else {
            load8(a.y_before + at, y);
        }
        if (a.residual == 1) load8(a.dz + at, more);
        if (a.residual == 2 && row % 2 == 0 && col % 2 == 0) {
            const size_t pixel = ((size_t)image * (height / 2) + row / 2) * (width / 2) + col / 2;
            load8(a.half + pixel * 2 * CI + CI / 2 + g * 8, more);
        }
        for (int i = 0; i < 8; i++) {
            v[i] = x[i] > 0 ? result[p * (CI + 4) + g * 8 + i] + more[i] : 0;
            sum[i] += v[i];
            product[i] += v[i] * y[i];
        }
        store8(a.dz + at, v);
    }
    __syncthreads();
    add_threads<CI>(sum, product, result, a.partial + (size_t)block * 2 * CI);
    if (last_block(a.counter, blocks)) norm_backward<CI>(a.norm, a.partial, blocks, (double)a.images * height * width);
}

// A warp has 16 channels in × 16 channels out of all nine taps; warps that have the same ones share the pixels.
template <int CI, int CS, int CO, int S>
__device__ void weight_gradient(const BackwardArgs& a) {
    constexpr int JOBS = CI / 16 * (CO / 16), SPLITS = JOBS < WARPS ? WARPS / JOBS : 1, PARTS = JOBS < WARPS ? 1 : JOBS / WARPS;
    DYNAMIC_SHARED(memory);
    const Source& s = a.source;
    const int height = a.gradient.height, width = a.gradient.width, cols = s.width + 2;
    const int tiles = (height + a.out_rows - 1) / a.out_rows, all = tiles * a.images;
    const int group = blockIdx.x / PARTS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int job = blockIdx.x % PARTS * WARPS + warp / SPLITS, split = warp % SPLITS;
    const int ci = job / (CO / 16) * 16, co = job % (CO / 16) * 16;
    real* input = reinterpret_cast<real*>(memory);
    real* grad = input + ((a.out_rows - 1) * S + 3) * cols * (CI + PAD);
    // Where the input of a pixel's first tap is.
    int* places = reinterpret_cast<int*>(grad + PIXELS<CO> * (CO + PAD));
    for (int p = threadIdx.x; p < PIXELS<CO>; p += THREADS) {
        places[p] = p < a.out_rows * width ? ((p / width) * S * cols + p % width * S) * (CI + PAD) : 0;
    }
    float acc[9][2][4] = {};
    const int from = (int)((long long)all * group / a.groups), to = (int)((long long)all * (group + 1) / a.groups);
    for (int t = from; t < to; t++) {
        const int image = t / tiles, row0 = t % tiles * a.out_rows, rows = min(a.out_rows, height - row0);
        const int steps = (rows * width + 15) / 16;
        __syncthreads();
        fill_input<CI, CS>(s, image, row0 * S - 1, (rows - 1) * S + 3, 0, 0, input);
        // Zeros behind the last row, up to a whole step of 16 pixels.
        fill_gradient<CO, 1, 0>(a.gradient, image, row0, rows, width, grad);
        for (int i = rows * width * (CO + PAD) + threadIdx.x; i < steps * 16 * (CO + PAD); i += THREADS) grad[i] = to_real(0.0f);
        __syncthreads();
        for (int step = split; step < steps; step += SPLITS) {
#if REMIX_BF16
            const int k = step * 16;
            u32 b[4];
            load_transposed(b, grad + (k + lane % 16) * (CO + PAD) + co + lane / 16 * 8);
            const real* at = input + places[k + lane % 8 + lane / 16 * 8] + ci + lane / 8 % 2 * 8;
#pragma unroll
            for (int tap = 0; tap < 9; tap++) {
                u32 f[4];
                load_transposed(f, at + (tap / 3 * cols + tap % 3) * (CI + PAD));
                multiply_add(acc[tap][0], f, b[0], b[1]);
                multiply_add(acc[tap][1], f, b[2], b[3]);
            }
#else
#pragma unroll 1
            for (int k = step * 16; k < step * 16 + 16; k++) {
                const float* b = grad + k * (CO + PAD) + co + lane % 4 * 2;
                const float* at = input + places[k] + ci + lane / 4;
#pragma unroll
                for (int tap = 0; tap < 9; tap++) {
                    const float* f = at + (tap / 3 * cols + tap % 3) * (CI + PAD);
                    for (int n = 0; n < 2; n++) {
                        for (int i = 0; i < 4; i++) acc[tap][n][i] += f[i / 2 * 8] * b[n * 8 + i % 2];
                    }
                }
            }
#endif
        }
    }
    // In the order of the splits.
    float* out = a.weight_parts + (size_t)group * 9 * CI * CO;
    float* shared = reinterpret_cast<float*>(memory);
    for (int turn = 0; turn < SPLITS; turn++) {
        if (SPLITS > 1) __syncthreads();
        if (turn != split) continue;
#pragma unroll
        for (int tap = 0; tap < 9; tap++) {
            for (int n = 0; n < 2; n++) {
                for (int i = 0; i < 4; i++) {
                    const int at = (tap * CI + ci + lane / 4 + i / 2 * 8) * CO + co + n * 8 + lane % 4 * 2 + i % 2;
                    if (SPLITS == 1) out[at] = acc[tap][n][i];
                    else shared[at] = turn == 0 ? acc[tap][n][i] : shared[at] + acc[tap][n][i];
                }
            }
        }
    }
    if (SPLITS > 1) {
        __syncthreads();
        for (int i = threadIdx.x; i < 9 * CI * CO; i += THREADS) out[i] = shared[i];
    }
}

// Both gradients in one grid, for they read the same and depend on nothing of each other: first the blocks of the weight gradient.
template <int CI, int CS, int CO, int S>
__device__ void conv_backward(const BackwardArgs& a) {
    if ((int)blockIdx.x < a.weight_blocks) weight_gradient<CI, CS, CO, S>(a);
    else if constexpr (CS == CI) input_gradient<CI, CO, S>(a, blockIdx.x - a.weight_blocks, gridDim.x - a.weight_blocks);
}

#define CONV(NAME, CI, CS, CO, S)                                          \
    KERNEL(forward_##NAME, ForwardArgs, (conv_forward<CI, CS, CO, S>(a)))    \
    KERNEL(backward_##NAME, BackwardArgs, (conv_backward<CI, CS, CO, S>(a)))

CONV(3_16_1, 16, 4, 16, 1)
CONV(16_16_1, 16, 16, 16, 1)
CONV(16_32_2, 16, 16, 32, 2)
CONV(32_32_1, 32, 32, 32, 1)
CONV(32_64_2, 32, 32, 64, 2)
CONV(64_64_1, 64, 64, 64, 1)
