// generalized_cross_entropy on CUDA. Forward reads logits and probabilities once, with a few
// threads to a whole block per row. Backward reads them once more and writes the gradients.
#pragma once

#include <type_traits>

#include "../../common/reduce.h"
#include "../generalized_cross_entropy_args.h"
#include "row.cuh"

namespace sprout_fast {

constexpr int kCrossEntropyThreads = 512;
// Consecutive elements per thread: 128 bits of a 16-bit type, which logits or target may have.
constexpr int kCrossEntropyElements = 8;

// The weights t_k of classes [k, k + 8) of a row, 0 for those outside the row. Target is the type
// of the probabilities, or int64_t for labels.
template <typename Target, typename T>
struct RowTarget {
  const GeneralizedCrossEntropyArgs& args;
  int64_t row, label;
  T keep, uniform;
  bool valid;  // false for an out-of-range label, which makes the row NaN without reading it

  // valid: whether the row exists.
  __device__ __forceinline__ RowTarget(const GeneralizedCrossEntropyArgs& args, int64_t row,
                                       bool valid)
      : args(args),
        row(row),
        label(-1),
        keep(static_cast<T>(1 - args.smoothing)),
        uniform(static_cast<T>(args.smoothing / static_cast<double>(args.classes))),
        valid(valid) {
    if constexpr (std::is_same_v<Target, int64_t>) {
      if (!valid) return;
      label = args.labels[row];
      this->valid = label >= 0 && label < args.classes;
    }
  }

  __device__ __forceinline__ void weights(int64_t k, T (&out)[kCrossEntropyElements]) const {
    if constexpr (!std::is_same_v<Target, int64_t>) {
      load_packet(static_cast<const Target*>(args.probabilities) + row * args.classes, k, 0,
                  args.classes, T(0), out);
    }
#pragma unroll
    for (int j = 0; j < kCrossEntropyElements; ++j) {
      const bool inside = k + j >= 0 && k + j < args.classes;
      T own;
      if constexpr (std::is_same_v<Target, int64_t>) {
        own = k + j == label ? keep : T(0);
      } else {
        own = keep * out[j];
      }
      out[j] = inside ? own + uniform : T(0);
    }
  }
};

// Running sums over a row, each relative to the running maximum.
template <typename T>
struct CrossEntropySums {
  T top;   // largest logit
  T sum;   // sum_k exp(logit_k - top)
  T dot;   // sum_k t_k (logit_k - top)
  T mass;  // sum_k t_k

  // 0 for two logits of -inf, too.
  __device__ __forceinline__ static T difference(T x, T y) { return x == y ? T(0) : x - y; }
  // A class of weight 0 contributes nothing, whatever its logit: 0 * inf counts as 0.
  __device__ __forceinline__ static T times(T weight, T x) {
    return weight == T(0) ? T(0) : weight * x;
  }
  __device__ __forceinline__ void raise_top(T new_top) {
    const T step = difference(top, new_top);
    sum *= fast_exp(step);
    dot += times(mass, step);
    top = new_top;
  }
  // o is relative to the same maximum.
  __device__ __forceinline__ void add(const CrossEntropySums& o) {
    sum += o.sum;
    dot += o.dot;
    mass += o.mass;
  }
  __device__ __forceinline__ void combine(CrossEntropySums o) {
    const T new_top = larger(top, o.top);
    raise_top(new_top);
    o.raise_top(new_top);
    add(o);
  }
  __device__ __forceinline__ CrossEntropySums shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, top, mask), __shfl_xor_sync(0xffffffffu, sum, mask),
            __shfl_xor_sync(0xffffffffu, dot, mask), __shfl_xor_sync(0xffffffffu, mass, mask)};
  }
};

