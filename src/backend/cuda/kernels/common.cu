// Code that all kernels share: the type of activations, vectors of eight values, tensor-core instructions,
// and the synchronisation of the blocks of a grid. It is compiled twice, for f32 and (with REMIX_BF16) for
// bf16, and in tests also by a C++ compiler (emulator.h).
//
// Every kernel runs THREADS threads per block and takes one struct. args.rs declares these structs and the
// constants that both sides need. Nothing here depends on the order in which blocks or warps run: sums are
// added in a fixed order, or exactly, so results are the same bits in every run.

constexpr int WARPS = THREADS / 32;

#if REMIX_BF16
// Converts two f32 to bf16, rounded to nearest even, with `low` in the lower half.
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

// Eight values in their stored form. `peek8`, and `fetch4` for the four values of an image's pixel, bypass
// the L1 cache, which may hold values of an earlier step; they are for reads before the previous kernel has
// ended.
struct Eight {
    uint4 q;
};
__device__ __forceinline__ Eight fetch8(const real* from) { return {*reinterpret_cast<const uint4*>(from)}; }
__device__ __forceinline__ Eight peek8(const real* from) { return {__ldcg(reinterpret_cast<const uint4*>(from))}; }
__device__ __forceinline__ Eight fetch4(const real* from) {
    const uint2 q = __ldcg(reinterpret_cast<const uint2*>(from));
    return {uint4{q.x, q.y, 0, 0}};
}
__device__ __forceinline__ void expand(const Eight& e, float v[8]) {
    v[0] = low(e.q.x), v[1] = high(e.q.x), v[2] = low(e.q.y), v[3] = high(e.q.y);
    v[4] = low(e.q.z), v[5] = high(e.q.z), v[6] = low(e.q.w), v[7] = high(e.q.w);
}
__device__ __forceinline__ void store8(real* to, const float v[8]) {
    *reinterpret_cast<uint4*>(to) = uint4{pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7])};
}
// Like store8, but to global memory, and guaranteed to be one store.
__device__ __forceinline__ void put8(real* to, const float v[8]) {
#ifdef REMIX_EMULATOR
    store8(to, v);
#else
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(pack(v[0], v[1])), "r"(pack(v[2], v[3])), "r"(pack(v[4], v[5])),
                 "r"(pack(v[6], v[7]))
                 : "memory");
#endif
}
__device__ __forceinline__ void store4(real* to, const float v[4]) {
    *reinterpret_cast<uint2*>(to) = uint2{pack(v[0], v[1]), pack(v[2], v[3])};
}

// Loads four 8×8 matrices from shared memory into the fragments of a warp: lane l passes the address of row l
// % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 r[4], const real* row) {
#ifdef REMIX_EMULATOR
    emu::load_matrices(r, row, false);
