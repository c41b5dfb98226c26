// sample_mixup on CPU: a few hundred numbers a batch, so a plain loop.
#include "../sample_mixup_call.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> sample_mixup_cpu(int64_t batch, const Tensor& rng_state,
                                            double mixup_alpha, bool per_sample) {
  const SampleMixupCall call = prepare_sample_mixup(batch, rng_state, mixup_alpha, per_sample);
  const int64_t entries = std::max(call.args.batch, call.args.lams);
  for (int64_t i = 0; i < entries; ++i) sample_mixup_entry(call.args, i);
  return {call.partner, call.lam};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("sample_mixup", TORCH_BOX(&sample_mixup_cpu));
}

}  // namespace sprout_fast
