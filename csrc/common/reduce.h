// Reductions over a block in a fixed order, so that the same input gives the same bits.
#pragma once

namespace sprout_fast {

// Over the 32 lanes of a warp; every lane gets the result. V: a struct with combine(other) and
// shuffled(lane_mask), which reads the same struct of the lane whose index differs by the mask.
template <typename V>
__device__ __forceinline__ V warp_reduce(V v) {
#pragma unroll
  for (int mask = 16; mask > 0; mask >>= 1) v.combine(v.shuffled(mask));
  return v;
}

// Over blockDim.x = 32 x kWarps threads (blockDim.y = 1); every thread gets the result. `shared`
// has room for kWarps values and may be used again by the next call.
template <int kWarps, typename V>
__device__ __forceinline__ V block_reduce(V v, V* shared) {
  v = warp_reduce(v);
  if constexpr (kWarps == 1) return v;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  v = shared[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) v.combine(shared[i]);
  __syncthreads();  // before anybody writes `shared` again
  return v;
}

}  // namespace sprout_fast
