// 3×3 convolutions (padding 1, stride 1 or 2), fused with the operations before and after them. A block
// computes its input in shared memory, with a halo of zeros, multiplies it by the weights as one (pixels,
// 9·CK) × (9·CK, CN) matrix product, and completes the result in vectors of eight channels.
//
// Template parameters: CK is the number of channels in (of the product), CN that of channels out, S the
// stride. The sizes of tiles are declared by tiles.rs.

// Returns x / y for small numbers, given 1 / y.
__device__ __forceinline__ int divide(int x, float inverse) { return (int)((x + 0.5f) * inverse); }

// The number of loads that a thread has in flight: so many values of a tile are fetched before the first is
// stored to shared memory. It is enough for a whole tile of CIFAR's images.
constexpr int FLIGHT = 3;

// A tile in shared memory is (rows, width + 2, C + PAD) with a column of zeros on both sides. In global
// memory its rows are contiguous, so item `at`, which is eight channels of a pixel, begins `8 · at` values
// after the first.

// Writes the columns of zeros.
template <int C>
__device__ void clear_sides(int rows, int cols, real* tile) {
    constexpr int GROUPS = C / 8;
    const float zeros[8] = {};
    for (int i = threadIdx.x; i < 2 * GROUPS * rows; i += THREADS) {
        const int row = i / (2 * GROUPS), side = i / GROUPS % 2, g = i % GROUPS;
        store8(tile + (row * cols + side * (cols - 1)) * (C + PAD) + g * 8, zeros);
    }
}

// Writes rows row0 … row0 + rows of an image's input to a tile, with zeros outside the image; rows from
// `from` to `to` are also stored to global memory. There, a pixel has CS values: 4 for images (three and a
// zero), otherwise CK. `prepare` computes `affine` (2, CK) while the first loads are in flight.
template <int CK, int CS, class Prepare>
__device__ void fill_input(const Source& s, int image, int row0, int rows, int from, int to, real* tile, const float* affine, Prepare prepare) {
    constexpr int GROUPS = CK / 8;
    const int g = threadIdx.x % GROUPS, line = s.width * GROUPS, all = rows * line;
    const int first = max(-row0, 0) * line, last = min(rows, s.height - row0) * line;
    const int store_first = (from - row0) * line, store_last = (to - row0) * line;
    const float inverse = 1.0f / s.width;
    const long long base = ((long long)image * s.height + row0) * s.width;
    const bool shortcut = s.kind == IDENTITY || (s.kind == PADDED && g >= GROUPS / 4 && g < GROUPS - GROUPS / 4);
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
            if (inside && s.kind == IDENTITY) more[i] = fetch8(s.shortcut + base * CK + at * 8);
        }
        if (s.kind == PADDED) {
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
            if (CS == CK && s.kind != PLAIN) {
                const bool inside = at >= first && at < last;
                float x[8];
                expand(more[i], x);
                // Zeros outside the image must stay zeros.
                for (int j = 0; j < 8; j++) v[j] = inside ? relu(v[j] * scale[j] + shift[j] + x[j]) : 0;
            }
            if (CS == CK && s.store && at >= store_first && at < store_last) put8(s.store + base * CK + at * 8, v);
            store8(tile + (pos + 2 * divide(pos, inverse) + 1) * (CK + PAD) + g * 8, v);
        }
    }
}

// Starts to copy the same rows from where the input was stored, unchanged.
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

