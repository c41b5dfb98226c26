// Reductions over the threads of a row, in a fixed order so that the same input gives the same
// bits.
#pragma once

#include <limits>

#include "elementary.h"

namespace sprout_fast {

// For sums of exponentials relative to their running maximum. The larger of two numbers; NaN if
// either is.
template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return b <= a || a != a ? a : b;
}

// exp(x - top) for x <= top; 0 if both are -inf, i.e. before the first term.
template <typename T>
__device__ __forceinline__ T exp_below(T x, T top) {
  return x == -std::numeric_limits<T>::infinity() && x == top ? T(0) : fast_exp(x - top);
}

// blockDim.x, a power of two, is the number of threads per row and blockDim.y that of rows per
// block; their product must be a multiple of 32. All threads of the block must call it, and each
// gets its row's result. V is a struct with combine(other) and shuffled(lane_mask), which returns
// the struct of the lane whose index differs by the mask. `shared` has room for one value per warp
// and must not be used for anything else.
template <typename V>
__device__ __forceinline__ V row_reduce(V v, V* shared) {
  const int lanes = blockDim.x < 32 ? static_cast<int>(blockDim.x) : 32;
  for (int mask = lanes / 2; mask > 0; mask /= 2) v.combine(v.shuffled(mask));
  if (blockDim.x <= 32) return v;
  const int warps = static_cast<int>(blockDim.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  V* of_row = shared + threadIdx.y * warps;
  if (lane == 0) of_row[threadIdx.x / 32] = v;
  __syncthreads();
  v = of_row[lane % warps];
  for (int mask = warps / 2; mask > 0; mask /= 2) v.combine(v.shuffled(mask));
  return v;
}

}  // namespace sprout_fast
