// Runs the kernels on a CPU, for tests on machines without a GPU: the same source, compiled by a C++
// compiler. The threads of a block are fibers that take turns at barriers and at the instructions of a warp;
// blocks run one after another. It models what a kernel computes, but not its speed or the memory model: a
// missing __threadfence shows only on a GPU.
//
// Shared memory is filled with NaN before each block, a warp runs to a barrier before the next one begins,
// and threads and blocks can run in reverse order, so that reading a value that was never written, or a
// missing barrier, changes the result. In addition, until a block waits for the previous kernel, it can be
// shown the memory as it was before that kernel ran, as if the block had started that early.

#include <csetjmp>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define REMIX_EMULATOR 1
// All else is hidden: the linker would merge the shared memory of templates with that of other copies of the library.
#define EXPORTED extern "C" __attribute__((visibility("default")))
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

constexpr int MAX_THREADS = 256, LANES = 32, STACK = 64 << 10, GUARD = 4096;

struct Barrier {
    unsigned arrived, turn;
};
struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started, done;
    const volatile Barrier* waits;  // for its next turn
    unsigned turn;
};
struct Warp {
    Barrier barrier;
    const void* rows[LANES];
    unsigned a[LANES][4], b[LANES][2];
};

static Fiber fibers[MAX_THREADS];
static char* stacks;
static jmp_buf scheduler;
static Barrier block;
static Warp warps[MAX_THREADS / LANES];
alignas(16) static unsigned char shared[256 << 10];
static unsigned threads, asked;
static bool reverse;
static void (*body)(const void*);
static const void* arguments;

// What the previous kernel wrote: the address, and the one of the old and new value that is not in memory
// now. A block that has waited sees the new values.
struct Written {
    uint64_t* at;
    uint64_t other;
};
static Written* written;
static size_t written_len;
static bool waited;

static void exchange() {
    for (size_t i = 0; i < written_len; i++) {
        const uint64_t now = *written[i].at;
        *written[i].at = written[i].other;
        written[i].other = now;
    }
    waited = !waited;
}

static void yield() {
    if (!_setjmp(fibers[threadIdx.x].at)) _longjmp(scheduler, 1);
}

static void wait(Barrier& b, unsigned size) {
    Fiber& own = fibers[threadIdx.x];
    own.waits = &b;
    own.turn = b.turn;
    if (++b.arrived == size) {
        b.arrived = 0;
        b.turn++;
    } else {
        yield();
    }
    own.waits = nullptr;
}

// If there is something to wait for, all threads of a block wait here together.
static void wait_for_previous_kernel() {
    if (!written_len) return;
    if (!waited && block.arrived + 1 == threads) exchange();
    wait(block, threads);
}

// A fiber serves all blocks one after another, because making one takes two system calls.
static void entry() {
    for (;;) {
        body(arguments);
        fibers[threadIdx.x].done = true;
        yield();
    }
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

// Runs a block. Each warp runs as far as it can alone, to a barrier of the block or to its end, before the
// next one begins. Returns 2 if some threads never got past a barrier, 3 if shared memory was written beyond
// what was asked for, and otherwise 0.
static int run_block() {
    memset(shared, 0xff, asked + GUARD);
    if (waited) exchange();
    for (unsigned i = 0; i < threads; i++) fibers[i].done = false, fibers[i].waits = nullptr;
    for (bool any = true; any;) {
        any = false;
        for (unsigned first = 0; first < threads; first += LANES) {
            for (bool alone = true; alone;) {
                alone = false;
                for (unsigned i = first; i < first + LANES; i++) {
                    const unsigned thread = reverse ? threads - 1 - i : i;
                    const Fiber& f = fibers[thread];
                    if (f.done || (f.waits && f.waits->turn == f.turn)) continue;
                    resume(thread);
                    any = alone = true;
                }
            }
        }
    }
    unsigned waiting = 0;
    for (unsigned i = 0; i < threads; i++) {
        if (!fibers[i].done) fibers[i].started = false, waiting++;
    }
    if (waiting) {
        block.arrived = 0;
        for (Warp& warp : warps) warp.barrier.arrived = 0;
        return 2;
    }
    for (unsigned i = asked; i < asked + GUARD; i++) {
        if (shared[i] != 0xff) return 3;
    }
    return 0;
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

// Runs a grid after a kernel that wrote `written`. Returns 1 if more shared memory is asked for than there is
// or the number of threads is not supported, and otherwise the result of `run_block`.
EXPORTED int remix_launch(void (*kernel)(const void*), unsigned grid, unsigned threads, unsigned shared, const void* args, int reverse,
                            emu::Written* written, size_t written_len) {
    if (shared > sizeof emu::shared - emu::GUARD || threads > emu::MAX_THREADS || threads % emu::LANES) return 1;
    if (!emu::stacks) emu::stacks = (char*)malloc((size_t)emu::MAX_THREADS * emu::STACK);
    emu::threads = threads;
    emu::asked = shared;
    emu::reverse = reverse;
    emu::body = kernel;
    emu::arguments = args;
    emu::written = written;
    emu::written_len = written_len;
    emu::waited = true;
    gridDim.x = grid;
    for (unsigned i = 0; i < grid; i++) {
        blockIdx.x = reverse ? grid - 1 - i : i;
        if (const int wrong = emu::run_block()) return wrong;
    }
    if (!emu::waited) emu::exchange();
    return 0;
}

#define DYNAMIC_SHARED(NAME) unsigned char* NAME = emu::shared
#define KERNEL(NAME, ARGS, CALL)                      \
    EXPORTED void remix_##NAME(const void* pointer) { \
        const ARGS& a = *(const ARGS*)pointer;        \
        CALL;                                         \
    }                                                 \
    EXPORTED const size_t size_##NAME = sizeof(ARGS);
