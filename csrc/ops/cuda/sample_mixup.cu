// Launch of sample_mixup.
#include "../sample_mixup_call.h"

#include <tuple>

#include "launch.h"
#include "sample_mixup_kernel.cuh"

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> sample_mixup_cuda(const SampleMixupCall& call, const Launch& on) {
  if (sample_mixup_entries(call.args) > 0) {
    sample_mixup_kernel<<<sample_mixup_grid(call.args), kSampleMixupThreads, 0, on.stream>>>(
        call.args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {call.partner, call.lam};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("sample_mixup", SPROUT_ENTRY(prepare_sample_mixup, sample_mixup_cuda, Launch));
}

}  // namespace sprout_fast
