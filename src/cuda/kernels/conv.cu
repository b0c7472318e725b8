// 3×3 convolutions (padding 1, stride 1 or 2) with what stands before and behind them. A block makes its input in shared memory, with a
// halo of zeros, multiplies it with the weights as one (pixels, 9·CK) × (9·CK, CN) matrix product, and finishes the result in vectors of
// eight channels.
//
// Template parameters: CK channels in (of the product), CN channels out, S stride.

template <int CN>
constexpr int WIDE = CN / 16;  // warps side by side, of 16 channels each
template <int CN>
constexpr int WARP_TILES = CN == 16 ? 4 : 2;  // tiles of 16 pixels that a warp multiplies
template <int CN>
constexpr int PIXELS = WARPS / WIDE<CN> * WARP_TILES<CN> * 16;  // pixels of a block's tile at most

// Where the input of a convolution comes from.
struct Source {
    const real* y;         // values as they are (kind 0), or the raw output of the convolution before
    const float* affine;   // (2, C): scale and shift in inference; in training they come from the sums
    const real* shortcut;  // kind 2: (N, H, W, C); kind 3: (N, 2H, 2W, C/2), every second pixel, C/4 zero channels on both sides
    real* store;           // receives the values, if any
    int kind;              // 0 as they are; 1 relu(y·scale + shift); 2, 3 with a shortcut before the ReLU
    int height, width, unused;
};

// x / y for small numbers, with 1 / y.
__device__ __forceinline__ int divide(int x, float inverse) { return (int)((x + 0.5f) * inverse); }

// Loads that a thread has under way: a tile's values are fetched this many at a time before the first is stored to shared memory. Enough for a
// whole tile of CIFAR's images.
constexpr int FLIGHT = 3;

// A tile in shared memory is (rows, width + 2, C + PAD) with a column of zeros on both sides. Its rows are contiguous in memory, so item `at`,
// eight channels of a pixel, is the one `8 · at` values behind the first.

// The columns of zeros.
template <int C>
__device__ void clear_sides(int rows, int cols, real* tile) {
    constexpr int GROUPS = C / 8;
    const float zeros[8] = {};
    for (int i = threadIdx.x; i < 2 * GROUPS * rows; i += THREADS) {
        const int row = i / (2 * GROUPS), side = i / GROUPS % 2, g = i % GROUPS;
        store8(tile + (row * cols + side * (cols - 1)) * (C + PAD) + g * 8, zeros);
    }
}

