// log_gamma on CUDA: a thread takes one 128-bit word of neighbouring elements.
#pragma once

#include "../../common/device_types.h"
#include "../log_gamma.h"

namespace sprout_fast {

constexpr int kGammaThreads = 256;

// Elements of T in a thread's hands.
template <typename T>
constexpr int kGammaElements = 16 / sizeof(T);

template <typename T>
__global__ void __launch_bounds__(kGammaThreads)
    log_gamma_kernel(const __grid_constant__ LogGammaArgs args) {
  constexpr int N = kGammaElements<T>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  const int64_t count = args.numel - first;
  if (count <= 0) return;
  const PhiloxCall call(args.rng_state, args.elements_a_row);
  T value[N];
  load_up_to(static_cast<const T*>(args.concentration) + first, count, value);
#pragma unroll 1
  for (int j = 0; j < N; ++j) {
    // One copy of the sampler's code; `value` stays in registers by compile-time places.
    T a = T(0);
#pragma unroll
    for (int i = 0; i < N; ++i) a = i == j ? value[i] : a;
    const T log_g = log_gamma_variate(a, call, Stream::kGamma, call.first_element + first + j);
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = i == j ? log_g : value[i];
  }
  store_up_to(value, count, static_cast<T*>(args.log_g) + first);
}

template <typename T>
__global__ void __launch_bounds__(kGammaThreads)
    log_gamma_backward_kernel(const __grid_constant__ LogGammaBackwardArgs args) {
  // One element a thread: the series in double outweighs the accesses by far.
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.numel) return;
  static_cast<T*>(args.grad_concentration)[i] = log_gamma_chain(
      static_cast<const T*>(args.grad)[i], static_cast<const T*>(args.concentration)[i],
      static_cast<const T*>(args.log_g)[i]);
}

}  // namespace sprout_fast
