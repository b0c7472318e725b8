// The end of the network, one block per image: the last ReLU, average pool, classifier, soft-target loss, and
// the gradients of all of these, down to that of the last batch norm's output. The formulas are those of
// backend/cpu/pool, backend/cpu/head and methods/loss.


// One label of a sample: coefficient times loss, coefficient times the factor h of the gradient, exp(logit -
// max) of the label, and the sum of all exponentials.
struct Label {
    float loss, weight, exp, sum;
};

// `u` are the logits with scales and offsets; `exps` are exp(u - max).
__device__ Label label_of(const HeadArgs& a, const float* u, const float* exps, float max, int label, float coef) {
    const float own = a.margins ? u[label] - a.margins[label] : u[label];
    Label l;
    l.exp = a.margins ? expf(own - max) : exps[label];
    l.sum = 0;
    for (int k = 0; k < a.classes; k++) l.sum += k == label ? l.exp : exps[k];
    // This order of operations keeps the logarithm, which would be lost if it were added to a large `max`.
    const float ce = logf(l.sum) + (max - own);
    l.loss = coef * ce;
    l.weight = coef;
    if (a.gamma > 0) {
        const float p = expf(-ce), rest = -expm1f(-ce), factor = powf(rest, a.gamma);
        l.loss *= factor;
        l.weight *= factor * (1 + a.gamma * p * (rest > 0 ? ce / rest : 1));
    }
    return l;
}

__device__ void head(const HeadArgs& a) {
    constexpr int C = 64, GROUPS = C / 8, ROWS = THREADS / GROUPS;
    DYNAMIC_SHARED(memory);  // SCRATCH floats, then features, d_features, and four values of each class
    float* scratch = reinterpret_cast<float*>(memory);
    float* f = scratch + SCRATCH;
    float* df = f + C;
    float* z = df + C;              // logits
    float* u = z + a.classes;       // the same with scales and offsets
    float* dz = u + a.classes;      // gradient of the logits
    float* inverse = dz + a.classes;  // 1 / length of a class's weights
    __shared__ float max;
    __shared__ int top;
    __shared__ Label labels[2];
    Normalizer<C> norm;
    if (a.train) norm.fetch(a.norm, blockIdx.x == 0 ? a.norm.running : nullptr);
    for (int k = threadIdx.x; k < a.classes; k += THREADS) u[k] = a.offsets[k];
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
        // Round as storing would.
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
    float inverse_f = 1;
    if (a.normalised) {
        float square = 0;
        for (int c = 0; c < C; c++) square += f[c] * f[c];
        inverse_f = 1 / fmaxf(sqrtf(square), 1e-12f);
    }
    for (int k = threadIdx.x; k < a.classes; k += THREADS) {
        float total[4] = {0, 0, 0, 0}, square = 0;
        for (int c = 0; c < C; c += 4) {
            for (int i = 0; i < 4; i++) total[i] += a.linear[k * C + c + i] * f[c + i];
        }
        const float product = (total[0] + total[1]) + (total[2] + total[3]);
        if (a.normalised) {
            for (int c = 0; c < C; c++) square += a.linear[k * C + c] * a.linear[k * C + c];
            inverse[k] = 1 / fmaxf(sqrtf(square), 1e-12f);
            z[k] = product * inverse[k] * (COSINE_SCALE * inverse_f);
        } else {
            z[k] = a.linear[a.classes * C + k] + product;
        }
        u[k] += a.scales ? a.scales[k] * z[k] : z[k];
        a.logits[(a.train ? image : row) * a.classes + k] = z[k];
    }
    __syncthreads();
    if (a.train) {
        if (threadIdx.x == 0) {
            int best = 0;
            float most = u[0];
            for (int k = 1; k < a.classes; k++) {
                if (z[k] > z[best]) best = k;
                most = fmaxf(most, u[k]);
            }
            top = best;
            max = most;
        }
        __syncthreads();
        for (int k = threadIdx.x; k < a.classes; k += THREADS) scratch[k] = expf(u[k] - max);
        __syncthreads();
        const Row& r = a.plan[row];
        const float ca = r.coef_a, cb = r.coef_b;
        const int la = r.label_a, lb = r.label_b;
        if (threadIdx.x < 2) {
            const bool second = threadIdx.x == 1;
            labels[threadIdx.x] = label_of(a, u, scratch, max, second ? lb : la, second ? cb : ca);
        }
        __syncthreads();
        const Label one = labels[0], two = labels[1];
        if (threadIdx.x == 0) {
            const float hit = (top == la ? ca : 0) + (top == lb ? cb : 0);
            a.samples[image * 2] = one.loss + two.loss;
            a.samples[image * 2 + 1] = hit > 0 ? hit / (ca + cb) : 0;
        }
        for (int k = threadIdx.x; k < a.classes; k += THREADS) {
            float d;
            if (a.margins) {
                d = one.weight * ((k == la ? one.exp : scratch[k]) / one.sum) + two.weight * ((k == lb ? two.exp : scratch[k]) / two.sum);
            } else {
                d = (one.weight + two.weight) * (scratch[k] / one.sum);
            }
            if (k == la) d -= one.weight;
            if (k == lb) d -= two.weight;
            dz[k] = a.scales ? a.scales[k] * d : d;
        }
        __syncthreads();
        float* part = a.linear_parts + (size_t)image * a.classes * (C + 1);
        if (a.normalised) {
            // The gradients of a cosine have no component along the features or the weights.
            const float slope = COSINE_SCALE * inverse_f;
            if (threadIdx.x < C) {
                float total = 0, along = 0;
                for (int k = 0; k < a.classes; k++) {
                    total += dz[k] * slope * inverse[k] * a.linear[k * C + threadIdx.x];
                    along += dz[k] * z[k];
                }
                df[threadIdx.x] = total - along * inverse_f * inverse_f * f[threadIdx.x];
            }
            for (int i = threadIdx.x; i < a.classes * C; i += THREADS) {
                const int k = i / C;
                part[i] = dz[k] * inverse[k] * (slope * f[i % C] - z[k] * inverse[k] * a.linear[i]);
            }
        } else {
            if (threadIdx.x < C) {
                float total = 0;
                for (int k = 0; k < a.classes; k++) total += dz[k] * a.linear[k * C + threadIdx.x];
                df[threadIdx.x] = total;
            }
            for (int i = threadIdx.x; i < a.classes * C; i += THREADS) part[i] = dz[i / C] * f[i % C];
        }
        for (int k = threadIdx.x; k < a.classes; k += THREADS) part[a.classes * C + k] = a.normalised ? 0 : dz[k];
        __syncthreads();

        float d[8], first[8] = {}, second[8] = {};
        for (int i = 0; i < 8; i++) d[i] = df[g * 8 + i] / pixels;
        for (int p = threadIdx.x / GROUPS; p < pixels; p += ROWS) {
            float y[8], out[8], masked[8];
            output(p, y, out);
            for (int i = 0; i < 8; i++) {
                masked[i] = out[i] > 0 ? d[i] : 0;
                first[i] += masked[i];
                second[i] += masked[i] * y[i];
            }
            put8(a.dz + start + (size_t)p * C, masked);
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

KERNEL(head, HeadArgs, head(a))
