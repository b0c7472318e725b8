// The end of a step: adds up the parts of the gradients, moves the parameters (ops/sgd), and lays the weights out for the kernels.

// A run of parameters that are treated alike; each begins with a block of its own.
struct Segment {
    const float* parts;  // (groups, stride): parts of the gradient; null where the gradient is there already
    real* forward;       // the weights in `place` order for forward, null where they are none
    real* backward;      // … and for the input gradient, null where there is none
    u32 start, len;      // of the parameters
    int first_block, groups;
    int cin, cin_padded, cout, unused;
};

struct StepArgs {
    float* params;
    float* grads;
    float* velocity;
    const Segment* segments;
    const float* rates;  // learning rate, momentum, weight decay
    int count;           // segments
    int move;            // 0: only lay out
};

__device__ void step(const StepArgs& a) {
    wait_for_previous_kernel();
    // The block's segment, for which all threads look at once.
    __shared__ int found;
    for (int n = threadIdx.x; n < a.count; n += THREADS) {
        const int block = blockIdx.x;
        if (block >= a.segments[n].first_block && (n + 1 == a.count || block < a.segments[n + 1].first_block)) found = n;
    }
    __syncthreads();
    const Segment s = a.segments[found];
    const u32 i = (blockIdx.x - s.first_block) * THREADS + threadIdx.x;
    if (i >= s.len) return;
    const u32 at = s.start + i;
    // A weight is (9, cin, cout); its parts have more rows where the channels in are padded.
    int tap = 0, ci = 0, co = 0, stride = s.len, part = i;
    if (s.forward) {
        co = i % s.cout, ci = i / s.cout % s.cin, tap = i / (s.cout * s.cin);
        part = (tap * s.cin_padded + ci) * s.cout + co;
        stride = 9 * s.cin_padded * s.cout;
    }
    float p = a.params[at];
    if (a.move) {
        float g;
        if (s.parts) {
            // As many loads under way as there is room for.
            constexpr int FLIGHT = 16;
            float sum[4] = {0, 0, 0, 0};
            for (int from = 0; from < s.groups; from += FLIGHT) {
                float v[FLIGHT];
#pragma unroll
                for (int j = 0; j < FLIGHT; j++) v[j] = from + j < s.groups ? s.parts[(size_t)(from + j) * stride + part] : 0;
#pragma unroll
                for (int j = 0; j < FLIGHT; j++) sum[j % 4] += v[j];
            }
            g = (sum[0] + sum[1]) + (sum[2] + sum[3]);
            a.grads[at] = g;
        } else {
            g = a.grads[at];
        }
        const float v = a.rates[1] * a.velocity[at] + (g + a.rates[2] * p);
        p -= a.rates[0] * v;
        a.velocity[at] = v;
        a.params[at] = p;
    }
    if (s.forward) s.forward[place(tap * s.cin_padded + ci, co, s.cout)] = to_real(p);
    if (s.backward) s.backward[place((8 - tap) * s.cout + co, ci, s.cin)] = to_real(p);
}

KERNEL(step, StepArgs, 2, step(a))

// Scale and shift of a batch norm from its running statistics, a block a layer.
struct FoldArgs {
    const Norm* norms;
    const int* channels;
};

__device__ void fold(const FoldArgs& a) {
    wait_for_previous_kernel();
    const Norm norm = a.norms[blockIdx.x];
    const int channels = a.channels[blockIdx.x], c = threadIdx.x;
    if (c >= channels) return;
    const double scale = norm.gamma_beta[c] / sqrt((double)norm.running[channels + c] + EPS);
    norm.affine[c] = (float)scale;
    norm.affine[channels + c] = (float)(norm.gamma_beta[channels + c] - norm.running[c] * scale);
}

KERNEL(fold, FoldArgs, 2, fold(a))
