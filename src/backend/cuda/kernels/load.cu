// The loader: gathers images by the epoch's plan, crops, flips, mixes and normalises them, by the same
// formulas as backend/cpu/load.

// Returns the pixel of an augmented image, or null if it is black.
__device__ __forceinline__ const u8* pixel_of(const LoadArgs& a, const Row& r, int row, int col) {
    if (r.view >> 16 & 1) col = a.width - 1 - col;
    row += (int)(r.view & 255) - 128;
    col += (int)(r.view >> 8 & 255) - 128;
    if (row < 0 || row >= a.height || col < 0 || col >= a.width) return nullptr;
    return a.pixels + (((size_t)r.index * a.height + row) * a.width + col) * 3;
}

__device__ void load_images(const LoadArgs& a) {
    wait_for_previous_kernel();
    launch_next_kernel();
    const int at = blockIdx.x * THREADS + threadIdx.x, len = a.height * a.width;
    for (int i = at; i < a.count; i += gridDim.x * THREADS) a.sums[i] = 0;
    if (at >= a.images * len) return;
    const Row* rows = a.plan + (size_t)*a.step * a.batch;
    const Row& own = rows[at / len];
    const Row& other = rows[own.partner];
    const int row = at % len / a.width, col = at % a.width;
    const u8* first = pixel_of(a, own, row, col);
    const u8* second = pixel_of(a, other, row, col);
    float lambda = a.mixes ? own.lambda : 1;
    const int top = own.rows & 65535, bottom = own.rows >> 16, left = own.columns & 65535, right = own.columns >> 16;
    if (top < bottom && left < right) lambda = row >= top && row < bottom && col >= left && col < right ? 0 : 1;
    float v[4] = {0, 0, 0, 0};
    for (int c = 0; c < 3; c++) {
        const float* level = a.levels + c * 256;
        const float x = level[first ? first[c] : 0];
        v[c] = lambda == 1 ? x : lambda * x + (1 - lambda) * level[second ? second[c] : 0];
    }
    store4(a.x + (size_t)at * 4, v);
}

KERNEL(load, LoadArgs, load_images(a))