// Writes rows row0 … row0 + rows of a gradient to a tile, spread by D: pixel (r, c) goes to (D·r, D·c), with
// zeros in between; a row of the tile is `width` pixels, with zeros on both sides. y was written before the
// previous kernel, so it is fetched first. Then `wait` waits for the previous kernel, and `prepare` computes
// `coef` while dz is in flight.
template <int C, int D, class Wait, class Prepare>
__device__ void fill_gradient(const Gradient& s, const float* coef, int image, int row0, int rows, int width, real* tile, Wait wait,
                              Prepare prepare) {
    constexpr int GROUPS = C / 8, TURNS = FLIGHT;
    // The gradient's own rows that this tile needs.
    const int from = D == 1 ? row0 : (row0 + 1) / 2, count = D == 1 ? rows : (row0 + rows + 1) / 2 - from;
    const int g = threadIdx.x % GROUPS, line = s.width * GROUPS, all = count * line, cols = width + 2;
    const int first = max(-from, 0) * line, last = min(count, s.height - from) * line;
    const long long base = ((long long)image * s.height + from) * s.width * C;
    const float inverse = 1.0f / s.width;
    float k[3][8];
    for (int start = 0; start < all; start += TURNS * THREADS) {
        Eight dz[TURNS], y[TURNS];
        auto fetch = [&](Eight* to, const real* values) {
#pragma unroll
            for (int i = 0; i < TURNS; i++) {
                const int at = start + i * THREADS + threadIdx.x;
                to[i] = {};
                if (at >= first && at < last) to[i] = peek8(values + base + at * 8);
            }
        };
        fetch(y, s.y);
        if (start == 0) {
            if (D == 1) {
                clear_sides<C>(rows, cols, tile);
            } else {
                const float zeros[8] = {};
                for (int i = threadIdx.x; i < rows * cols * GROUPS; i += THREADS) store8(tile + i / GROUPS * (C + PAD) + i % GROUPS * 8, zeros);
            }
            wait();
        }
        fetch(dz, s.dz);
        if (start == 0) {
            prepare();
            for (int j = 0; j < 3; j++) load8(coef + j * C + g * 8, k[j]);
        }
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            const int at = start + i * THREADS + threadIdx.x, pos = at / GROUPS, row = divide(pos, inverse), col = pos - row * s.width;
            if (at >= all) break;
            const int pixel = D == 1 ? pos + 2 * row + 1 : (D * (from + row) - row0) * cols + D * col + 1;
            float d[8], v[8];
            expand(dz[i], d);
            expand(y[i], v);
            for (int j = 0; j < 8; j++) v[j] = at >= first && at < last ? k[0][j] * d[j] + k[1][j] * v[j] + k[2][j] : 0;
            store8(tile + pixel * (C + PAD) + g * 8, v);
        }
    }
}

// Weights in bf16 are staged in shared memory; in f32 they would not fit.
template <int CK, int CN>
constexpr int STAGED = REMIX_BF16 ? 9 * CK * CN : 0;

// Starts to copy the weights of a matrix product to shared memory. Returns the address from which the product
// reads them after `copied` and a barrier.
template <int CK, int CN>
__device__ const real* stage(const real* weight, real* shared) {
    if (!REMIX_BF16) return weight;
#pragma unroll 3
    for (int i = threadIdx.x * 8; i < 9 * CK * CN; i += THREADS * 8) copy16(shared + i, weight + i);
    return shared;
}

// Multiplies a tile with a halo (`cols` pixels wide) by weights in `weight_index` order. The result (pixels,
// CN + 4) is written to `out`, which may be the same memory as the tile: all threads have read the tile
// before any thread writes.
template <int CK, int CN, int S, int TILES>
__device__ void multiply(const real* tile, int cols, int out_width, int pixels, const real* weight, float* out) {
    // Warps side by side, of which each multiplies TILES tiles of 16 pixels by 16 channels.
    constexpr int WIDE = CN / 16;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first = warp / WIDE * TILES * 16, column = warp % WIDE * 16;
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
        if (first + m * 16 >= pixels) break;
        for (int n = 0; n < 2; n++) {
            float* to = out + (first + m * 16 + lane / 4) * (CN + 4) + column + n * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(to) = float2{acc[m][n][0], acc[m][n][1]};
            *reinterpret_cast<float2*>(to + 8 * (CN + 4)) = float2{acc[m][n][2], acc[m][n][3]};
        }
    }
    __syncthreads();
}

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
    Normalizer<CK> norm;
    const bool norms = CS == CK && a.train && s.kind != PLAIN;
    if (norms) norm.fetch(a.before, blockIdx.x == 0 ? a.before.running : nullptr);
    wait_for_previous_kernel();
    if (norms) norm.fetch_sums(a.before.sums);
    fill_input<CK, CS>(s, image, row0 * S - 1, (rows - 1) * S + 3, row0 * S, min((row0 + rows) * S, s.height), tile, affine, [&] {
        if (norms) {
            norm.forward(a.before, per, blockIdx.x == 0, affine);
        } else {
            if (threadIdx.x < 2 * CK) affine[threadIdx.x] = s.kind == PLAIN ? 0 : s.affine[threadIdx.x];
            __syncthreads();
        }
    });
    copied();
    __syncthreads();
    float* result = reinterpret_cast<float*>(tile);
    multiply<CK, CN, S, OUT_TILES<CN>>(tile, s.width + 2, width, pixels, weight, result);
    launch_next_kernel();

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

