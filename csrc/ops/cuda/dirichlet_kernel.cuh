// dirichlet on CUDA: from a few threads to a whole block per row. The log variates are kept in z's
// memory until the row's sum is known; each is read back by the thread that wrote it.
#pragma once

#include "../../common/gamma_gradient.h"
#include "../../common/reduce.h"
#include "../dirichlet_args.h"
#include "gamma_packet.cuh"
#include "row.cuh"

namespace sprout_fast {

constexpr int kDirichletThreads = 512;

// Block size of both kernels.
template <typename T>
dim3 dirichlet_block(int64_t classes) {
  return row_block(packets_per_row(classes, kPacket<T>), kDirichletThreads, 128);
}
inline dim3 dirichlet_grid(int64_t rows, dim3 block) { return grid_of(ceil_div(rows, block.y)); }

// Running sum of e^log_g, relative to its running maximum.
template <typename T>
struct LogSum {
  T top, sum;

  __device__ __forceinline__ void combine(const LogSum& o) {
    const T new_top = larger(top, o.top);
    sum = sum * exp_below(top, new_top) + o.sum * exp_below(o.top, new_top);
    top = new_top;
  }
  __device__ __forceinline__ LogSum shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, top, mask), __shfl_xor_sync(0xffffffffu, sum, mask)};
  }
};

template <typename T>
__global__ void __launch_bounds__(kDirichletThreads)
    dirichlet_kernel(const __grid_constant__ DirichletArgs args) {
  constexpr int N = kPacket<T>;
  __shared__ LogSum<T> shared[kDirichletThreads / 32];
  const PhiloxCall call(args.rng_state, args.elements_per_row);
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t element = call.first_element + row * args.classes;
  // Threads beyond the last row have no packets, but take part in the reduction.
  const RowPackets<N> packets(element, args.classes);
  const int64_t count = row < args.rows ? packets.count : 0;
  const T* concentration = static_cast<const T*>(args.concentration) + row * args.classes;
  T* out = static_cast<T*>(args.z) + row * args.classes;
  LogSum<T> total{-std::numeric_limits<T>::infinity(), T(0)};
  for (int64_t p = threadIdx.x; p < count; p += blockDim.x) {
    const int64_t k = packets.begin(p);
    T a[N], log_g[N];
    load_packet(concentration, k, 0, args.classes, T(0), a);
    log_gamma_packet(a, call, element + k, total.top - T(kNegligibleBoostNats), log_g);
    T new_top = total.top;
#pragma unroll
    for (int j = 0; j < N; ++j) new_top = larger(new_top, log_g[j]);
    total.sum *= exp_below(total.top, new_top);
#pragma unroll
    for (int j = 0; j < N; ++j) total.sum += exp_below(log_g[j], new_top);
    total.top = new_top;
    store_packet(log_g, k, 0, args.classes, out);
  }
  total = row_reduce(total, shared);
  // All concentrations 0 define no distribution: the row is NaN.
  const T log_sum = total.sum == T(0) ? device_nan<T>() : std::log(total.sum);
  if (threadIdx.x == 0 && count > 0) {
    static_cast<T*>(args.log_total)[row] = total.top + log_sum;
  }
  for (int64_t p = threadIdx.x; p < count; p += blockDim.x) {
    const int64_t k = packets.begin(p);
    T value[N];
    load_packet(out, k, 0, args.classes, T(0), value);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const T log_z = (value[j] - total.top) - log_sum;
      value[j] = log_z < T(-kNegligibleNats) ? T(0) : fast_exp(log_z);
    }
    store_packet(value, k, 0, args.classes, out);
  }
}

// sum_j z_j (g_j - anchor) and sum_j z_j, where anchor is the gradient of the largest z so far, so
// that there is no cancellation for an entry close to 1.
template <typename T>
struct MeanGradient {
  T largest, anchor, sum, mass;

  __device__ __forceinline__ void combine(const MeanGradient& o) {
    if (o.mass == T(0)) return;
    // Both sides of a shuffle must choose the same: for equal z the larger gradient.
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

template <typename T>
__global__ void __launch_bounds__(kDirichletThreads)
    dirichlet_backward_kernel(const __grid_constant__ DirichletBackwardArgs args) {
  constexpr int N = kPacket<T>;
  __shared__ MeanGradient<T> shared[kDirichletThreads / 32];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t first = row * args.classes;
  const RowPackets<N> packets(first, args.classes);
  const int64_t count = row < args.rows ? packets.count : 0;
  const T* grad_z = static_cast<const T*>(args.grad_z) + first;
  const T* concentration = static_cast<const T*>(args.concentration) + first;
  const T* z = static_cast<const T*>(args.z) + first;
  T* out = static_cast<T*>(args.grad_concentration) + first;
  MeanGradient<T> mean{T(0), T(0), T(0), T(0)};
  for (int64_t p = threadIdx.x; p < count; p += blockDim.x) {
    const int64_t k = packets.begin(p);
    T entry[N], grad[N];
    load_packet(z, k, 0, args.classes, T(0), entry);
    load_packet(grad_z, k, 0, args.classes, T(0), grad);
    // Entries of 0 contribute nothing, whatever their gradient; NaN does.
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (entry[j] != T(0)) mean.combine({entry[j], grad[j], T(0), entry[j]});
    }
  }
  mean = row_reduce(mean, shared);
  const T log_total = count > 0 ? static_cast<const T*>(args.log_total)[row] : T(0);
  for (int64_t p = threadIdx.x; p < count; p += blockDim.x) {
    const int64_t k = packets.begin(p);
    T a[N], entry[N], grad[N];
    load_packet(concentration, k, 0, args.classes, T(0), a);
    load_packet(z, k, 0, args.classes, T(0), entry);
    load_packet(grad_z, k, 0, args.classes, T(0), grad);
#pragma unroll 1
    for (int j = 0; j < N; ++j) {  // keep a single copy of the series in the code
      const T entry_j = pick(entry, j);
      T result = T(0);
      if (entry_j != T(0)) {
        const T log_g = fast_log(entry_j) + log_total;
        const T through_z = entry_j * ((pick(grad, j) - mean.anchor) - mean.sum);
        result = static_cast<T>(through_z * log_gamma_gradient(pick(a, j), log_g));
      }
      put(grad, j, result);
    }
    store_packet(grad, k, 0, args.classes, out);
  }
}

}  // namespace sprout_fast
