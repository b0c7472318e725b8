// What all kernels share: the type of activations, vectors of eight values, tensor-core instructions, and the rendezvous of the
// blocks of a grid. Compiled twice, for f32 and (REMIX_BF16) for bf16; in tests also by a C++ compiler (emulator.h).
//
// Every kernel runs THREADS threads a block and takes one struct, which args.rs mirrors. Nothing here depends on the order in which
// blocks or warps run: sums are always added in one order, so results are the same bits in every run.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

#if REMIX_BF16
struct alignas(2) real {
    u16 bits;
};
// Two f32 to two bf16, rounded to nearest even; `low` in the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
#ifdef REMIX_EMULATOR
    return emu::bf16(low) | emu::bf16(high) << 16;
#else
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}
__device__ __forceinline__ float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ __forceinline__ real to_real(float x) { return real{(u16)(pack(x, 0.0f) & 0xffffu)}; }

__device__ __forceinline__ void load8(const real* from, float v[8]) {
    const uint4 q = *reinterpret_cast<const uint4*>(from);
    v[0] = low(q.x), v[1] = high(q.x), v[2] = low(q.y), v[3] = high(q.y);
    v[4] = low(q.z), v[5] = high(q.z), v[6] = low(q.w), v[7] = high(q.w);
}
__device__ __forceinline__ void load4(const real* from, float v[4]) {
    const uint2 q = *reinterpret_cast<const uint2*>(from);
    v[0] = low(q.x), v[1] = high(q.x), v[2] = low(q.y), v[3] = high(q.y);
}
__device__ __forceinline__ void store8(real* to, const float v[8]) {
    *reinterpret_cast<uint4*>(to) = uint4{pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7])};
}
__device__ __forceinline__ void store4(real* to, const float v[4]) {
    *reinterpret_cast<uint2*>(to) = uint2{pack(v[0], v[1]), pack(v[2], v[3])};
}

// Four 8×8 matrices of shared memory into the fragments of a warp: lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 r[4], const real* row) {
#ifdef REMIX_EMULATOR
    emu::load_matrices(r, row, false);
#else
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}
// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(u32 r[4], const real* row) {
#ifdef REMIX_EMULATOR
    emu::load_matrices(r, row, true);
#else
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}
// d (16×8) += a (16×16) · b (16×8), fragments as PTX has them for mma.m16n8k16.
__device__ __forceinline__ void multiply_add(float d[4], const u32 a[4], u32 b0, u32 b1) {
#ifdef REMIX_EMULATOR
    emu::multiply_add(d, a, b0, b1);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
#else  // f32
typedef float real;
__device__ __forceinline__ real to_real(float x) { return x; }
__device__ __forceinline__ void load4(const real* from, float v[4]) {
    const float4 q = *reinterpret_cast<const float4*>(from);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
__device__ __forceinline__ void load8(const real* from, float v[8]) {
    load4(from, v);
    load4(from + 4, v + 4);
}
__device__ __forceinline__ void store4(real* to, const float v[4]) {
    *reinterpret_cast<float4*>(to) = float4{v[0], v[1], v[2], v[3]};
}
__device__ __forceinline__ void store8(real* to, const float v[8]) {
    store4(to, v);
    store4(to + 4, v + 4);
}
#endif

// Values between the pixels of a tile in shared memory, so that the eight rows of a matrix lie in different banks.
constexpr int PAD = 16 / sizeof(real);

// Where weight (k, n) of a (K, N) matrix stands for the kernels: blocks of 16×8, k-major, each as one load of a warp takes it.
__device__ __forceinline__ int place(int k, int n, int columns) {
    const int block = (k / 16) * (columns / 8) + n / 8;
    k %= 16, n %= 8;
#if REMIX_BF16
    const int lane = n * 4 + k % 8 / 2;
    return block * 128 + (lane * 2 + k / 8) * 2 + k % 2;
#else
    return block * 128 + k * 8 + n;
#endif
}

// True in all threads of the last block of `blocks` that gets here, which then sees what the others wrote before. Resets the counter.
__device__ inline bool last_block(u32* counter, u32 blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) == blocks - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// The sums of the rows of a (rows, WIDTH) matrix that other blocks wrote, in f64 and in one order, into totals (WIDTH).
template <int WIDTH>
__device__ void add_rows(const float* matrix, int rows, double* totals) {
    constexpr int SLICES = THREADS / WIDTH;
    __shared__ double slices[THREADS];
    const int column = threadIdx.x % WIDTH, slice = threadIdx.x / WIDTH;
    double sum[4] = {0, 0, 0, 0};
    for (int row = slice; row < rows; row += 4 * SLICES) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int at = row + i * SLICES;
            if (at < rows) sum[i] += __ldcg(matrix + (size_t)at * WIDTH + column);
        }
    }
    slices[threadIdx.x] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    __syncthreads();
    if (threadIdx.x < WIDTH) {
        double total = 0;
        for (int i = 0; i < SLICES; i++) total += slices[i * WIDTH + column];
        totals[column] = total;
    }
    __syncthreads();
}

