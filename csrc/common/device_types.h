// Element types on the device: conversions, and 128-bit loads and stores.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sprout_fast {

template <typename T>
__device__ __forceinline__ T load_as(uint8_t v) {
  return static_cast<T>(v);
}
template <typename T>
__device__ __forceinline__ T load_as(float v) {
  return static_cast<T>(v);
}
template <typename T>
__device__ __forceinline__ T load_as(double v) {
  return static_cast<T>(v);
}
template <typename T>
__device__ __forceinline__ T load_as(__half v) {
  return static_cast<T>(__half2float(v));
}
template <typename T>
__device__ __forceinline__ T load_as(__nv_bfloat16 v) {
  return static_cast<T>(__bfloat162float(v));
}

// Rounds once, to nearest even.
template <typename T>
__device__ __forceinline__ void store_as(T v, float* out) {
  *out = static_cast<float>(v);
}
template <typename T>
__device__ __forceinline__ void store_as(T v, double* out) {
  *out = static_cast<double>(v);
}
template <typename T>
__device__ __forceinline__ void store_as(T v, __half* out) {
  *out = __float2half_rn(static_cast<float>(v));
}
template <typename T>
__device__ __forceinline__ void store_as(T v, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(static_cast<float>(v));
}

// Elements that a thread loads and stores at once, 128 bits of the wider type: neighboring lanes
// access neighboring packets, so a request of a warp fills whole 32-byte sectors.
template <typename A, typename B>
constexpr int kPacketElements = 16 / (sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

// The unsigned type of an access of this many bytes, or of 16 if there are more.
template <int kBytes>
using AccessWord =
    std::conditional_t<kBytes == 4, uint32_t, std::conditional_t<kBytes == 8, uint2, uint4>>;

// N elements, loaded and stored by 128-bit accesses, or by one of 64 or 32 bits if there are fewer;
// `p` must be aligned to the access.
template <typename E, int N>
struct alignas(AccessWord<N * sizeof(E)>) Packet {
  using Word = AccessWord<N * sizeof(E)>;
  static constexpr int kWords = N * sizeof(E) / sizeof(Word);
  static_assert(N * sizeof(E) % sizeof(Word) == 0, "a packet must consist of whole words");
  E value[N];

  static __host__ __device__ __forceinline__ bool is_aligned(const E* p) {
    return reinterpret_cast<uintptr_t>(p) % sizeof(Word) == 0;
  }

  __device__ __forceinline__ void load(const E* p) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      reinterpret_cast<Word*>(value)[i] = reinterpret_cast<const Word*>(p)[i];
    }
  }
  __device__ __forceinline__ void store(E* p) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      reinterpret_cast<Word*>(p)[i] = reinterpret_cast<const Word*>(value)[i];
    }
  }
  // For `p` in global memory. By intrinsic, because nvcc splits the store of a uint4 that was
  // assembled from smaller parts into four (tests/tools/test_report_kernels.py counts them).
  __device__ __forceinline__ void store_global(E* p) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      __stwb(reinterpret_cast<Word*>(p) + i, reinterpret_cast<const Word*>(value)[i]);
    }
  }
};

__host__ __device__ __forceinline__ bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// Loads elements [k, k + N) of `p` as T, with `outside` for those not in [begin, end). Uses whole
// words if all of them are inside and aligned.
template <typename E, typename T, int N>
__device__ __forceinline__ void load_packet(const E* p, int64_t k, int64_t begin, int64_t end,
                                            T outside, T (&out)[N]) {
  if (k >= begin && k + N <= end && Packet<E, N>::is_aligned(p + k)) {
    Packet<E, N> packet;
    packet.load(p + k);
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = load_as<T>(packet.value[j]);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      out[j] = k + j >= begin && k + j < end ? load_as<T>(p[k + j]) : outside;
    }
  }
}

// The reverse, to global memory.
template <typename E, typename T, int N>
__device__ __forceinline__ void store_packet(const T (&values)[N], int64_t k, int64_t begin,
                                             int64_t end, E* p) {
  Packet<E, N> packet;
#pragma unroll
  for (int j = 0; j < N; ++j) store_as(values[j], &packet.value[j]);
  if (k >= begin && k + N <= end && Packet<E, N>::is_aligned(p + k)) {
    packet.store_global(p + k);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (k + j >= begin && k + j < end) p[k + j] = packet.value[j];
    }
  }
}

// Stores a whole packet to shared memory, at an aligned address.
template <typename T, int N>
__device__ __forceinline__ void keep_packet(const T (&values)[N], T* p) {
  Packet<T, N> packet;
#pragma unroll
  for (int j = 0; j < N; ++j) packet.value[j] = values[j];
  packet.store(p);
}

// Read and write values[j] for a j not known at compile time, by comparing it with every constant
// index, so that `values` stays in registers.
template <typename T, int N>
__device__ __forceinline__ T pick(const T (&values)[N], int j) {
  T value = values[0];
#pragma unroll
  for (int i = 1; i < N; ++i) value = i == j ? values[i] : value;
  return value;
}
template <typename T, int N>
__device__ __forceinline__ void put(T (&values)[N], int j, T value) {
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = i == j ? value : values[i];
}

// Square root with a relative error of at most 2^-23 (PTX ISA, sqrt.approx): one instruction.
__device__ __forceinline__ float approximate_sqrt(float x) {
#if defined(__CUDA_ARCH__)
  float root;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
#else
  return sqrtf(x) * (1.0f + 0x1p-23f);  // the tests' SIMT harness applies the error
#endif
}

template <typename T>
__device__ __forceinline__ T device_nan();
template <>
__device__ __forceinline__ float device_nan<float>() {
  return __int_as_float(0x7fc00000);
}
template <>
__device__ __forceinline__ double device_nan<double>() {
  return __longlong_as_double(0x7ff8000000000000ll);
}

}  // namespace sprout_fast