template <typename Logit, typename Target, typename T>
__global__ void __launch_bounds__(kCrossEntropyThreads)
    generalized_cross_entropy_kernel(const __grid_constant__ GeneralizedCrossEntropyArgs args) {
  constexpr int N = kCrossEntropyElements;
  __shared__ CrossEntropySums<T> shared[kCrossEntropyThreads / 32];
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  // Threads without a row or a valid label have no packets, but take part in the reduction.
  const RowTarget<Target, T> target(args, row, row < args.batch);
  const RowPackets<N> packets(row * args.classes, args.classes);
  const int64_t count = target.valid ? packets.count : 0;
  const Logit* logits = static_cast<const Logit*>(args.logits) + row * args.classes;
  const T nothing = -std::numeric_limits<T>::infinity();
  CrossEntropySums<T> sums{nothing, T(0), T(0), T(0)};
  for (int64_t p = threadIdx.x; p < count; p += blockDim.x) {
    const int64_t k = packets.begin(p);
    T logit[N], weight[N];
    load_packet(logits, k, 0, args.classes, nothing, logit);
    target.weights(k, weight);
    T new_top = sums.top;
#pragma unroll
    for (int j = 0; j < N; ++j) new_top = larger(new_top, logit[j]);
    sums.raise_top(new_top);
    // A packet's terms are added up first: in one long sum of 1e5 classes, roundings of equal terms
    // add up to 30 ulp.
    CrossEntropySums<T> packet{new_top, T(0), T(0), T(0)};
#pragma unroll
    for (int j = 0; j < N; ++j) {
      packet.sum += exp_below(logit[j], new_top);
      packet.dot += sums.times(weight[j], sums.difference(logit[j], new_top));
      packet.mass += weight[j];
    }
    sums.add(packet);
  }
  sums = row_reduce(sums, shared);
  if (threadIdx.x == 0 && row < args.batch) {
    T* stats = static_cast<T*>(args.row_stats) + row * CrossEntropyStat::kCount;
    // A row without a finite logit is NaN.
    const T log_sum = target.valid && sums.sum != T(0) ? std::log(sums.sum) : device_nan<T>();
    const T mass = std::is_same_v<Target, int64_t> ? T(1) : sums.mass;
    stats[CrossEntropyStat::kTop] = sums.top;
    stats[CrossEntropyStat::kLogSum] = log_sum;
    stats[CrossEntropyStat::kLoss] = mass * log_sum - sums.dot;
    stats[CrossEntropyStat::kMass] = mass;
  }
}
inline dim3 cross_entropy_block(const GeneralizedCrossEntropyArgs& args) {
  return row_block(packets_per_row(args.classes, kCrossEntropyElements), kCrossEntropyThreads, 128);
}
inline dim3 cross_entropy_grid(const GeneralizedCrossEntropyArgs& args) {
  return grid_of(ceil_div(args.batch, cross_entropy_block(args).y));
}

// One packet per thread. Grid: x over rows, y over packets.
template <typename Logit, typename Target, typename T>
__global__ void __launch_bounds__(kCrossEntropyThreads) generalized_cross_entropy_backward_kernel(
    const __grid_constant__ GeneralizedCrossEntropyArgs args) {
  constexpr int N = kCrossEntropyElements;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= args.batch) return;
  const int64_t first = row * args.classes;
  const RowPackets<N> packets(first, args.classes);
  const RowTarget<Target, T> target(args, row, true);
  const T* stats = static_cast<const T*>(args.row_stats) + row * CrossEntropyStat::kCount;
  const T* grad_loss = static_cast<const T*>(args.grad_loss);
  T factor = args.reduction == Reduction::kNone ? grad_loss[row] : grad_loss[0];
  if (args.reduction == Reduction::kMean) factor /= static_cast<T>(args.batch);
  for (int64_t p = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; p < packets.count;
       p += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const int64_t k = packets.begin(p);
    T value[N], weight[N];
    load_packet(static_cast<const Logit*>(args.logits) + first, k, 0, args.classes, T(0), value);
    target.weights(k, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      // NaN for an out-of-range label, since log_sum is.
      const T log_p = (value[j] - stats[CrossEntropyStat::kTop]) - stats[CrossEntropyStat::kLogSum];
      value[j] = factor * (fast_exp(log_p) * stats[CrossEntropyStat::kMass] - weight[j]);
      weight[j] = factor * target.keep * -log_p;
    }
    store_packet(value, k, 0, args.classes, static_cast<Logit*>(args.grad_logits) + first);
    if constexpr (!std::is_same_v<Target, int64_t>) {
      if (args.grad_target != nullptr) {
        store_packet(weight, k, 0, args.classes, static_cast<Target*>(args.grad_target) + first);
      }
    }
  }
}
inline dim3 cross_entropy_backward_block(const GeneralizedCrossEntropyArgs& args) {
  return row_block(packets_per_row(args.classes, kCrossEntropyElements), 128, 128);
}
inline dim3 cross_entropy_backward_grid(const GeneralizedCrossEntropyArgs& args) {
  const dim3 block = cross_entropy_backward_block(args);
  return grid_of(ceil_div(args.batch, block.y),
                 ceil_div(packets_per_row(args.classes, kCrossEntropyElements), block.x));
}

}  // namespace sprout_fast