// Waits for the previous kernel, which computed the sums and, if it is the head, the statistics.
template <int C>
__device__ __forceinline__ void wait_for_sums(const BackwardArgs& a, Normalizer<C>& norm) {
    wait_for_previous_kernel();
    launch_next_kernel();
    norm.fetch_sums(a.norm.d_sums);
    norm.fetch(a.norm, a.norm.stat);
}

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

    Normalizer<CO> norm;
    // The values that the result is completed with were written before the previous kernel; they are in
    // flight during the product.
    constexpr int GROUPS = CI / 8, TURNS = IN_PIXELS<CI> * GROUPS / THREADS;
    const int g = threadIdx.x % GROUPS, first = threadIdx.x / GROUPS;
    const size_t start = ((size_t)image * height + row0) * width * CI + g * 8;
    const float inverse = 1.0f / width;
    Eight values[TURNS], before[TURNS], others[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int p = first + i * (THREADS / GROUPS), r = divide(p, inverse), row = row0 + r, col = p - r * width;
        values[i] = {}, before[i] = {}, others[i] = {};
        if (p >= pixels) break;
        const size_t at = start + (size_t)p * CI;
        values[i] = peek8(a.x + at);
        before[i] = peek8(a.y_before + at);
        if (a.residual == IN_PLACE) others[i] = peek8(a.dz + at);
        if (a.residual == THROUGH_PADDED && row % 2 == 0 && col % 2 == 0) {
            const size_t pixel = ((size_t)image * (height / 2) + row / 2) * (width / 2) + col / 2;
            others[i] = peek8(a.half + pixel * 2 * CI + CI / 2 + g * 8);
        }
    }
    fill_gradient<CO, S>(
        a.gradient, coef, image, row0 - 1, rows + 2, width, tile, [&] { wait_for_sums(a, norm); }, [&] { norm.backward(a.norm, per, false, coef); });
    copied();
    __syncthreads();
    float* result = reinterpret_cast<float*>(tile);
    multiply<CO, CI, 1, IN_TILES<CI>>(tile, width + 2, width, pixels, weight, result);

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

// acc += products of 16 channels of the input with 16 channels of the gradient, for all nine taps, over 16
// pixels; `in` returns the address of the input of a pixel's first tap, `out` that of the pixel's gradient.
template <int CI, class In, class Out>
__device__ __forceinline__ void add_pixels(float acc[9][2][4], int cols, In in, Out out) {
    const int lane = threadIdx.x % 32;
#if REMIX_BF16
    u32 b[4];
    load_transposed(b, out(lane % 16) + lane / 16 * 8);
    const real* at = in(lane % 8 + lane / 16 * 8) + lane / 8 % 2 * 8;
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
        u32 f[4];
        load_transposed(f, at + (tap / 3 * cols + tap % 3) * (CI + PAD));
        multiply_add(acc[tap][0], f, b[0], b[1]);
        multiply_add(acc[tap][1], f, b[2], b[3]);
    }
