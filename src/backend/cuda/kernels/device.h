// Definitions that the kernels need when they are compiled for a GPU (emulator.h is the counterpart).
// The launch bounds make the compiler use so few registers that two blocks fit on a multiprocessor.
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(16) unsigned char NAME[]
#define KERNEL(NAME, ARGS, CALL) \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) remix_##NAME(const __grid_constant__ ARGS a) { CALL; }
