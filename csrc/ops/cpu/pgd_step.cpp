// pgd_step_ on CPU: from checked tensors to the kernel of the processor's instruction set.
#include "../pgd_step_call.h"

#include <torch/csrc/stable/library.h>

#include "pgd_step_kernel.h"

namespace sprout_fast {
namespace {

void pgd_step_cpu(Tensor x_adv, const Tensor& grad, const Tensor& x, double step, double eps,
                  double lower, double upper) {
  const PgdStepCall call = prepare_pgd_step(x_adv, grad, x, step, eps, lower, upper);
  const auto kernel = SPROUT_BEST_KERNEL(pgd_step_elements);
  torch::stable::parallel_for(0, call.args.numel, 16384,
                              [&](int64_t begin, int64_t end) { kernel(call.args, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) { m.impl("pgd_step_", TORCH_BOX(&pgd_step_cpu)); }

}  // namespace sprout_fast
