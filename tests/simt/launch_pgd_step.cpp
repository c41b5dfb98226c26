// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/pgd_step_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void pgd_step(const PgdStepArgs& args, const Shape& shape) {
  with_wide_type(args.dtype, [&](auto t) {
    with_type(args.grad_dtype, [&](auto grad) {
      using T = decltype(t);
      using Grad = decltype(grad);
      using Wide = typename Accumulate<Grad>::type;
      launch_as<pgd_step_kernel<T, Grad, Wide>>(shape, {pgd_step_grid<T, Grad>(args), kPgdThreads},
                                                args);
    });
  });
}

}  // namespace simt
