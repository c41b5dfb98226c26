// Reduces the losses of rows to the loss, in a fixed order.
#pragma once

#include "../../common/reduce.h"
#include "../reduction.h"

namespace sprout_fast {

constexpr int kReductionThreads = 256;

// A plain number, for row_reduce.
template <typename T>
struct RunningSum {
  T value;
  __device__ __forceinline__ void combine(const RunningSum& o) { value += o.value; }
  __device__ __forceinline__ RunningSum shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, value, mask)};
  }
};

// One block. Row i's loss is values[i * stride]. Writes [batch] for Reduction::kNone, else one
// number.
template <typename T>
__global__ void __launch_bounds__(kReductionThreads)
    reduce_losses_kernel(const T* values, int64_t stride, int64_t batch, Reduction reduction,
                         T* loss) {
  __shared__ RunningSum<T> shared[kReductionThreads / 32];
  RunningSum<T> sum{T(0)};
  for (int64_t row = threadIdx.x; row < batch; row += kReductionThreads) {
    const T value = values[row * stride];
    if (reduction == Reduction::kNone) loss[row] = value;
    sum.value += value;
  }
  sum = row_reduce(sum, shared);
  if (threadIdx.x == 0 && reduction != Reduction::kNone) {
    // An empty batch has no mean: 0 / 0 is NaN, as in torch.
    loss[0] = reduction == Reduction::kMean ? sum.value / static_cast<T>(batch) : sum.value;
  }
}

}  // namespace sprout_fast
