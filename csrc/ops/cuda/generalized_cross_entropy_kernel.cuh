// generalized_cross_entropy on CUDA: forward reads logits and probabilities once, a warp a row
// where there are few classes, else a block a row; backward reads them once more and writes the
// gradients.
#pragma once

#include "../../common/device_types.h"
#include "../../common/elementary.h"
#include "../../common/reduce.h"
#include "../generalized_cross_entropy.h"

#include <limits>

namespace sprout_fast {

constexpr int kCrossEntropyThreads = 256;
constexpr int kCrossEntropyElements =
    8;  // neighbours in a thread's hands: 128 bits of a 16-bit type

// The weights t_k of a row's classes [k, k + 8). Target: the probabilities' type, or int64_t for
// labels.
template <typename Target, typename T>
struct RowTarget {
  const GeneralizedCrossEntropyArgs& args;
  int64_t row, label;
  T keep, uniform;
  bool valid;  // a label out of range makes the row NaN, and nothing is read for it

  __device__ __forceinline__ RowTarget(const GeneralizedCrossEntropyArgs& args, int64_t row)
      : args(args),
        row(row),
        label(-1),
        keep(static_cast<T>(1 - args.smoothing)),
        uniform(static_cast<T>(args.smoothing / static_cast<double>(args.classes))),
        valid(true) {
    if constexpr (std::is_same_v<Target, int64_t>) {
      label = args.labels[row];
      valid = label >= 0 && label < args.classes;
    }
  }

  __device__ __forceinline__ void weights(int64_t k, int64_t count,
                                          T (&out)[kCrossEntropyElements]) const {
    if constexpr (std::is_same_v<Target, int64_t>) {
#pragma unroll
      for (int j = 0; j < kCrossEntropyElements; ++j) {
        out[j] = k + j == label ? keep + uniform : uniform;
      }
    } else {
      load_up_to(static_cast<const Target*>(args.probabilities) + row * args.classes + k, count,
                 out);
#pragma unroll
      for (int j = 0; j < kCrossEntropyElements; ++j) out[j] = keep * out[j] + uniform;
    }
  }
};

// Running sums over a row, each measured from its own running maximum.
template <typename T>
struct CrossEntropySums {
  T top;   // largest logit
  T sum;   // sum_k exp(logit_k - top)
  T dot;   // sum_k t_k (logit_k - top)
  T mass;  // sum_k t_k

  __device__ __forceinline__ static CrossEntropySums empty() {
    return {-std::numeric_limits<T>::infinity(), T(0), T(0), T(0)};
  }
  // 0 also between two logits of -inf.
  __device__ __forceinline__ static T difference(T x, T y) { return x == y ? T(0) : x - y; }
  // A class of weight 0 adds nothing, whatever its logit: 0 x inf counts as 0.
  __device__ __forceinline__ static T times(T weight, T x) {
    return weight == T(0) ? T(0) : weight * x;
  }
  __device__ __forceinline__ void raise_top(T new_top) {
    const T step = difference(top, new_top);
    sum *= fast_exp(step);
    dot += times(mass, step);
    top = new_top;
  }
  __device__ __forceinline__ void combine(CrossEntropySums o) {
    // A NaN on either side stays.
    const T new_top = o.top <= top || top != top ? top : o.top;
    raise_top(new_top);
    o.raise_top(new_top);
    sum += o.sum;
    dot += o.dot;
    mass += o.mass;
  }
  __device__ __forceinline__ CrossEntropySums shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, top, mask), __shfl_xor_sync(0xffffffffu, sum, mask),
            __shfl_xor_sync(0xffffffffu, dot, mask), __shfl_xor_sync(0xffffffffu, mass, mask)};
  }
};

// kWarps x 32 threads a row (threadIdx.x), blockDim.y rows a block; more than one row a block only
// with one warp a row.
template <typename Logit, typename Target, typename T, int kWarps>
__global__ void __launch_bounds__(kCrossEntropyThreads)
    generalized_cross_entropy_kernel(const __grid_constant__ GeneralizedCrossEntropyArgs args) {
  constexpr int N = kCrossEntropyElements;
  __shared__ CrossEntropySums<T> shared[kWarps];
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < args.batch;
       row += step) {
    const RowTarget<Target, T> target(args, row);
    const Logit* logits = static_cast<const Logit*>(args.logits) + row * args.classes;
    CrossEntropySums<T> sums = CrossEntropySums<T>::empty();
    for (int64_t k = threadIdx.x * N; target.valid && k < args.classes; k += 32 * kWarps * N) {
      const int64_t count = args.classes - k;
      T logit[N], weight[N];
      load_up_to(logits + k, count, logit);
      target.weights(k, count, weight);
      T new_top = sums.top;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (j >= count) {
          logit[j] = -std::numeric_limits<T>::infinity();
          weight[j] = T(0);
        }
        new_top = logit[j] <= new_top || new_top != new_top ? new_top : logit[j];
      }
      sums.raise_top(new_top);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const T from_top = sums.difference(logit[j], new_top);
        sums.sum += logit[j] == -std::numeric_limits<T>::infinity() ? T(0) : fast_exp(from_top);
        sums.dot += sums.times(weight[j], from_top);
        sums.mass += weight[j];
      }
    }
    sums = block_reduce<kWarps>(sums, shared);
    if (threadIdx.x == 0) {
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
}

// Grid: x over classes, 8 a thread; y over rows, blockDim.y a block.
template <typename Logit, typename Target, typename T>
__global__ void __launch_bounds__(kCrossEntropyThreads) generalized_cross_entropy_backward_kernel(
    const __grid_constant__ GeneralizedCrossEntropyArgs args) {
  constexpr int N = kCrossEntropyElements;
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  const int64_t count = args.classes - k;
  if (count <= 0) return;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; row < args.batch;
       row += step) {
    const int64_t first = row * args.classes + k;
    const RowTarget<Target, T> target(args, row);
    const T* stats = static_cast<const T*>(args.row_stats) + row * CrossEntropyStat::kCount;
    const T* grad_loss = static_cast<const T*>(args.grad_loss);
    T factor = args.reduction == Reduction::kNone ? grad_loss[row] : grad_loss[0];
    if (args.reduction == Reduction::kMean) factor /= static_cast<T>(args.batch);
    T value[N], weight[N];
    load_up_to(static_cast<const Logit*>(args.logits) + first, count, value);
    target.weights(k, count, weight);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      // NaN where the label is out of range: log_sum is.
      const T log_p = (value[j] - stats[CrossEntropyStat::kTop]) - stats[CrossEntropyStat::kLogSum];
      value[j] = factor * (fast_exp(log_p) * stats[CrossEntropyStat::kMass] - weight[j]);
      weight[j] = factor * target.keep * -log_p;
    }
    store_up_to(value, count, static_cast<Logit*>(args.grad_logits) + first);
    if constexpr (!std::is_same_v<Target, int64_t>) {
      if (args.grad_target != nullptr) {
        store_up_to(weight, count, static_cast<Target*>(args.grad_target) + first);
      }
    }
  }
}

}  // namespace sprout_fast
