// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/draw_mixup_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void draw_mixup(const DrawMixupArgs& args, const Shape& shape) {
  launch_as<draw_mixup_kernel>(shape, {draw_mixup_grid(args), kDrawMixupThreads}, args);
}

}  // namespace simt
