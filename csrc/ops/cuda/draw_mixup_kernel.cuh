// draw_mixup on CUDA: one thread an entry.
#pragma once

#include "../draw_mixup.h"
#include "grid.cuh"

namespace sprout_fast {

constexpr int kDrawMixupThreads = 128;

inline int64_t draw_mixup_entries(const DrawMixupArgs& args) {
  return std::max(args.batch, args.lams);
}
inline dim3 draw_mixup_grid(const DrawMixupArgs& args) {
  return grid_of(ceil_div(draw_mixup_entries(args), kDrawMixupThreads));
}

__global__ void draw_mixup_kernel(const DrawMixupArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  draw_mixup_entry(args, i);
}

}  // namespace sprout_fast
