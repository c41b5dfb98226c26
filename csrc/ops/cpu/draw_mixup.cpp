// draw_mixup on CPU: a few hundred numbers a batch, so a plain loop.
#include "../draw_mixup_args.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> draw_mixup_cpu(const Tensor& rng_state, int64_t batch, double a,
                                          bool per_sample) {
  const DrawMixupCall call = prepare_draw_mixup(rng_state, batch, a, per_sample);
  const int64_t entries = std::max(call.args.batch, call.args.lams);
  for (int64_t i = 0; i < entries; ++i) draw_mixup_entry(call.args, i);
  return {call.partner, call.lam};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) { m.impl("draw_mixup", TORCH_BOX(&draw_mixup_cpu)); }

}  // namespace sprout_fast
