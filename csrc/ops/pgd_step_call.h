// From the arguments of pgd_step_ to what its kernels read, once for both devices.
#pragma once

#include "check.h"
#include "pgd_step_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct PgdStepCall {
  Tensor x_adv, grad, x;
  PgdStepArgs args;
};
SPROUT_EXPORT PgdStepCall prepare_pgd_step(const Tensor& x_adv, const Tensor& grad, const Tensor& x,
                                           double step, double eps, double lower, double upper);

}  // namespace sprout_fast
