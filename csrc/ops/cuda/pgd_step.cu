// Launch of pgd_step_.
#include "../pgd_step_call.h"

#include <torch/csrc/stable/library.h>

#include "dispatch.cuh"
#include "launch.h"
#include "pgd_step_kernel.cuh"

namespace sprout_fast {
namespace {

void pgd_step_cuda(Tensor x_adv, const Tensor& grad, const Tensor& x, double step, double eps,
                   double lower, double upper) {
  const torch::stable::accelerator::DeviceGuard guard(x_adv.get_device_index());
  const PgdStepCall call = prepare_pgd_step(x_adv, grad, x, step, eps, lower, upper);
  const PgdStepArgs& args = call.args;
  if (args.numel == 0) return;
  const dim3 grid = pgd_step_grid(args);
  const cudaStream_t stream = current_stream(x_adv);
  with_device_type(args.grad_dtype, [&](auto g) {
    using Grad = decltype(g);
    using Wide = typename Accumulate<Grad>::type;
    if (args.dtype == Dtype::kFloat64) {
      pgd_step_kernel<double, Grad, Wide><<<grid, kPgdThreads, 0, stream>>>(args);
    } else {
      pgd_step_kernel<float, Grad, Wide><<<grid, kPgdThreads, 0, stream>>>(args);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) { m.impl("pgd_step_", TORCH_BOX(&pgd_step_cuda)); }

}  // namespace sprout_fast
