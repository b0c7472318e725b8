// Runs the kernels on a CPU, for tests on machines without a GPU: the same source, compiled by a C++ compiler. A block's threads are
// fibers that take turns at barriers and at the instructions of a warp; blocks run one after another. It is a model of what a kernel
// computes, not of how fast, nor of the memory model: a missing __threadfence shows only on a GPU.
//
// Shared memory is filled with NaN before each block, and threads and blocks can run in reverse order, so that a value that nobody
// wrote or a missing barrier changes the result.

#include <csetjmp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define REMIX_EMULATOR 1
#define __device__
#define __forceinline__ inline
#define __shared__ static

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, gridDim;

namespace emu {

constexpr int MOST = 256, LANES = 32, STACK = 64 << 10;

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started, done;
};
struct Barrier {
    unsigned arrived, turn;
};
struct Warp {
    Barrier barrier;
    const void* rows[LANES];
    unsigned a[LANES][4], b[LANES][2];
};

static Fiber fibers[MOST];
static char* stacks;
static jmp_buf scheduler;
static Barrier block;
static Warp warps[MOST / LANES];
alignas(16) static unsigned char shared[256 << 10];
static unsigned threads;
static bool reverse;
static void (*body)(const void*);
static const void* arguments;

static void yield() {
    if (!_setjmp(fibers[threadIdx.x].at)) _longjmp(scheduler, 1);
}

static void wait(Barrier& b, unsigned size) {
    const unsigned turn = b.turn;
    if (++b.arrived == size) {
        b.arrived = 0;
        b.turn++;
        return;
    }
    while (*(volatile unsigned*)&b.turn == turn) yield();
}

static void entry() {
    body(arguments);
    fibers[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

static void resume(unsigned thread) {
    threadIdx.x = thread;
    Fiber& f = fibers[thread];
    if (_setjmp(scheduler)) return;
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = stacks + (size_t)thread * STACK;
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = nullptr;
    makecontext(&f.start, entry, 0);
    setcontext(&f.start);
}

static void run_block() {
    memset(shared, 0xff, sizeof shared);
    for (unsigned i = 0; i < threads; i++) fibers[i].started = fibers[i].done = false;
    for (unsigned left = 1; left;) {
        left = 0;
        for (unsigned i = 0; i < threads; i++) {
            const unsigned thread = reverse ? threads - 1 - i : i;
            if (!fibers[thread].done) {
                resume(thread);
                left += !fibers[thread].done;
            }
        }
    }
}

static unsigned bits(float x) {
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
static float value(unsigned u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static unsigned bf16(float x) {
    const unsigned u = bits(x);
    return x != x ? 0x7fff : (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
static float half_of(unsigned pair, int high) { return value(high ? pair & 0xffff0000u : pair << 16); }

static void load_matrices(unsigned r[4], const void* row, bool transposed) {
    const unsigned lane = threadIdx.x % LANES;
    Warp& w = warps[threadIdx.x / LANES];
    if ((uintptr_t)row % 16) abort();
    w.rows[lane] = row;
    wait(w.barrier, LANES);
    for (int i = 0; i < 4; i++) {
        unsigned pair = 0;
        for (unsigned j = 0; j < 2; j++) {
            const unsigned x = lane / 4, y = lane % 4 * 2 + j;
            unsigned short v;
            memcpy(&v, (const char*)w.rows[i * 8 + (transposed ? y : x)] + 2 * (transposed ? x : y), 2);
            pair |= (unsigned)v << 16 * j;
        }
        r[i] = pair;
    }
    wait(w.barrier, LANES);
}

static void multiply_add(float d[4], const unsigned a[4], unsigned b0, unsigned b1) {
    const unsigned lane = threadIdx.x % LANES;
    Warp& w = warps[threadIdx.x / LANES];
    memcpy(w.a[lane], a, 16);
    w.b[lane][0] = b0;
    w.b[lane][1] = b1;
    wait(w.barrier, LANES);
    for (int i = 0; i < 4; i++) {
        const unsigned row = lane / 4, half = i / 2, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const float x = half_of(w.a[row * 4 + k % 8 / 2][half + k / 8 * 2], k % 2);
            const float y = half_of(w.b[column * 4 + k % 8 / 2][k / 8], k % 2);
            d[i] += x * y;
        }
    }
    wait(w.barrier, LANES);
}

}  // namespace emu

static inline void __syncthreads() { emu::wait(emu::block, emu::threads); }
static inline void __threadfence() {}
template <class T>
static inline T __ldcg(const T* p) { return *p; }
static inline float __uint_as_float(unsigned u) { return emu::value(u); }
template <class T>
static inline T atomicAdd(T* p, T v) {
    const T old = *p;
    *p += v;
    return old;
}
static inline long long __float2ll_rn(float x) { return llrintf(x); }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

// Runs a grid; 1 if the shared memory asked for is more than there is.
extern "C" int remix_launch(void (*kernel)(const void*), unsigned grid, unsigned threads, unsigned shared, const void* args, int reverse) {
    if (shared > sizeof emu::shared || threads > emu::MOST) return 1;
    if (!emu::stacks) emu::stacks = (char*)malloc((size_t)emu::MOST * emu::STACK);
    emu::threads = threads;
    emu::reverse = reverse;
    emu::body = kernel;
    emu::arguments = args;
    gridDim.x = grid;
    for (unsigned i = 0; i < grid; i++) {
        blockIdx.x = reverse ? grid - 1 - i : i;
        emu::run_block();
    }
    return 0;
}

#define DYNAMIC_SHARED(NAME) unsigned char* NAME = emu::shared
#define KERNEL(NAME, ARGS, BLOCKS, CALL)                \
    extern "C" void remix_##NAME(const void* pointer) { \
        const ARGS& a = *(const ARGS*)pointer;          \
        CALL;                                           \
    }                                                   \
    extern "C" const size_t size_##NAME = sizeof(ARGS);
