// sample_mixup on CPU: a plain loop, since a batch has a few hundred numbers only.
#include "../sample_mixup_call.h"

#include <algorithm>
#include <tuple>

#include "../entry.h"

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> sample_mixup_cpu(const SampleMixupCall& call) {
  const int64_t entries = std::max(call.args.batch, call.args.lams);
  const SampleMixupDraw draw(call.args);
  for (int64_t i = 0; i < entries; ++i) sample_mixup_entry(call.args, draw, i);
  return {call.partner, call.lam};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sample_mixup_cpu_(const SampleMixupCall& call) {
  sample_mixup_cpu(call);
  PhiloxCall::advance(call.args.rng, call.args.first_row, call.args.used_rng);
  return {call.partner, call.lam, call.partner_labels, call.used_rng};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("sample_mixup", SPROUT_ENTRY(prepare_sample_mixup, sample_mixup_cpu));
  m.impl("sample_mixup_", SPROUT_ENTRY(prepare_sample_mixup_, sample_mixup_cpu_));
}

}  // namespace sprout_fast
