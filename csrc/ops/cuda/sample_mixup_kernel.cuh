// sample_mixup on CUDA: one entry per thread.
#pragma once

#include "../sample_mixup_args.h"
#include "grid.cuh"

namespace sprout_fast {

constexpr int kSampleMixupThreads = 128;

inline int64_t sample_mixup_entries(const SampleMixupArgs& args) {
  return std::max(args.batch, args.lams);
}
inline dim3 sample_mixup_grid(const SampleMixupArgs& args) {
  return grid_of(ceil_div(sample_mixup_entries(args), kSampleMixupThreads));
}

__global__ void sample_mixup_kernel(const SampleMixupArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  sample_mixup_entry(args, i);
}

}  // namespace sprout_fast
