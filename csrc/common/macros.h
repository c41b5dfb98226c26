// What lets one source serve the host compiler, nvcc and the SIMT harness of the tests.
#pragma once

#if defined(__CUDACC__)
#define SPROUT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define SPROUT_HOST_DEVICE inline __attribute__((always_inline))
#endif

// Declares `uint4* name`: the shared memory that a launch asks for. The SIMT harness has its own.
#if defined(__CUDACC__) && !defined(SPROUT_DYNAMIC_SHARED)
#define SPROUT_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
#endif

// What libsprout_fast offers to libsprout_fast_cuda and _C; everything else is hidden.
#define SPROUT_EXPORT __attribute__((visibility("default")))