// The block's sums by channel from those of its threads, each of which had eight channels, `8 · (threadIdx.x % (C / 8))` and on:
// row (2, C). `scratch` is 16 · THREADS floats of shared memory that nobody uses any more.
template <int C>
__device__ void add_threads(const float first[8], const float second[8], float* scratch, float* row) {
    for (int i = 0; i < 8; i++) {
        scratch[i * THREADS + threadIdx.x] = first[i];
        scratch[(8 + i) * THREADS + threadIdx.x] = second[i];
    }
    __syncthreads();
    if (threadIdx.x < 2 * C) {
        const int c = threadIdx.x % C;
        const float* from = scratch + (threadIdx.x / C * 8 + c % 8) * THREADS + c / 8;
        float sum = 0;
        for (int i = 0; i < THREADS; i += C / 8) sum += from[i];
        row[threadIdx.x] = sum;
    }
}

constexpr double EPS = 1e-5;
constexpr double MOMENTUM = 0.1;

// Batch norm's coefficients by channel.
struct Norm {
    const float* gamma_beta;  // (2, C)
    float* stat;              // (2, C): mean, 1 / sqrt(variance + EPS)
    float* affine;            // (2, C): scale, shift
    float* running;           // (2, C): mean, unbiased variance
    float* d_gamma_beta;      // (2, C)
    float* coef;              // (3, C): gradient of the raw output = coef[0]·dz + coef[1]·y + coef[2]
};

// From the blocks' Σ y and Σ y² (rows, 2, C) over `count` values a channel: statistics, coefficients, running statistics.
template <int C>
__device__ void norm_forward(const Norm& norm, const float* partial, int rows, double count) {
    __shared__ double totals[2 * C];
    add_rows<2 * C>(partial, rows, totals);
    const int c = threadIdx.x;
    if (c >= C) return;
    const double mean = totals[c] / count;
    const double square = totals[C + c] / count - mean * mean;
    // A NaN must stay one.
    const double variance = square < 0 ? 0 : square;
    const double unbiased = variance * count / (count > 1 ? count - 1 : 1);
    const float rounded = (float)mean, inverse = (float)(1 / sqrt(variance + EPS));
    const float scale = norm.gamma_beta[c] * inverse;
    norm.stat[c] = rounded;
    norm.stat[C + c] = inverse;
    norm.affine[c] = scale;
    norm.affine[C + c] = norm.gamma_beta[C + c] - rounded * scale;
    norm.running[c] = (float)((1 - MOMENTUM) * norm.running[c] + MOMENTUM * mean);
    norm.running[C + c] = (float)((1 - MOMENTUM) * norm.running[C + c] + MOMENTUM * unbiased);
}

// From the blocks' Σ dz and Σ dz·y (rows, 2, C): gradients of γ and β, and the coefficients of the raw output's gradient.
template <int C>
__device__ void norm_backward(const Norm& norm, const float* partial, int rows, double count) {
    __shared__ double totals[2 * C];
    add_rows<2 * C>(partial, rows, totals);
    const int c = threadIdx.x;
    if (c >= C) return;
    const double mean = norm.stat[c], inverse = norm.stat[C + c];
    const double d_beta = totals[c], d_gamma = inverse * (totals[C + c] - mean * d_beta);
    const double scale = norm.gamma_beta[c] * inverse, slope = scale * inverse * d_gamma / count;
    norm.d_gamma_beta[c] = (float)d_gamma;
    norm.d_gamma_beta[C + c] = (float)d_beta;
    norm.coef[c] = (float)scale;
    norm.coef[C + c] = (float)-slope;
    norm.coef[2 * C + c] = (float)(slope * mean - scale * d_beta / count);
}
