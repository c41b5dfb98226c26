// sample_mixup on CUDA: one entry per thread, or several if the state is advanced, which takes a
// single block.
#pragma once

#include "../sample_mixup_args.h"
#include "grid.cuh"

namespace sprout_fast {

constexpr int kSampleMixupThreads = 256;

inline int64_t sample_mixup_entries(const SampleMixupArgs& args) {
  return std::max(args.batch, args.lams);
}
inline dim3 sample_mixup_grid(const SampleMixupArgs& args) {
  return grid_of(args.rng != nullptr ? 1
                                     : ceil_div(sample_mixup_entries(args), kSampleMixupThreads));
}

__global__ void sample_mixup_kernel(const SampleMixupArgs args) {
  const SampleMixupDraw draw(args);
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
       i < args.batch || i < args.lams; i += stride) {
    sample_mixup_entry(args, draw, i);
  }
  if (args.rng == nullptr) return;
  __syncthreads();  // before the state that others read changes
  if (threadIdx.x == 0) PhiloxCall::advance(args.rng, args.first_row, args.used_rng);
}

}  // namespace sprout_fast
