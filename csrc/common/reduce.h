// Reductions over the threads of a row in a fixed order, so that the same input gives the same
// bits.
#pragma once

#include <limits>

#include "elementary.h"

namespace sprout_fast {

// For sums of exponentials that are measured from their running maximum. The larger of two numbers;
// a NaN on either side stays.
template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return b <= a || a != a ? a : b;
}

// exp(x - top) for x <= top; 0 where both are -inf: there is nothing yet.
template <typename T>
__device__ __forceinline__ T exp_below(T x, T top) {
  return x == -std::numeric_limits<T>::infinity() && x == top ? T(0) : fast_exp(x - top);
}

// A row's threads are blockDim.x, a power of two; blockDim.y rows a block, blockDim.x x blockDim.y
// a multiple of 32. Every thread of the block must come, and gets its row's result. V: a struct
// with combine(other) and shuffled(lane_mask), which reads the same struct of the lane whose index
// differs by the mask. `shared` has room for a value a warp of the block, and is this call's alone.
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