#else
#pragma unroll 1
    for (int p = 0; p < 16; p++) {
        const float* b = out(p) + lane % 4 * 2;
        const float* at = in(p) + lane / 4;
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

// Adds up the sums of the warps and writes them to one part (9, CI, CO) of a weight gradient, in channels out
// from `co` on. There are CI / 16 jobs, each of several consecutive warps. `shared` is memory that is no
// longer in use.
template <int CI, int CO>
__device__ void store_part(const float acc[9][2][4], int co, float* shared, float* part) {
    constexpr int JOBS = CI / 16, SPLITS = WARPS / JOBS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
        for (int n = 0; n < 2; n++) {
            const float* v = acc[tap][n];
            *reinterpret_cast<float4*>(shared + (tap * WARPS + warp) * 256 + n * 128 + lane * 4) = float4{v[0], v[1], v[2], v[3]};
        }
    }
    __syncthreads();
    // Each thread adds up the values of two neighbouring channels out, for one channel in and for the one
    // eight after it.
    for (int i = threadIdx.x; i < 9 * JOBS * 64; i += THREADS) {
        const int of = i % 32, n = i / 32 % 2, job = i / 64 % JOBS, tap = i / (64 * JOBS);
        const float* at = shared + (tap * WARPS + job * SPLITS) * 256 + n * 128 + of * 4;
        float4 sum = {0, 0, 0, 0};
#pragma unroll
        for (int t = 0; t < SPLITS; t++) {
            const float4 v = *reinterpret_cast<const float4*>(at + t * 256);
            sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
        }
        float* to = part + (tap * CI + job * 16 + of / 4) * CO + co + n * 8 + of % 4 * 2;
        *reinterpret_cast<float2*>(to) = float2{sum.x, sum.y};
        *reinterpret_cast<float2*>(to + 8 * CO) = float2{sum.z, sum.w};
    }
}

