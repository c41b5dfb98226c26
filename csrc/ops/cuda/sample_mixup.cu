// Launch of sample_mixup.
#include "../sample_mixup_call.h"

#include <tuple>

#include "launch.h"
#include "sample_mixup_kernel.cuh"

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> sample_mixup_cuda(const SampleMixupCall& call, const Launch& on) {
  if (sample_mixup_entries(call.args) > 0 || call.args.rng != nullptr) {
    sample_mixup_kernel<<<sample_mixup_grid(call.args), kSampleMixupThreads, 0, on.stream>>>(
        call.args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {call.partner, call.lam};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sample_mixup_cuda_(const SampleMixupCall& call,
                                                              const Launch& on) {
  sample_mixup_cuda(call, on);
  return {call.partner, call.lam, call.partner_labels, call.used_rng};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("sample_mixup", SPROUT_ENTRY(prepare_sample_mixup, sample_mixup_cuda, Launch));
  m.impl("sample_mixup_", SPROUT_ENTRY(prepare_sample_mixup_, sample_mixup_cuda_, Launch));
}

}  // namespace sprout_fast