// Rows row0 … row0 + rows of an image's input, zeros outside of it; rows from `from` to `to` are also stored.
// CS values a pixel are stored outside: 4 for images (three and a zero), else CK. `prepare` makes `affine` (2, CK) while the first loads are
// under way.
template <int CK, int CS, class Prepare>
__device__ void fill_input(const Source& s, int image, int row0, int rows, int from, int to, real* tile, const float* affine, Prepare prepare) {
    constexpr int GROUPS = CK / 8;
    const int g = threadIdx.x % GROUPS, line = s.width * GROUPS, all = rows * line;
    const int first = max(-row0, 0) * line, last = min(rows, s.height - row0) * line;
    const int store_first = (from - row0) * line, store_last = (to - row0) * line;
    const float inverse = 1.0f / s.width;
    const long long base = ((long long)image * s.height + row0) * s.width;
    const bool shortcut = s.kind == 2 || (s.kind == 3 && g >= GROUPS / 4 && g < GROUPS - GROUPS / 4);
    float scale[8], shift[8];
    for (int start = 0; start < all; start += FLIGHT * THREADS) {
        Eight values[FLIGHT], more[FLIGHT];
#pragma unroll
        for (int i = 0; i < FLIGHT; i++) {
            const int at = start + i * THREADS + threadIdx.x;
            const bool inside = at >= first && at < last;
            values[i] = {}, more[i] = {};
            if (CS != CK) {
                if (inside && g == 0) values[i] = fetch4(s.y + (base + at / GROUPS) * CS);
                continue;
            }
            if (inside) values[i] = fetch8(s.y + base * CK + at * 8);
            if (inside && s.kind == 2) more[i] = fetch8(s.shortcut + base * CK + at * 8);
        }
        if (s.kind == 3) {
#pragma unroll
            for (int i = 0; i < FLIGHT; i++) {
                const int at = start + i * THREADS + threadIdx.x, pos = at / GROUPS, row = divide(pos, inverse), col = pos - row * s.width;
                if (!shortcut || at < first || at >= last) continue;
                const size_t big = ((size_t)image * 2 * s.height + 2 * (row0 + row)) * 2 * s.width + 2 * col;
                more[i] = fetch8(s.shortcut + big * (CK / 2) + (g - GROUPS / 4) * 8);
            }
        }
        if (start == 0) {
            clear_sides<CK>(rows, s.width + 2, tile);
            if (CS == CK) {
                prepare();
                load8(affine + g * 8, scale);
                load8(affine + CK + g * 8, shift);
            }
        }
#pragma unroll
        for (int i = 0; i < FLIGHT; i++) {
            const int at = start + i * THREADS + threadIdx.x, pos = at / GROUPS;
            if (at >= all) break;
            float v[8];
            expand(values[i], v);
            if (CS == CK && s.kind != 0) {
                const bool inside = at >= first && at < last;
                float x[8];
                expand(more[i], x);
                // Zeros outside stay zeros.
                for (int j = 0; j < 8; j++) v[j] = inside ? relu(v[j] * scale[j] + shift[j] + x[j]) : 0;
            }
            if (CS == CK && s.store && at >= store_first && at < store_last) put8(s.store + base * CK + at * 8, v);
            store8(tile + (pos + 2 * divide(pos, inverse) + 1) * (CK + PAD) + g * 8, v);
        }
    }
}

// Starts to copy the same from where it was stored, without a change.
template <int CK>
__device__ void copy_input(const real* x, int height, int width, int image, int row0, int rows, real* tile) {
    constexpr int GROUPS = CK / 8;
    const int g = threadIdx.x % GROUPS, line = width * GROUPS, all = rows * line;
    const int first = max(-row0, 0) * line, last = min(rows, height - row0) * line;
    const float inverse = 1.0f / width;
    const real* from = x + ((long long)image * height + row0) * width * CK;
    clear_sides<CK>(rows, width + 2, tile);
#pragma unroll 4
    for (int at = threadIdx.x; at < all; at += THREADS) {
        const bool inside = at >= first && at < last;
        const int pos = at / GROUPS;
        copy8(tile + (pos + 2 * divide(pos, inverse) + 1) * (CK + PAD) + g * 8, inside ? from + at * 8 : x, inside);
    }
}

// The gradient of a raw output: coef[0]·dz + coef[1]·y + coef[2].
struct Gradient {
    const real* dz;
    const real* y;
    int height, width;
};

// Values of some rows of a gradient on their way, W of its C channels from `channel` on: TURNS items a thread, from `start` on.
template <int C, int W, int TURNS>
struct GradientRows {
    static constexpr int GROUPS = W / 8;
    Eight dz[TURNS], y[TURNS];

