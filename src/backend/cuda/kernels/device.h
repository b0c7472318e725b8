// Definitions that the kernels need when they are compiled for a GPU (emulator.h is the counterpart).
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(16) unsigned char NAME[]
#define KERNEL(NAME, ARGS, BLOCKS, CALL) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) remix_##NAME(const __grid_constant__ ARGS a) { CALL; }