#else
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}
// Like load_matrices, but transposes each matrix.
__device__ __forceinline__ void load_transposed(u32 r[4], const real* row) {
#ifdef REMIX_EMULATOR
    emu::load_matrices(r, row, true);
#else
    const u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
#endif
}
// d (16×8) += a (16×16) · b (16×8), with the fragment layouts that PTX defines for mma.m16n8k16.
__device__ __forceinline__ void multiply_add(float d[4], const u32 a[4], u32 b0, u32 b1) {
#ifdef REMIX_EMULATOR
    emu::multiply_add(d, a, b0, b1);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
#else  // f32
__device__ __forceinline__ real to_real(float x) { return x; }
struct Eight {
    float4 q, r;
};
__device__ __forceinline__ Eight fetch8(const real* from) {
    return {*reinterpret_cast<const float4*>(from), *reinterpret_cast<const float4*>(from + 4)};
}
__device__ __forceinline__ Eight peek8(const real* from) {
    return {__ldcg(reinterpret_cast<const float4*>(from)), __ldcg(reinterpret_cast<const float4*>(from + 4))};
}
__device__ __forceinline__ Eight fetch4(const real* from) { return {__ldcg(reinterpret_cast<const float4*>(from)), float4{0, 0, 0, 0}}; }
__device__ __forceinline__ void expand(const Eight& e, float v[8]) {
    v[0] = e.q.x, v[1] = e.q.y, v[2] = e.q.z, v[3] = e.q.w;
    v[4] = e.r.x, v[5] = e.r.y, v[6] = e.r.z, v[7] = e.r.w;
}
__device__ __forceinline__ void store4(real* to, const float v[4]) {
    *reinterpret_cast<float4*>(to) = float4{v[0], v[1], v[2], v[3]};
}
__device__ __forceinline__ void store8(real* to, const float v[8]) {
    store4(to, v);
    store4(to + 4, v + 4);
}
__device__ __forceinline__ void put8(real* to, const float v[8]) { store8(to, v); }
#endif
#if REMIX_BF16
__device__ __forceinline__ void load8(const real* from, float v[8]) { expand(fetch8(from), v); }
#endif
__device__ __forceinline__ void load4(const float* from, float v[4]) {
    const float4 q = *reinterpret_cast<const float4*>(from);
    v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
__device__ __forceinline__ void load8(const float* from, float v[8]) {
    load4(from, v);
    load4(from + 4, v + 4);
}

// Padding between the pixels of a tile in shared memory, in values, so that the eight rows of a matrix are in
// different banks.
constexpr int PAD = 16 / sizeof(real);

// Starts to copy 16 bytes to shared memory; `copied` waits for the thread's copies.
__device__ __forceinline__ void copy16(real* to, const real* from) {
#ifdef REMIX_EMULATOR
    memcpy(to, from, 16);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
#endif
}
// Starts to copy eight values to shared memory, or writes zeros if `reads` is false.
__device__ __forceinline__ void copy8(real* to, const real* from, bool reads) {
#pragma unroll
    for (int i = 0; i < 8; i += PAD) {
#ifdef REMIX_EMULATOR
        if (reads) memcpy(to + i, from + i, 16);
        else memset(to + i, 0, 16);
#else
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(to + i)), "l"(from + i), "r"(reads ? 16 : 0) : "memory");
#endif
    }
}
__device__ __forceinline__ void copied() {
#ifndef REMIX_EMULATOR
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Waits for the previous kernel to end; a kernel may start before that. What the previous kernel wrote must
// not be accessed before this call. What earlier kernels wrote may be, because no kernel lets the next one
// start before it has itself passed this point.
__device__ __forceinline__ void wait_for_previous_kernel() {
#ifdef REMIX_EMULATOR
    emu::wait_for_previous_kernel();
#elif __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the blocks of the next kernel start where there is room: what they do before they wait overlaps with
// the rest of this kernel.
__device__ __forceinline__ void launch_next_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns the index of weight (k, n) of a (K, N) matrix in the kernels' layout: blocks of 16×8, k-major, each
// in the order in which one load of a warp takes it.
__device__ __forceinline__ int weight_index(int k, int n, int columns) {
    const int block = (k / 16) * (columns / 8) + n / 8;
    k %= 16, n %= 8;
#if REMIX_BF16
    const int lane = n * 4 + k % 8 / 2;
    return block * 128 + (lane * 2 + k / 8) * 2 + k % 2;
#else
    return block * 128 + k * 8 + n;
#endif
}

// Returns max(x, 0); NaN stays NaN.
__device__ __forceinline__ float relu(float x) {
#ifdef REMIX_EMULATOR
    return x < 0 ? 0 : x;
#else
    asm("max.NaN.f32 %0, %0, 0f00000000;" : "+f"(x));
    return x;
#endif
}

// Returns true in all threads of the last of `blocks` blocks that gets here, which then sees what the others
// wrote before. Resets the counter.
__device__ inline bool last_block(u32* counter, u32 blocks) {
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        // This fence also orders what the other threads wrote before the barrier.
        __threadfence();
        last = atomicAdd(counter, 1u) == blocks - 1;
        if (last) *counter = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// Two sums over a batch for each of C channels. Blocks add their parts as integers, in two limbs, so the
// order in which they do so makes no difference. Several copies keep the blocks from waiting for each other.
// The layout is (COPIES, 2, 2C), then (2C) counts of parts that are NaN or too large.
constexpr float HIGH = 0x1p-14f, LOW = 0x1p-57f;
// The limit for the magnitude of a sum.
constexpr float MAX_SUM = 0x1p48f;
static_assert(MAX_SUM / HIGH <= 0x1p62f && HIGH / 2 / LOW * REMIX_MAX_BLOCKS <= 0x1p62f, "a limb has 63 bits and a sign");

template <int C>
__device__ void add_sum(u64* sums, int column, float value) {
    constexpr int WIDTH = 2 * C;
    if (!(fabsf(value) < MAX_SUM / gridDim.x)) {
        atomicAdd(sums + COPIES * 2 * WIDTH + column, (u64)1);
        return;
    }
    // This is exact except for what is less than LOW.
    const float high = rintf(value * (1 / HIGH)), rest = value - high * HIGH;
    u64* to = sums + blockIdx.x % COPIES * 2 * WIDTH + column;
    atomicAdd(to, (u64)__float2ll_rn(high));
    atomicAdd(to + WIDTH, (u64)__float2ll_rn(rest * (1 / LOW)));
}

// Adds up the sums of the block's threads by channel, and adds the results to `sums`. Each thread has the
// sums of eight channels, from `8 · (threadIdx.x % (C / 8))` on. `scratch` is SCRATCH floats of shared memory
// that are no longer in use.
static_assert(SCRATCH >= 16 * (THREADS + 4) + THREADS, "args.rs");
template <int C>
__device__ void add_threads(const float first[8], const float second[8], float* scratch, u64* sums) {
    // The stride of the rows is such that the lanes of a warp read from different banks.
    constexpr int GROUPS = C / 8, ROW = THREADS + (GROUPS < 4 ? GROUPS : 4), SLICES = THREADS / (2 * C), EACH = THREADS / GROUPS / SLICES;
    for (int i = 0; i < 8; i++) {
        scratch[i * ROW + threadIdx.x] = first[i];
        scratch[(8 + i) * ROW + threadIdx.x] = second[i];
    }
    __syncthreads();
    float* slices = scratch + 16 * ROW;
    const int column = threadIdx.x % (2 * C), c = column % C, slice = threadIdx.x / (2 * C);
    const float* from = scratch + (column / C * 8 + c % 8) * ROW + slice * EACH * GROUPS + c / 8;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) sum += from[i * GROUPS];
    slices[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x < 2 * C) {
        float total = 0;
        for (int i = 0; i < SLICES; i++) total += slices[i * 2 * C + threadIdx.x];
        add_sum<C>(sums, threadIdx.x, total);
    }
}


// The inputs of a batch norm's coefficients, while they are being fetched: parameters, two more values per
// channel (`old_values`, if any), and sums.
template <int C>
struct Normalizer {
    float gamma, beta, old[2];
    u64 limbs[2 * COPIES], bad;

    __device__ __forceinline__ void fetch(const Norm& norm, const float* old_values) {
        const int c = threadIdx.x;
        if (c >= C) return;
        gamma = norm.gamma_beta[c], beta = norm.gamma_beta[C + c];
        if (old_values) old[0] = old_values[c], old[1] = old_values[C + c];
    }

    __device__ __forceinline__ void fetch_sums(const u64* sums) {
        constexpr int WIDTH = 2 * C;
        if (threadIdx.x >= WIDTH) return;
#pragma unroll
        for (int i = 0; i < 2 * COPIES; i++) limbs[i] = __ldcg(sums + i * WIDTH + threadIdx.x);
        bad = __ldcg(sums + 2 * COPIES * WIDTH + threadIdx.x);
    }

    __device__ __forceinline__ void share(double* totals) const {
        if (threadIdx.x < 2 * C) {
            u64 high = 0, low = 0;
#pragma unroll
            for (int i = 0; i < COPIES; i++) high += limbs[2 * i], low += limbs[2 * i + 1];
            const double sum = (double)(long long)high * HIGH + (double)(long long)low * LOW;
            totals[threadIdx.x] = bad ? sum * __uint_as_float(0x7fc00000u) : sum;
        }
        __syncthreads();
    }

    // Writes scale and shift to shared memory, from the sums over 1 / `per` values per channel. The block
    // with `writes` also writes the statistics, for which it must have fetched the running ones.
    __device__ void forward(const Norm& norm, double per, bool writes, float* affine) const {
        __shared__ double totals[2 * C];
        share(totals);
        const int c = threadIdx.x;
        if (c < C) {
            const double mean = totals[c] * per, square = totals[C + c] * per - mean * mean;
            // NaN must stay NaN.
            const double variance = square < 0 ? 0 : square;
            const float rounded = (float)mean, inverse = rsqrtf((float)(variance + EPS)), scale = gamma * inverse;
            affine[c] = scale;
            affine[C + c] = beta - rounded * scale;
            if (writes) {
                const double unbiased = per < 1 ? variance / (1 - per) : variance;
                norm.stat[c] = rounded;
                norm.stat[C + c] = inverse;
                norm.running[c] = (float)((1 - MOMENTUM) * old[0] + MOMENTUM * mean);
                norm.running[C + c] = (float)((1 - MOMENTUM) * old[1] + MOMENTUM * unbiased);
            }
        }
        __syncthreads();
    }

    // Writes the coefficients of the raw output's gradient, coef[0]·dz + coef[1]·y + coef[2], to shared
    // memory; the statistics must have been fetched. The block with `writes` also writes the gradients of γ
    // and β.
    __device__ void backward(const Norm& norm, double per, bool writes, float* coef) const {
        __shared__ double totals[2 * C];
        share(totals);
        const int c = threadIdx.x;
        if (c < C) {
            const double mean = old[0], inverse = old[1];
            const double d_beta = totals[c], d_gamma = inverse * (totals[C + c] - mean * d_beta);
            const double scale = gamma * inverse, slope = scale * inverse * d_gamma * per;
            coef[c] = (float)scale;
            coef[C + c] = (float)-slope;
            coef[2 * C + c] = (float)(slope * mean - scale * d_beta * per);
            if (writes) {
                norm.d_gamma_beta[c] = (float)d_gamma;
                norm.d_gamma_beta[C + c] = (float)d_beta;
            }
        }
        __syncthreads();
    }
};