    __device__ __forceinline__ void fetch(const Gradient& s, int channel, int image, int row0, int rows, int start) {
        const int g = threadIdx.x % GROUPS, line = s.width * GROUPS;
        const int first = max(-row0, 0) * line, last = min(rows, s.height - row0) * line;
        const long long base = ((long long)image * s.height + row0) * s.width * C + channel + g * 8;
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int at = start + i * THREADS + threadIdx.x;
            dz[i] = {}, y[i] = {};
            if (at < first || at >= last) continue;
            dz[i] = fetch8(s.dz + base + at / GROUPS * C);
            y[i] = fetch8(s.y + base + at / GROUPS * C);
        }
    }

    // Gives each item, zero outside the image, and its pixel's place among the rows to `put`.
    template <class Put>
    __device__ __forceinline__ void finish(const Gradient& s, const float* coef, int channel, int row0, int rows, int start, Put put) {
        const int g = threadIdx.x % GROUPS, line = s.width * GROUPS, all = rows * line;
        const int first = max(-row0, 0) * line, last = min(rows, s.height - row0) * line;
        float k[3][8];
        for (int j = 0; j < 3; j++) load8(coef + j * C + channel + g * 8, k[j]);
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int at = start + i * THREADS + threadIdx.x;
            if (at >= all) break;
            const bool inside = at >= first && at < last;
            float d[8], v[8];
            expand(dz[i], d);
            expand(y[i], v);
            for (int j = 0; j < 8; j++) v[j] = inside ? k[0][j] * d[j] + k[1][j] * v[j] + k[2][j] : 0;
            put(at / GROUPS, g, v);
        }
    }
};

// Rows row0 … row0 + rows of a gradient, spread by D: pixel (r, c) goes to (D·r, D·c), zeros between; `width` pixels a row, with zeros on both
// sides. `prepare` makes `coef`.
template <int C, int D, class Prepare>
__device__ void fill_gradient(const Gradient& s, const float* coef, int image, int row0, int rows, int width, real* tile, Prepare prepare) {
    const int cols = width + 2;
    // Of the gradient's own rows, these.
    const int from = D == 1 ? row0 : (row0 + 1) / 2, count = D == 1 ? rows : (row0 + rows + 1) / 2 - from;
    const float inverse = 1.0f / s.width;
    for (int start = 0; start < count * s.width * (C / 8); start += FLIGHT * THREADS) {
        GradientRows<C, C, FLIGHT> part;
        part.fetch(s, 0, image, from, count, start);
        if (start == 0) {
            if (D == 1) {
                clear_sides<C>(rows, cols, tile);
            } else {
                const float zeros[8] = {};
                for (int i = threadIdx.x; i < rows * cols * (C / 8); i += THREADS) store8(tile + i / (C / 8) * (C + PAD) + i % (C / 8) * 8, zeros);
            }
            prepare();
        }
        part.finish(s, coef, 0, from, count, start, [&](int pos, int g, const float v[8]) {
            const int row = divide(pos, inverse), col = pos - row * s.width;
            const int place = D == 1 ? pos + 2 * row + 1 : (D * (from + row) - row0) * cols + D * col + 1;
            store8(tile + place * (C + PAD) + g * 8, v);
        });
    }
}

// Weights in bf16 are staged in shared memory; in f32 they would not fit.
template <int CK, int CN>
constexpr int STAGED = REMIX_BF16 ? 9 * CK * CN : 0;

// Starts to copy the weights of a matrix product; returns where it reads them once `copied` and a barrier have been passed.
template <int CK, int CN>
__device__ const real* stage(const real* weight, real* shared) {
    if (!REMIX_BF16) return weight;
#pragma unroll 3
    for (int i = threadIdx.x * 8; i < 9 * CK * CN; i += THREADS * 8) copy16(shared + i, weight + i);
    return shared;
}

