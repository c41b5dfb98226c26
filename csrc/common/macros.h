// Macros that let one source serve the host compiler, nvcc and the tests' SIMT harness.
#pragma once

#if defined(__CUDACC__)
#define SPROUT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SPROUT_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Declares `uint4* name`, the dynamic shared memory of a launch. The SIMT harness defines its own.
#if defined(__CUDACC__) && !defined(SPROUT_DYNAMIC_SHARED)
#define SPROUT_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
#endif

// Exported by libsprout_fast to libsprout_fast_cuda and _C; all other symbols are hidden.
#define SPROUT_EXPORT __attribute__((visibility("default")))
