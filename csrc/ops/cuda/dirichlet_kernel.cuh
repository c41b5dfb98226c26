// dirichlet on CUDA: a warp a row where there are few classes, else a block a row. The log variates
// wait in z's own memory for the row's sum, each for the thread that wrote it.
#pragma once

#include "../../common/device_types.h"
#include "../../common/gamma.h"
#include "../../common/reduce.h"
#include "../dirichlet.h"

namespace sprout_fast {

constexpr int kDirichletThreads = 256;

// Running sum of e^log_g, measured from its running maximum.
template <typename T>
struct LogSum {
  T top, sum;

  __device__ __forceinline__ static LogSum empty() {
    return {-std::numeric_limits<T>::infinity(), T(0)};
  }
  __device__ __forceinline__ static T scale(T from, T to) {
    return from == to ? T(1) : fast_exp(from - to);  // also -inf from -inf
  }
  __device__ __forceinline__ void combine(const LogSum& o) {
    // A NaN on either side stays.
    const T new_top = o.top <= top || top != top ? top : o.top;
    sum = sum * scale(top, new_top) + o.sum * scale(o.top, new_top);
    top = new_top;
  }
  __device__ __forceinline__ LogSum shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, top, mask), __shfl_xor_sync(0xffffffffu, sum, mask)};
  }
};

// kWarps x 32 threads a row (threadIdx.x), blockDim.y rows a block; more than one row a block only
// with one warp a row.
template <typename T, int kWarps>
__global__ void __launch_bounds__(kDirichletThreads)
    dirichlet_kernel(const __grid_constant__ DirichletArgs args) {
  constexpr int N = 16 / sizeof(T);
  __shared__ LogSum<T> shared[kWarps];
  const PhiloxCall call(args.rng_state, args.elements_a_row);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < args.rows;
       row += step) {
    const T* concentration = static_cast<const T*>(args.concentration) + row * args.classes;
    T* out = static_cast<T*>(args.z) + row * args.classes;
    LogSum<T> total = LogSum<T>::empty();
    for (int64_t k = threadIdx.x * N; k < args.classes; k += 32 * kWarps * N) {
      const int64_t count = args.classes - k;
      T value[N];
      load_up_to(concentration + k, count, value);  // 0 behind the end: log G = -inf
#pragma unroll 1
      for (int j = 0; j < N; ++j) {
        // One copy of the sampler's code; `value` stays in registers by compile-time places.
        T a = T(0);
#pragma unroll
        for (int i = 0; i < N; ++i) a = i == j ? value[i] : a;
        const T log_g = log_gamma_variate(a, call, Stream::kGamma,
                                          call.first_element + row * args.classes + k + j);
        if (log_g != -std::numeric_limits<T>::infinity()) total.combine({log_g, T(1)});
#pragma unroll
        for (int i = 0; i < N; ++i) value[i] = i == j ? log_g : value[i];
      }
      store_up_to(value, count, out + k);
    }
    total = block_reduce<kWarps>(total, shared);
    // With all concentrations 0 there is no distribution: a NaN row.
    const T log_sum = total.sum == T(0) ? device_nan<T>() : std::log(total.sum);
    if (threadIdx.x == 0) static_cast<T*>(args.log_total)[row] = total.top + log_sum;
    for (int64_t k = threadIdx.x * N; k < args.classes; k += 32 * kWarps * N) {
      const int64_t count = args.classes - k;
      T value[N];
      load_up_to(out + k, count, value);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const T log_z = (value[j] - total.top) - log_sum;
        value[j] = log_z < T(-kNegligibleNats) ? T(0) : fast_exp(log_z);
      }
      store_up_to(value, count, out + k);
    }
  }
}

// sum_j z_j (g_j - anchor) and sum_j z_j, anchor the gradient of the largest z so far: an entry
// close to 1 does not cancel.
template <typename T>
struct MeanGradient {
  T largest, anchor, sum, mass;

  __device__ __forceinline__ void combine(const MeanGradient& o) {
    if (o.mass == T(0)) return;
    // The same choice on both sides of a shuffle: of two equal z the larger gradient.
    const bool theirs =
        mass == T(0) || o.largest > largest || (o.largest == largest && o.anchor > anchor);
    const T new_anchor = theirs ? o.anchor : anchor;
    const T own = mass == T(0) ? T(0) : sum + mass * (anchor - new_anchor);
    sum = own + (o.sum + o.mass * (o.anchor - new_anchor));
    mass += o.mass;
    largest = theirs ? o.largest : largest;
    anchor = new_anchor;
  }
  __device__ __forceinline__ MeanGradient shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, largest, mask), __shfl_xor_sync(0xffffffffu, anchor, mask),
            __shfl_xor_sync(0xffffffffu, sum, mask), __shfl_xor_sync(0xffffffffu, mass, mask)};
  }
};

template <typename T, int kWarps>
__global__ void __launch_bounds__(kDirichletThreads)
    dirichlet_backward_kernel(const __grid_constant__ DirichletBackwardArgs args) {
  constexpr int N = 16 / sizeof(T);
  __shared__ MeanGradient<T> shared[kWarps];
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < args.rows;
       row += step) {
    const int64_t base = row * args.classes;
    const T* grad_z = static_cast<const T*>(args.grad_z) + base;
    const T* concentration = static_cast<const T*>(args.concentration) + base;
    const T* z = static_cast<const T*>(args.z) + base;
    T* out = static_cast<T*>(args.grad_concentration) + base;
    MeanGradient<T> mean{T(0), T(0), T(0), T(0)};
    for (int64_t k = threadIdx.x * N; k < args.classes; k += 32 * kWarps * N) {
      const int64_t count = args.classes - k;
      T entry[N], grad[N];
      load_up_to(z + k, count, entry);
      load_up_to(grad_z + k, count, grad);
      // An entry of 0 counts for nothing, whatever its gradient; a NaN goes in.
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (entry[j] != T(0)) mean.combine({entry[j], grad[j], T(0), entry[j]});
      }
    }
    mean = block_reduce<kWarps>(mean, shared);
    const double log_total = static_cast<const T*>(args.log_total)[row];
    for (int64_t k = threadIdx.x * N; k < args.classes; k += 32 * kWarps * N) {
      const int64_t count = args.classes - k;
      T a[N], entry[N], grad[N];
      load_up_to(concentration + k, count, a);
      load_up_to(z + k, count, entry);
      load_up_to(grad_z + k, count, grad);
#pragma unroll 1
      for (int j = 0; j < N; ++j) {
        T a_j = T(0), entry_j = T(0), grad_j = T(0);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          a_j = i == j ? a[i] : a_j;
          entry_j = i == j ? entry[i] : entry_j;
          grad_j = i == j ? grad[i] : grad_j;
        }
        T result = T(0);
        if (entry_j != T(0)) {
          const double log_g = std::log(static_cast<double>(entry_j)) + log_total;
          const double through_z =
              static_cast<double>(entry_j) * ((grad_j - mean.anchor) - mean.sum);
          result = static_cast<T>(through_z * log_gamma_gradient(a_j, log_g));
        }
#pragma unroll
        for (int i = 0; i < N; ++i) a[i] = i == j ? result : a[i];
      }
      store_up_to(a, count, out + k);
    }
  }
}

}  // namespace sprout_fast