// The matrix product of a tile with a halo (cols pixels wide) with weights in `place` order; result (pixels, CN + 4) in `out`, which may
// be the same memory: all threads have read the tile before any writes.
template <int CK, int CN, int S>
__device__ void multiply(const real* tile, int cols, int out_width, int pixels, const real* weight, float* out) {
    constexpr int TILES = WARP_TILES<CN>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = warp / WIDE<CN> * TILES * 16, column = warp % WIDE<CN> * 16;
    float acc[TILES][2][4] = {};
    const float inverse = 1.0f / out_width;
    auto at = [&](int p) {
        p = p < pixels ? p : pixels - 1;
        const int r = divide(p, inverse);
        return tile + (r * S * cols + (p - r * out_width) * S) * (CK + PAD);
    };
    if (first < pixels) {
        const real* block = weight + column / 8 * 128;
#if REMIX_BF16
        const real* a[TILES];
        for (int m = 0; m < TILES; m++) a[m] = at(first + m * 16 + lane % 16) + lane / 16 * 8;
#pragma unroll 1
        for (int line = 0; line < 3; line++) {
#pragma unroll
            for (int side = 0; side < 3; side++) {
                const int shift = (line * cols + side) * (CK + PAD);
#pragma unroll
                for (int k = 0; k < CK; k += 16) {
                    u32 f[TILES][4];
                    uint2 b[2];
                    for (int n = 0; n < 2; n++) b[n] = *reinterpret_cast<const uint2*>(block + n * 128 + lane * 4);
                    for (int m = 0; m < TILES; m++) load_matrices(f[m], a[m] + shift + k);
                    for (int m = 0; m < TILES; m++) {
                        for (int n = 0; n < 2; n++) multiply_add(acc[m][n], f[m], b[n].x, b[n].y);
                    }
                    block += CN / 8 * 128;
                }
            }
        }
#else
        const real* a[2 * TILES];
        for (int m = 0; m < 2 * TILES; m++) a[m] = at(first + m * 8 + lane / 4);
#pragma unroll 1
        for (int tap = 0; tap < 9; tap++) {
            const int shift = (tap / 3 * cols + tap % 3) * (CK + PAD);
#pragma unroll 1
            for (int k = 0; k < CK; k += 16) {
#pragma unroll
                for (int i = 0; i < 16; i += 4) {
                    float v[2 * TILES][4];
                    for (int m = 0; m < 2 * TILES; m++) load4(a[m] + shift + k + i, v[m]);
                    for (int n = 0; n < 2; n++) {
                        for (int j = 0; j < 4; j++) {
                            const float2 b = *reinterpret_cast<const float2*>(block + n * 128 + (i + j) * 8 + lane % 4 * 2);
                            for (int m = 0; m < 2 * TILES; m++) {
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
    for (int m = 0; m < TILES; m++) {
        for (int n = 0; n < 2; n++) {
            float* to = out + (first + m * 16 + lane / 4) * (CN + 4) + column + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(to) = float2{acc[m][n][0], acc[m][n][1]};
            *reinterpret_cast<float2*>(to + 8 * (CN + 4)) = float2{acc[m][n][2], acc[m][n][3]};
        }
    }
    __syncthreads();
}

struct ForwardArgs {
    Source source;
    Norm before;         // the source's batch norm
    const real* weight;  // in `place` order, k = tap·CK + channel
    real* out;           // (N, H', W', CN)
    u64* sums;           // of the output
    int images, rows;    // rows of the output a block
    int train, unused;
};

template <int CK, int CS, int CN, int S>
__device__ void conv_forward(const ForwardArgs& a) {
    DYNAMIC_SHARED(memory);
    alignas(16) __shared__ float affine[2 * CK];
    const Source& s = a.source;
    const int height = (s.height - 1) / S + 1, width = (s.width - 1) / S + 1, tiles = divide(height + a.rows - 1, 1.0f / a.rows);
    const int image = divide(blockIdx.x, 1.0f / tiles), row0 = (blockIdx.x - image * tiles) * a.rows;
    const int rows = min(a.rows, height - row0), pixels = rows * width;
    const double per = 1.0 / ((double)a.images * s.height * s.width);
    real* tile = reinterpret_cast<real*>(memory) + STAGED<CK, CN>;
    const real* weight = stage<CK, CN>(a.weight, reinterpret_cast<real*>(memory));
    wait_for_previous_kernel();
    fill_input<CK, CS>(s, image, row0 * S - 1, (rows - 1) * S + 3, row0 * S, min((row0 + rows) * S, s.height), tile, affine, [&] {
        if (a.train) {
            norm_forward<CS == CK ? CK : 16>(a.before, per, blockIdx.x == 0, affine);
        } else {
            if (threadIdx.x < 2 * CK) affine[threadIdx.x] = s.affine[threadIdx.x];
            __syncthreads();
        }
    });
    copied();
    __syncthreads();
    float* result = reinterpret_cast<float*>(tile);
    multiply<CK, CN, S>(tile, s.width + 2, width, pixels, weight, result);

    constexpr int GROUPS = CN / 8;
    const int g = threadIdx.x % GROUPS;
    float sum[8] = {}, square[8] = {};
    real* out = a.out + ((size_t)image * height + row0) * width * CN + g * 8;
#pragma unroll 2
    for (int p = threadIdx.x / GROUPS; p < pixels; p += THREADS / GROUPS) {
        float v[8];
        load8(result + p * (CN + 4) + g * 8, v);
        for (int i = 0; i < 8; i++) {
            sum[i] += v[i];
            square[i] += v[i] * v[i];
        }
        put8(out + (size_t)p * CN, v);
    }
    if (!a.train) return;
    __syncthreads();
    add_threads<CN>(sum, square, result, a.sums);
}

struct BackwardArgs {
    const real* x;       // the convolution's input, as forward stored it
    Gradient gradient;   // of its raw output
    Norm norm;           // the batch norm behind it
    const real* weight;  // in `place` order, k = (8 − tap)·C_out + channel out, n = channel in
    // dz = mask · (dx + residual), the gradient behind the batch norm before; the mask is that of the ReLU that made x.
    real* dz;
    const real* half;      // residual 2: (N, H/2, W/2, 2·C_in) to every second pixel, its middle channels
    const real* y_before;  // raw output before that batch norm, for the sums
    u64* sums_before;
    float* weight_parts;  // (groups, 9, C_in, C_out)
    int height, width;    // of x
    int images;
    int rows;      // rows of the input that a block of the input gradient takes
    int residual;  // 0 none, 1 what dz holds, 2 half
    int out_rows;  // rows of the output that are a tile of the weight gradient
    int groups;    // of tiles
    int weight_blocks;
};

__device__ __forceinline__ double per_value(const BackwardArgs& a) {
    return 1.0 / ((double)a.images * a.gradient.height * a.gradient.width);
}

template <int CI, int CO, int S>
__device__ void input_gradient(const BackwardArgs& a, int block, float* coef) {
    DYNAMIC_SHARED(memory);
    const int height = a.height, width = a.width, tiles = divide(height + a.rows - 1, 1.0f / a.rows);
    const int image = divide(block, 1.0f / tiles), row0 = (block - image * tiles) * a.rows;
    const int rows = min(a.rows, height - row0), pixels = rows * width;
    const double per = per_value(a);
    real* tile = reinterpret_cast<real*>(memory) + STAGED<CO, CI>;
    const real* weight = stage<CO, CI>(a.weight, reinterpret_cast<real*>(memory));

    // What the result is finished with is on its way during the product.
    constexpr int GROUPS = CI / 8, TURNS = PIXELS<CI> * GROUPS / THREADS;
    const int g = threadIdx.x % GROUPS, first = threadIdx.x / GROUPS;
    const size_t start = ((size_t)image * height + row0) * width * CI + g * 8;
    const float inverse = 1.0f / width;
    Eight values[TURNS], before[TURNS], others[TURNS];
    wait_for_previous_kernel();
    fill_gradient<CO, S>(a.gradient, coef, image, row0 - 1, rows + 2, width, tile, [&] { norm_backward<CO>(a.norm, per, false, coef); });
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int p = first + i * (THREADS / GROUPS), r = divide(p, inverse), row = row0 + r, col = p - r * width;
        values[i] = {}, before[i] = {}, others[i] = {};
        if (p >= pixels) break;
        const size_t at = start + (size_t)p * CI;
        values[i] = fetch8(a.x + at);
        before[i] = fetch8(a.y_before + at);
        if (a.residual == 1) others[i] = fetch8(a.dz + at);
        if (a.residual == 2 && row % 2 == 0 && col % 2 == 0) {
            const size_t pixel = ((size_t)image * (height / 2) + row / 2) * (width / 2) + col / 2;
            others[i] = fetch8(a.half + pixel * 2 * CI + CI / 2 + g * 8);
        }
    }
    copied();
    __syncthreads();
    float* result = reinterpret_cast<float*>(tile);
    multiply<CO, CI, 1>(tile, width + 2, width, pixels, weight, result);

    float sum[8] = {}, product[8] = {};
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int p = first + i * (THREADS / GROUPS);
        if (p >= pixels) break;
        float v[8], x[8], y[8], more[8];
        load8(result + p * (CI + 4) + g * 8, v);
        expand(values[i], x);
        expand(before[i], y);
        expand(others[i], more);
        for (int j = 0; j < 8; j++) {
            v[j] = x[j] > 0 ? v[j] + more[j] : 0;
            sum[j] += v[j];
            product[j] += v[j] * y[j];
        }
        put8(a.dz + start + (size_t)p * CI, v);
    }
    __syncthreads();
    add_threads<CI>(sum, product, result, a.sums_before);
}

// Pixels of a tile of the weight gradient at most, for channels out.
template <int CO>
constexpr int WEIGHT_PIXELS = 4096 / CO;

// A block has 16 channels out, a warp 16 of the channels in, of all nine taps; warps that have the same ones share the pixels. What the next
// tile needs is on its way while one is multiplied.
template <int CI, int CS, int CO, int S>
__device__ void weight_gradient(const BackwardArgs& a, float* coef) {
    constexpr int JOBS = CI / 16, SPLITS = WARPS / JOBS, PARTS = CO / 16, W = 16, TURNS = WEIGHT_PIXELS<CO> * (W / 8) / THREADS + (WEIGHT_PIXELS<CO> * (W / 8) < THREADS);
    DYNAMIC_SHARED(memory);
    const int height = a.gradient.height, width = a.gradient.width, cols = a.width + 2;
    const int tiles = divide(height + a.out_rows - 1, 1.0f / a.out_rows), all = tiles * a.images;
    const float per_tile = 1.0f / tiles;
    const int group = blockIdx.x / PARTS, co = blockIdx.x % PARTS * W, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int ci = warp / SPLITS * 16, split = warp % SPLITS;
    const double per = per_value(a);
    const int size = ((a.out_rows - 1) * S + 3) * cols * (CI + PAD);
    real* inputs = reinterpret_cast<real*>(memory);
    real* grad = inputs + 2 * size;
    // Where the input of a pixel's first tap is.
    int* places = reinterpret_cast<int*>(grad + WEIGHT_PIXELS<CO> * (W + PAD));
    const float inverse = 1.0f / width;
    for (int p = threadIdx.x; p < WEIGHT_PIXELS<CO>; p += THREADS) {
        const int r = divide(p, inverse);
        places[p] = p < a.out_rows * width ? (r * S * cols + (p - r * width) * S) * (CI + PAD) : 0;
    }
    auto copy = [&](int t) {
        const int image = divide(t, per_tile), row0 = (t - image * tiles) * a.out_rows, rows = (min(a.out_rows, height - row0) - 1) * S + 3;
        real* to = inputs + t % 2 * size;
        if constexpr (CS == CI) {
            copy_input<CI>(a.x, a.height, a.width, image, row0 * S - 1, rows, to);
        } else {
            const Source source = {a.x, nullptr, nullptr, nullptr, 0, a.height, a.width, 0};
            fill_input<CI, CS>(source, image, row0 * S - 1, rows, 0, 0, to, nullptr, [] {});
        }
    };
    GradientRows<CO, W, TURNS> next;
    auto fetch = [&](int t) {
        const int image = divide(t, per_tile), row0 = (t - image * tiles) * a.out_rows;
        next.fetch(a.gradient, co, image, row0, min(a.out_rows, height - row0), 0);
    };
    float acc[9][2][4] = {};
    // The first tiles of `all` that are left over go to the first groups.
    const int each = divide(all, 1.0f / a.groups), extra = all - each * a.groups;
    const int from = group * each + min(group, extra), to = from + each + (group < extra);
    wait_for_previous_kernel();
    copy(from);
    fetch(from);
    norm_backward<CO>(a.norm, per, blockIdx.x == 0, coef);
    for (int t = from; t < to; t++) {
        const int row0 = (t - divide(t, per_tile) * tiles) * a.out_rows, rows = min(a.out_rows, height - row0), steps = (rows * width + 15) / 16;
        const real* input = inputs + t % 2 * size;
        // Zeros behind the last row, up to a whole step of 16 pixels.
        next.finish(a.gradient, coef, co, row0, rows, 0, [&](int pos, int g, const float v[8]) { store8(grad + pos * (W + PAD) + g * 8, v); });
        for (int i = rows * width * (W + PAD) + threadIdx.x; i < steps * 16 * (W + PAD); i += THREADS) grad[i] = to_real(0.0f);
        copied();
        __syncthreads();
        if (t + 1 < to) copy(t + 1), fetch(t + 1);
        for (int step = split; step < steps; step += SPLITS) {
#if REMIX_BF16
            const int k = step * 16;
            u32 b[4];
            load_transposed(b, grad + (k + lane % 16) * (W + PAD) + lane / 16 * 8);
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
                const float* b = grad + k * (W + PAD) + lane % 4 * 2;
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
        __syncthreads();
    }
    // The warps of a job lay theirs side by side, and all threads add them, in the order of the splits, a row of taps at a time.
    float* out = a.weight_parts + (size_t)group * 9 * CI * CO;
    float* shared = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int line = 0; line < 3; line++) {
        if (line > 0) __syncthreads();
#pragma unroll
        for (int side = 0; side < 3; side++) {
            for (int n = 0; n < 2; n++) {
                float* at = shared + (side * WARPS + warp) * 256 + n * 128 + lane * 4;
                const float* v = acc[line * 3 + side][n];
                *reinterpret_cast<float4*>(at) = float4{v[0], v[1], v[2], v[3]};
            }
        }
        __syncthreads();
        // Two values of neighbouring channels out a thread.
        for (int i = threadIdx.x; i < 3 * JOBS * 128; i += THREADS) {
            const int column = i % 8, row = i / 8 % 16, job = i / 128 % JOBS, side = i / (128 * JOBS);
            const float* at = shared + (side * WARPS + job * SPLITS) * 256 + column / 4 * 128 + (row % 8 * 4 + column % 4) * 4 + row / 8 * 2;
            float2 sum = {0, 0};
#pragma unroll
            for (int t = 0; t < SPLITS; t++) {
                const float2 v = *reinterpret_cast<const float2*>(at + t * 256);
                sum.x += v.x, sum.y += v.y;
            }
            *reinterpret_cast<float2*>(out + ((line * 3 + side) * CI + job * 16 + row) * CO + co + column * 2) = sum;
        }
    }
}

// Both gradients in one grid, for they read the same and depend on nothing of each other: first the blocks of the weight gradient.
template <int CI, int CS, int CO, int S>
__device__ void conv_backward(const BackwardArgs& a) {
    alignas(16) __shared__ float coef[3 * CO];
    if ((int)blockIdx.x < a.weight_blocks) weight_gradient<CI, CS, CO, S>(a, coef);
    else if constexpr (CS == CI) input_gradient<CI, CO, S>(a, blockIdx.x - a.weight_blocks, coef);
}

#define CONV(NAME, CI, CS, CO, S)                                          \
    KERNEL(forward_##NAME, ForwardArgs, 3, (conv_forward<CI, CS, CO, S>(a)))    \
    KERNEL(backward_##NAME, BackwardArgs, 2, (conv_backward<CI, CS, CO, S>(a)))

CONV(3_16_1, 16, 4, 16, 1)
CONV(16_16_1, 16, 16, 16, 1)
CONV(16_32_2, 16, 16, 32, 2)
CONV(32_32_1, 32, 32, 32, 1)
CONV(32_64_2, 32, 32, 64, 2)
CONV(64_64_1, 64, 64, 64, 1)
