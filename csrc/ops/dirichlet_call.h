// From the arguments of dirichlet to what its kernels read, once for both devices.
#pragma once

#include "check.h"
#include "dirichlet_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct DirichletCall {
  Tensor concentration, rng_state, z, log_total;
  DirichletArgs args;
};
SPROUT_EXPORT DirichletCall prepare_dirichlet(const Tensor& concentration, const Tensor& rng_state);

struct DirichletBackwardCall {
  Tensor grad_z, concentration, z, log_total, grad_concentration;
  DirichletBackwardArgs args;
};
SPROUT_EXPORT DirichletBackwardCall prepare_dirichlet_backward(const Tensor& grad_z,
                                                               const Tensor& concentration,
                                                               const Tensor& z,
                                                               const Tensor& log_total);

}  // namespace sprout_fast
