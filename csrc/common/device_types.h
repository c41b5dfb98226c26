// Element types on the device: conversions, and 128-bit loads and stores.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

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

// N elements, loaded and stored by 128-bit accesses; `p` must be 16-byte aligned.
template <typename E, int N>
struct alignas(16) Packet {
  static_assert(N * sizeof(E) % 16 == 0, "a packet must consist of whole 128-bit words");
  E value[N];

  __device__ __forceinline__ void load(const E* p) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(N * sizeof(E) / 16); ++i) {
      reinterpret_cast<uint4*>(value)[i] = reinterpret_cast<const uint4*>(p)[i];
    }
  }
  __device__ __forceinline__ void store(E* p) const {
#pragma unroll
    for (int i = 0; i < static_cast<int>(N * sizeof(E) / 16); ++i) {
      reinterpret_cast<uint4*>(p)[i] = reinterpret_cast<const uint4*>(value)[i];
    }
  }
  // For `p` in global memory. By intrinsic, because nvcc splits the store of a uint4 that was
  // assembled from smaller parts into four (tests/tools/test_report_kernels.py counts them).
  __device__ __forceinline__ void store_global(E* p) const {
#pragma unroll
    for (int i = 0; i < static_cast<int>(N * sizeof(E) / 16); ++i) {
      __stwb(reinterpret_cast<uint4*>(p) + i, reinterpret_cast<const uint4*>(value)[i]);
    }
  }
};

__host__ __device__ __forceinline__ bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// Loads elements [k, k + N) of `p` as T, with `outside` for those not in [begin, end). Uses 128-bit
// accesses if all of them are inside and aligned.
template <typename E, typename T, int N>
__device__ __forceinline__ void load_packet(const E* p, int64_t k, int64_t begin, int64_t end,
                                            T outside, T (&out)[N]) {
  if (k >= begin && k + N <= end && is_aligned(p + k)) {
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
  if (k >= begin && k + N <= end && is_aligned(p + k)) {
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
