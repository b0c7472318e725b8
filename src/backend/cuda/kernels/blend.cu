// Manifold Mixup: mixes the output of a block of the network with that of the image's partner, and computes
// the gradient of that. Each thread block takes one image. The formulas are those of backend/cpu/blend.

template <int C>
__device__ void blend_forward(const BlendArgs& a) {
    constexpr int GROUPS = C / 8, ROWS = THREADS / GROUPS;
    alignas(16) __shared__ float affine[2 * C];
    Normalizer<C> norm;
    norm.fetch(a.norm, blockIdx.x == 0 ? a.norm.running : nullptr);
    wait_for_previous_kernel();
    launch_next_kernel();
    norm.fetch_sums(a.norm.sums);
    const Source& s = a.source;
    const int image = blockIdx.x, pixels = s.height * s.width, g = threadIdx.x % GROUPS;
    norm.forward(a.norm, 1.0 / ((double)a.images * pixels), image == 0, affine);
    float scale[8], shift[8];
    load8(affine + g * 8, scale);
    load8(affine + C + g * 8, shift);
    const Row& row = a.plan[(size_t)*a.step * a.batch + image];
    const size_t len = (size_t)pixels * C, own = image * len + g * 8, other = row.partner * len + g * 8;
    auto output = [&](size_t at, float out[8]) {
        float x[8];
        load8(s.y + at, out);
        load8(s.shortcut + at, x);
        for (int i = 0; i < 8; i++) {
            out[i] = relu(out[i] * scale[i] + shift[i] + x[i]);
#if REMIX_BF16
            // Round as storing would.
            out[i] = low(pack(out[i], 0));
#endif
        }
    };
    for (int p = threadIdx.x / GROUPS; p < pixels; p += ROWS) {
        float first[8], second[8];
        output(own + (size_t)p * C, first);
        output(other + (size_t)p * C, second);
        put8(s.store + own + (size_t)p * C, first);
        for (int i = 0; i < 8; i++) first[i] = row.lambda * first[i] + (1 - row.lambda) * second[i];
        put8(a.mixed + own + (size_t)p * C, first);
    }
}

template <int C>
__device__ void blend_backward(const BlendArgs& a) {
    constexpr int GROUPS = C / 8, ROWS = THREADS / GROUPS;
    DYNAMIC_SHARED(memory);
    __shared__ int source;
    wait_for_previous_kernel();
    launch_next_kernel();
    const Source& s = a.source;
    const int image = blockIdx.x, pixels = s.height * s.width, g = threadIdx.x % GROUPS;
    // The head has already advanced the step.
    const Row* rows = a.plan + (size_t)(__ldcg(a.step) - 1) * a.batch;
    // Partners are a permutation: exactly one image has this one as its partner.
    for (int n = threadIdx.x; n < a.images; n += THREADS) {
        if (rows[n].partner == image) source = n;
    }
    __syncthreads();
    const float kept = rows[image].lambda, given = 1 - rows[source].lambda;
    const size_t len = (size_t)pixels * C, own = image * len + g * 8, other = source * len + g * 8;
    float first[8] = {}, second[8] = {};
    for (int p = threadIdx.x / GROUPS; p < pixels; p += ROWS) {
        float d[8], more[8], out[8], y[8];
        load8(a.gradient + own + (size_t)p * C, d);
        load8(a.gradient + other + (size_t)p * C, more);
        load8(s.store + own + (size_t)p * C, out);
        load8(s.y + own + (size_t)p * C, y);
        for (int i = 0; i < 8; i++) {
            d[i] = out[i] > 0 ? kept * d[i] + given * more[i] : 0;
            first[i] += d[i];
            second[i] += d[i] * y[i];
        }
        put8(a.dz + own + (size_t)p * C, d);
    }
    add_threads<C>(first, second, reinterpret_cast<float*>(memory), a.norm.d_sums);
}

KERNEL(blend_16, BlendArgs, blend_forward<16>(a))
KERNEL(blend_32, BlendArgs, blend_forward<32>(a))
KERNEL(unblend_16, BlendArgs, blend_backward<16>(a))
KERNEL(unblend_32, BlendArgs, blend_backward<32>(a))
