// The end of a step: adds up the parts of the gradients, updates the parameters (as backend/cpu/sgd), and
// writes the weights in the layout of the kernels.

__device__ void step(const StepArgs& a) {
    // All threads search for the block's segment at once.
    __shared__ int found;
    for (int n = threadIdx.x; n < a.count; n += THREADS) {
        const int block = blockIdx.x;
        if (block >= a.segments[n].first_block && (n + 1 == a.count || block < a.segments[n + 1].first_block)) found = n;
    }
    __syncthreads();
    const Segment s = a.segments[found];
    const u32 start = (blockIdx.x - s.first_block) * THREADS;
    auto row_of = [&](u32 i, int& tap, int& ci, int& co) { co = i % s.cout, ci = i / s.cout % s.cin, tap = i / (s.cout * s.cin); };

    const int t = threadIdx.x;
    const u32 own = start + t, at = s.start + own;
    // Parameters to be updated were left by the step before. Parameters that are only laid out may have been
    // copied by the operation before, so they are read after the wait.
    float p = 0, velocity = 0;
    if (a.moves && own < s.len) p = a.params[at], velocity = a.velocity[at];
    wait_for_previous_kernel();
    if (!a.moves && own < s.len) p = a.params[at];

    // Each quarter of the threads adds up every fourth part, four parameters per thread. After that, each
    // thread has one parameter.
    constexpr int SLICES = 4, QUAD = 4, FLIGHT = 8;
    alignas(16) __shared__ float slices[SLICES][THREADS];
    if (a.moves && s.parts) {
        const int slice = threadIdx.x / (THREADS / SLICES), quad = threadIdx.x % (THREADS / SLICES) * QUAD;
        const u32 i = start + quad;
        const int count = i < s.len ? min(s.len - i, (u32)QUAD) : 0;
        u32 stride = s.len, part = i;
        if (s.forward) {
            // A weight is (9, cin, cout); its parts have more rows if the channels in are padded. A quad lies
            // within one row.
            int tap, ci, co;
            row_of(i, tap, ci, co);
            part = (tap * s.cin_padded + ci) * s.cout + co;
            stride = 9 * s.cin_padded * s.cout;
        }
        float sum[QUAD] = {};
        for (int from = slice; from < s.groups; from += SLICES * FLIGHT) {
            // As many loads are in flight as there is room for.
            float v[FLIGHT][QUAD];
#pragma unroll
            for (int j = 0; j < FLIGHT; j++) {
                const int group = from + j * SLICES;
                const float* at = s.parts + (size_t)group * stride + part;
                for (int q = 0; q < QUAD; q++) v[j][q] = 0;
                if (group < s.groups && s.forward && count == QUAD) load4(at, v[j]);
                else if (group < s.groups) for (int q = 0; q < count; q++) v[j][q] = at[q];
            }
#pragma unroll
            for (int j = 0; j < FLIGHT; j++) {
                for (int q = 0; q < QUAD; q++) sum[q] += v[j][q];
            }
        }
        *reinterpret_cast<float4*>(&slices[slice][quad]) = float4{sum[0], sum[1], sum[2], sum[3]};
    }
    __syncthreads();
    if (own >= s.len) return;
    if (a.moves) {
        const float g = s.parts ? (slices[0][t] + slices[1][t]) + (slices[2][t] + slices[3][t]) : a.grads[at];
        const float d = g + a.rates[2] * p;
        const float v = a.rates[1] * velocity + d;
        p -= a.rates[0] * (a.rates[3] != 0 ? d + a.rates[1] * v : v);
        a.grads[at] = g;
        a.velocity[at] = v;
        a.params[at] = p;
    }
    if (!s.forward) return;
    int tap, ci, co;
    row_of(own, tap, ci, co);
    s.forward[weight_index(tap * s.cin_padded + ci, co, s.cout)] = to_real(p);
    if (s.backward) s.backward[weight_index((8 - tap) * s.cout + co, ci, s.cin)] = to_real(p);
}

KERNEL(step, StepArgs, step(a))

__device__ void fold(const FoldArgs& a) {
    wait_for_previous_kernel();
    const Norm norm = a.norms[blockIdx.x];
    const int channels = a.channels[blockIdx.x], c = threadIdx.x;
    if (c >= channels) return;
    const double scale = norm.gamma_beta[c] / sqrt((double)norm.running[channels + c] + EPS);
    norm.affine[c] = (float)scale;
    norm.affine[channels + c] = (float)(norm.gamma_beta[channels + c] - norm.running[c] * scale);
}

KERNEL(fold, FoldArgs, fold(a))
