// pgd_step_ on CPU: runs the kernel of the best instruction set over threads.
#include "../pgd_step_call.h"

#include "../entry.h"
#include "pgd_step_kernel.h"

namespace sprout_fast {
namespace {

void pgd_step_cpu(const PgdStepCall& call) {
  const auto kernel = SPROUT_BEST_KERNEL(pgd_step_elements);
  torch::stable::parallel_for(0, call.args.numel, 16384,
                              [&](int64_t begin, int64_t end) { kernel(call.args, begin, end); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("pgd_step_", SPROUT_ENTRY(prepare_pgd_step, pgd_step_cpu));
}

}  // namespace sprout_fast