// A block takes at most BANDS tiles of at most WEIGHT_PIXELS pixels of the output, all at once. It has 16
// channels out, and a warp 16 of the channels in, for all nine taps; warps that have the same channels share
// the pixels. Rows of a tile that are outside the image are zeros.
template <int CI, int CS, int CO, int S>
__device__ void weight_gradient(const BackwardArgs& a, float* coef) {
    constexpr int JOBS = CI / 16, SPLITS = WARPS / JOBS, PARTS = CO / 16, W = 16, TURNS = BANDS<CO> * WEIGHT_PIXELS<CO> * (W / 8) / THREADS;
    DYNAMIC_SHARED(memory);
    const Gradient& s = a.gradient;
    const int height = s.height, width = s.width, cols = a.width + 2, rows = (a.out_rows - 1) * S + 3;
    const int group = blockIdx.x / PARTS, co = blockIdx.x % PARTS * W, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int ci = warp / SPLITS * 16, split = warp % SPLITS;
    const int tiles = divide(height + a.out_rows - 1, 1.0f / a.out_rows), first = group * BANDS<CO>, bands = min(BANDS<CO>, tiles * a.images - first);
    // The number of steps, of 16 pixels each, in which a tile is multiplied.
    const int steps = (a.out_rows * width + 15) / 16, size = rows * cols * (CI + PAD);
    const float per_tile = 1.0f / tiles, per_step = 1.0f / steps, inverse = 1.0f / width;
    real* inputs = reinterpret_cast<real*>(memory);
    real* grad = inputs + BANDS<CO> * size;
    // The offset of the input of each pixel's first tap.
    int* offsets = reinterpret_cast<int*>(grad + BANDS<CO> * steps * 16 * (W + PAD));

    // What the forward pass stored may be read before the previous kernel has ended.
    Normalizer<CO> norm;
    for (int band = 0; band < bands; band++) {
        const int image = divide(first + band, per_tile), row0 = (first + band - image * tiles) * a.out_rows * S - 1;
        if constexpr (CS == CI) {
            copy_input<CI>(a.x, a.height, a.width, image, row0, rows, inputs + band * size);
        } else {
            const Source source = {a.x, nullptr, nullptr, nullptr, 0, a.height, a.width, 0};
            fill_input<CI, CS>(source, image, row0, rows, 0, 0, inputs + band * size, nullptr, [] {});
        }
    }
    // An item is eight channels of a pixel; items outside the image have the index -1.
    const int g = threadIdx.x % (W / 8), all = bands * steps * 16 * (W / 8);
    int where[TURNS];
    Eight y[TURNS], dz[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int at = i * THREADS + threadIdx.x, pixel = at / (W / 8), band = divide(pixel / 16, per_step), p = pixel - band * steps * 16;
        const int image = divide(first + band, per_tile), row0 = (first + band - image * tiles) * a.out_rows;
        const bool inside = at < all && p < a.out_rows * width && p < (height - row0) * width;
        where[i] = inside ? ((image * height + row0) * width + p) * CO + co + g * 8 : -1;
        y[i] = {};
        if (inside) y[i] = peek8(s.y + where[i]);
    }
    for (int p = threadIdx.x; p < steps * 16; p += THREADS) {
        const int r = divide(p, inverse);
        offsets[p] = r < a.out_rows ? (r * S * cols + (p - r * width) * S) * (CI + PAD) : 0;
    }
    wait_for_sums(a, norm);
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        dz[i] = {};
        if (where[i] >= 0) dz[i] = fetch8(s.dz + where[i]);
    }
    norm.backward(a.norm, per_value(a), blockIdx.x == 0, coef);
    float k[3][8];
    for (int j = 0; j < 3; j++) load8(coef + j * CO + co + g * 8, k[j]);
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int at = i * THREADS + threadIdx.x;
        if (at >= all) break;
        float d[8], v[8];
        expand(dz[i], d);
        expand(y[i], v);
        for (int j = 0; j < 8; j++) v[j] = where[i] >= 0 ? k[0][j] * d[j] + k[1][j] * v[j] + k[2][j] : 0;
        store8(grad + at / (W / 8) * (W + PAD) + g * 8, v);
    }
    copied();
    __syncthreads();

    float acc[9][2][4] = {};
    for (int step = split; step < bands * steps; step += SPLITS) {
        const int band = divide(step, per_step);
        const int* offset = offsets + (step - band * steps) * 16;
        const real* input = inputs + band * size + ci;
        const real* values = grad + step * 16 * (W + PAD);
        add_pixels<CI>(acc, cols, [&](int p) { return input + offset[p]; }, [&](int p) { return values + p * (W + PAD); });
    }
    __syncthreads();
    store_part<CI, CO>(acc, co, reinterpret_cast<float*>(memory), a.weight_parts + (size_t)group * 9 * CI * CO);
}

