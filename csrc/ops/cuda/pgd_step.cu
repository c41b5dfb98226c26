// Launch of pgd_step_.
#include "../pgd_step_call.h"

#include "dispatch.cuh"
#include "launch.h"
#include "pgd_step_kernel.cuh"

namespace sprout_fast {
namespace {

void pgd_step_cuda(const PgdStepCall& call, const Launch& on) {
  const PgdStepArgs& args = call.args;
  if (args.numel == 0) return;
  with_device_type(args.grad_dtype, [&](auto g) {
    using Grad = decltype(g);
    using Wide = typename Accumulate<Grad>::type;
    const auto launch = [&](auto t) {
      using T = decltype(t);
      pgd_step_kernel<T, Grad, Wide>
          <<<pgd_step_grid<T, Grad>(args), kPgdThreads, 0, on.stream>>>(args);
    };
    args.dtype == Dtype::kFloat64 ? launch(double()) : launch(float());
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("pgd_step_", SPROUT_ENTRY(prepare_pgd_step, pgd_step_cuda, Launch));
}

}  // namespace sprout_fast
