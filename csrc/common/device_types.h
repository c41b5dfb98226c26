// The device's element types: conversions and 128-bit loads and stores.
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

// N elements, N sizeof(E) a multiple of 16, by 128-bit accesses; `p` 16-byte aligned.
template <typename E, int N>
struct alignas(16) Packet {
  static_assert(N * sizeof(E) % 16 == 0, "a packet is whole 128-bit words");
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
      // By name: nvcc splits the store of a uint4 in four where it is made of smaller parts.
      __stwb(reinterpret_cast<uint4*>(p) + i, reinterpret_cast<const uint4*>(value)[i]);
    }
  }
};

__host__ __device__ __forceinline__ bool is_aligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// The first `count` of N elements from `p` on as T, 0 for the rest; by 128-bit accesses where all
// of them are there and aligned.
template <typename E, typename T, int N>
__device__ __forceinline__ void load_up_to(const E* p, int64_t count, T (&out)[N]) {
  if (count >= N && is_aligned(p)) {
    Packet<E, N> packet;
    packet.load(p);
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = load_as<T>(packet.value[j]);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) out[j] = j < count ? load_as<T>(p[j]) : T(0);
  }
}

template <typename E, typename T, int N>
__device__ __forceinline__ void store_up_to(const T (&values)[N], int64_t count, E* p) {
  Packet<E, N> packet;
#pragma unroll
  for (int j = 0; j < N; ++j) store_as(values[j], &packet.value[j]);
  if (count >= N && is_aligned(p)) {
    packet.store(p);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (j < count) p[j] = packet.value[j];
    }
  }
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
