// The end of the network, a block an image: the last ReLU, average pool, classifier, soft-target cross-entropy, and the gradients of all
// that, down to the one behind the last batch norm. The same formulas as ops/pool and ops/head.

struct HeadArgs {
    Source source;  // of the last block's output, (N, H, W, 64)
    const Row* plan;
    u32* step;            // advanced when the grid is done
    const float* linear;  // weight (classes, 64), bias (classes)
    float* features;      // (rows of the plan, 64) where `train` is 0, else (images, 64)
    float* logits;        // (…, classes)
    double* losses;       // (steps, 2): loss and right predictions of each step
    float* samples;       // (images, 2)
    real* dz;             // (N, H, W, 64)
    float* linear_parts;  // (images, classes · 65), as `linear`
    u32* counter;
    Norm norm;            // of the last convolution
    int images, batch, classes, train;
};

__device__ void head(const HeadArgs& a) {
    constexpr int C = 64, GROUPS = C / 8, ROWS = THREADS / GROUPS;
    DYNAMIC_SHARED(memory);  // SCRATCH floats, then features, d_features and logits
    float* scratch = reinterpret_cast<float*>(memory);
    float* f = scratch + SCRATCH;
    float* df = f + C;
    float* z = df + C;
    __shared__ float max, sum;
    __shared__ int top;
    Normalizer<C> norm;
    if (a.train) norm.fetch(a.norm, blockIdx.x == 0 ? a.norm.running : nullptr);
    wait_for_previous_kernel();
    launch_next_kernel();
    if (a.train) norm.fetch_sums(a.norm.sums);
    const Source& s = a.source;
    const int image = blockIdx.x, pixels = s.height * s.width, g = threadIdx.x % GROUPS;
    const size_t row = (size_t)*a.step * a.batch + image, start = (size_t)image * pixels * C + g * 8;

    // The last ReLU; its output is not stored, only averaged.
    alignas(16) __shared__ float affine[2 * C];
    if (a.train) {
        norm.forward(a.norm, 1.0 / ((double)a.images * pixels), blockIdx.x == 0, affine);
    } else {
        if (threadIdx.x < 2 * C) affine[threadIdx.x] = s.affine[threadIdx.x];
        __syncthreads();
    }
    float scale[8], shift[8], mean[8] = {};
    load8(affine + g * 8, scale);
    load8(affine + C + g * 8, shift);
    auto output = [&](int p, float y[8], float out[8]) {
        float x[8];
        load8(s.y + start + (size_t)p * C, y);
        load8(s.shortcut + start + (size_t)p * C, x);
        for (int i = 0; i < 8; i++) {
            out[i] = relu(y[i] * scale[i] + shift[i] + x[i]);
        }
    };
    for (int p = threadIdx.x / GROUPS; p < pixels; p += ROWS) {
        float y[8], out[8];
        output(p, y, out);
#if REMIX_BF16
        // As it would be stored.
        for (int i = 0; i < 8; i++) out[i] = low(pack(out[i], 0));
#endif
        for (int i = 0; i < 8; i++) mean[i] += out[i];
    }
    for (int i = 0; i < 8; i++) scratch[i * THREADS + threadIdx.x] = mean[i];
    __syncthreads();
    if (threadIdx.x < C) {
        const int c = threadIdx.x;
        float total = 0;
        for (int i = c / 8; i < THREADS; i += GROUPS) total += scratch[c % 8 * THREADS + i];
        f[c] = total / pixels;
        a.features[(a.train ? image : row) * C + c] = f[c];
    }
    __syncthreads();
    for (int k = threadIdx.x; k < a.classes; k += THREADS) {
        float total[4] = {0, 0, 0, 0};
        for (int c = 0; c < C; c += 4) {
            for (int i = 0; i < 4; i++) total[i] += a.linear[k * C + c + i] * f[c + i];
        }
        z[k] = a.linear[a.classes * C + k] + ((total[0] + total[1]) + (total[2] + total[3]));
        a.logits[(a.train ? image : row) * a.classes + k] = z[k];
    }
    __syncthreads();
    if (a.train) {
        if (threadIdx.x == 0) {
            int best = 0;
            for (int k = 1; k < a.classes; k++) {
                if (z[k] > z[best]) best = k;
            }
            top = best;
            max = z[best];
        }
        __syncthreads();
        for (int k = threadIdx.x; k < a.classes; k += THREADS) scratch[k] = expf(z[k] - max);
        __syncthreads();
        const Row& r = a.plan[row];
        const float ca = r.coef_a, cb = r.coef_b;
        const int la = r.label_a, lb = r.label_b;
        if (threadIdx.x == 0) {
            float total = 0;
            for (int k = 0; k < a.classes; k++) total += scratch[k];
            sum = total;
            const float lse = max + logf(total), hit = (top == la ? ca : 0) + (top == lb ? cb : 0);
            a.samples[image * 2] = ca * (lse - z[la]) + cb * (lse - z[lb]);
            a.samples[image * 2 + 1] = hit > 0 ? hit / (ca + cb) : 0;
        }
        __syncthreads();
        // From here on z is the gradient of the logits.
        for (int k = threadIdx.x; k < a.classes; k += THREADS) {
            float dz = (ca + cb) * (scratch[k] / sum);
            if (k == la) dz -= ca;
            if (k == lb) dz -= cb;
            z[k] = dz;
        }
        __syncthreads();
        if (threadIdx.x < C) {
            float total = 0;
            for (int k = 0; k < a.classes; k++) total += z[k] * a.linear[k * C + threadIdx.x];
            df[threadIdx.x] = total;
        }
        float* part = a.linear_parts + (size_t)image * a.classes * (C + 1);
        for (int i = threadIdx.x; i < a.classes * C; i += THREADS) part[i] = z[i / C] * f[i % C];
        for (int k = threadIdx.x; k < a.classes; k += THREADS) part[a.classes * C + k] = z[k];
        __syncthreads();

        float d[8], first[8] = {}, second[8] = {};
        for (int i = 0; i < 8; i++) d[i] = df[g * 8 + i] / pixels;
        for (int p = threadIdx.x / GROUPS; p < pixels; p += ROWS) {
            float y[8], out[8], dz[8];
            output(p, y, out);
            for (int i = 0; i < 8; i++) {
                dz[i] = out[i] > 0 ? d[i] : 0;
                first[i] += dz[i];
                second[i] += dz[i] * y[i];
            }
            put8(a.dz + start + (size_t)p * C, dz);
        }
        __syncthreads();
        add_threads<C>(first, second, scratch, a.norm.d_sums);
    }
    if (!last_block(a.counter, gridDim.x)) return;
    if (a.train) {
        __shared__ double totals[THREADS];
        double total = 0;
        for (int n = threadIdx.x; n < 2 * a.images; n += THREADS) total += __ldcg(a.samples + n);
        totals[threadIdx.x] = total;
        for (int half = THREADS / 2; half >= 2; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half) totals[threadIdx.x] += totals[threadIdx.x + half];
        }
        if (threadIdx.x < 2) a.losses[(size_t)*a.step * 2 + threadIdx.x] = totals[threadIdx.x];
        __syncthreads();
    }
    if (threadIdx.x == 0) *a.step += 1;
}

KERNEL(head, HeadArgs, 2, head(a))
