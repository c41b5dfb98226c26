// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/meter_step_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void meter_step(const MeterStepArgs& args, const Shape& shape) {
  with_type(args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    launch_as<meter_step_kernel<Logit, typename Accumulate<Logit>::type>>(
        shape, {meter_step_grid(args), dim3(32, kMeterRows)}, args);
  });
}

}  // namespace simt
