// draw_mixup on CUDA: one thread an entry.
#pragma once

#include "../draw_mixup.h"

namespace sprout_fast {

__global__ void draw_mixup_kernel(const DrawMixupArgs args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  draw_mixup_entry(args, i);
}

}  // namespace sprout_fast
