// Launch of meter_step_.
#include "../meter_step_call.h"
#include "dispatch.cuh"
#include "launch.h"
#include "meter_step_kernel.cuh"

namespace sprout_fast {
namespace {

void meter_step_cuda(const MeterStepCall& call, const Launch& on) {
  with_device_type(call.args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    meter_step_kernel<Logit, typename Accumulate<Logit>::type>
        <<<meter_step_grid(call.args), dim3(32, kMeterRows), 0, on.stream>>>(call.args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("meter_step_", SPROUT_ENTRY(prepare_meter_step, meter_step_cuda, Launch));
}

}  // namespace sprout_fast