// Computes both gradients of a layer of 16 channels in the same block, because they share their tiles; each
// block makes one part of the weight gradient.
template <int C>
__device__ void both_gradients(const BackwardArgs& a, float* coef) {
    static_assert(C == 16, "a warp has all channels");
    DYNAMIC_SHARED(memory);
    const int height = a.height, width = a.width, cols = width + 2, tiles = divide(height + a.rows - 1, 1.0f / a.rows);
    const int image = divide(blockIdx.x, 1.0f / tiles), row0 = (blockIdx.x - image * tiles) * a.rows;
    const int rows = min(a.rows, height - row0), pixels = rows * width, size = (a.rows + 2) * cols * (C + PAD);
    const double per = per_value(a);
    real* inputs = reinterpret_cast<real*>(memory) + STAGED<C, C>;
    real* grad = inputs + size;
    float* result = reinterpret_cast<float*>(grad + size);

    // All values that are fetched here were written before the previous kernel.
    Normalizer<C> norm;
    const real* weight = stage<C, C>(a.weight, reinterpret_cast<real*>(memory));
    copy_input<C>(a.x, height, width, image, row0 - 1, rows + 2, inputs);
    constexpr int GROUPS = C / 8, TURNS = IN_PIXELS<C> * GROUPS / THREADS;
    const int g = threadIdx.x % GROUPS, first = threadIdx.x / GROUPS;
    const size_t start = ((size_t)image * height + row0) * width * C + g * 8;
    const float inverse = 1.0f / width;
    Eight before[TURNS], others[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int p = first + i * (THREADS / GROUPS), r = divide(p, inverse), row = row0 + r, col = p - r * width;
        before[i] = {}, others[i] = {};
        if (p >= pixels) break;
        const size_t at = start + (size_t)p * C;
        before[i] = peek8(a.y_before + at);
        if (a.residual == IN_PLACE) others[i] = peek8(a.dz + at);
        if (a.residual == THROUGH_PADDED && row % 2 == 0 && col % 2 == 0) {
            const size_t pixel = ((size_t)image * (height / 2) + row / 2) * (width / 2) + col / 2;
            others[i] = peek8(a.half + pixel * 2 * C + C / 2 + g * 8);
        }
    }
    fill_gradient<C, 1>(
        a.gradient, coef, image, row0 - 1, rows + 2, width, grad, [&] { wait_for_sums(a, norm); },
        [&] { norm.backward(a.norm, per, blockIdx.x == 0, coef); });
    copied();
    __syncthreads();
    multiply<C, C, 1, IN_TILES<C>>(grad, cols, width, pixels, weight, result);

    float sum[8] = {}, product[8] = {};
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        const int p = first + i * (THREADS / GROUPS), r = divide(p, inverse);
        if (p >= pixels) break;
        float v[8], x[8], y[8], more[8];
        load8(result + p * (C + 4) + g * 8, v);
        load8(inputs + (p + 2 * r + cols + 1) * (C + PAD) + g * 8, x);
        expand(before[i], y);
        expand(others[i], more);
        for (int j = 0; j < 8; j++) {
            v[j] = x[j] > 0 ? v[j] + more[j] : 0;
            sum[j] += v[j];
            product[j] += v[j] * y[j];
        }
        put8(a.dz + start + (size_t)p * C, v);
    }
    __syncthreads();
    add_threads<C>(sum, product, result, a.sums_before);

    float acc[9][2][4] = {};
    for (int step = threadIdx.x / 32; step < (pixels + 15) / 16; step += WARPS) {
        // Pixels after the last one are read from the corner of the tiles, where the gradient is zero.
        auto offset = [&](int p, int from) {
            p += step * 16;
            return p < pixels ? (p + 2 * divide(p, inverse) + from) * (C + PAD) : 0;
        };
        add_pixels<C>(acc, cols, [&](int p) { return inputs + offset(p, 0); }, [&](int p) { return grad + offset(p, cols + 1); });
    }
    __syncthreads();
    store_part<C, C>(acc, 0, reinterpret_cast<float*>(inputs), a.weight_parts + (size_t)blockIdx.x * 9 * C * C);
}

// Computes both gradients in one grid, because they are independent of each other; the blocks of the weight
// gradient come first.
template <int CI, int CS, int CO, int S>
__device__ void conv_backward(const BackwardArgs& a) {
    alignas(16) __shared__ float coef[3 * CO];
    if constexpr (CS == 16 && CO == 16) both_gradients<CO>(a, coef);
    else if ((int)blockIdx.x < a.weight_blocks) weight_gradient<CI, CS, CO, S>(a, coef);
    else if constexpr (CS == CI) input_gradient<CI, CO, S>(a, blockIdx.x - a.weight_blocks, coef);
}

#define CONV(NAME, CI, CS, CO, S)                                         \
    KERNEL(forward_##NAME, ForwardArgs, (conv_forward<CI, CS, CO, S>(a))) \
    KERNEL(backward_##NAME, BackwardArgs, (conv_backward<CI, CS, CO, S>(a)))

CONV(3_16_1, 16, 4, 16, 1)
CONV(16_16_1, 16, 16, 16, 1)
CONV(16_32_2, 16, 16, 32, 2)
CONV(32_32_1, 32, 32, 32, 1)
CONV(32_64_2, 32, 32, 64, 2)
CONV(64_64_1, 64, 64, 64, 1)
