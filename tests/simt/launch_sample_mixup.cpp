// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/sample_mixup_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void sample_mixup(const SampleMixupArgs& args, const Shape& shape) {
  launch_as<sample_mixup_kernel>(shape, {sample_mixup_grid(args), kSampleMixupThreads}, args);
}

}  // namespace simt
