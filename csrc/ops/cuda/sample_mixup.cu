// Launch of sample_mixup.
#include "../sample_mixup_call.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "launch.h"
#include "sample_mixup_kernel.cuh"

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> sample_mixup_cuda(int64_t batch, const Tensor& rng_state,
                                             double mixup_alpha, bool per_sample) {
  const torch::stable::accelerator::DeviceGuard guard(rng_state.get_device_index());
  const SampleMixupCall call = prepare_sample_mixup(batch, rng_state, mixup_alpha, per_sample);
  if (sample_mixup_entries(call.args) > 0) {
    sample_mixup_kernel<<<sample_mixup_grid(call.args), kSampleMixupThreads, 0,
                          current_stream(rng_state)>>>(call.args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {call.partner, call.lam};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("sample_mixup", TORCH_BOX(&sample_mixup_cuda));
}

}  // namespace sprout_fast
