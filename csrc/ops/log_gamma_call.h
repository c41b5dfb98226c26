// From the arguments of log_gamma to what its kernels read, once for both devices.
#pragma once

#include "check.h"
#include "log_gamma_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct LogGammaCall {
  Tensor concentration, rng_state, log_g;
  LogGammaArgs args;
};
SPROUT_EXPORT LogGammaCall prepare_log_gamma(const Tensor& concentration, const Tensor& rng_state);

struct LogGammaBackwardCall {
  Tensor grad, concentration, log_g, grad_concentration;
  LogGammaBackwardArgs args;
};
SPROUT_EXPORT LogGammaBackwardCall prepare_log_gamma_backward(const Tensor& grad,
                                                              const Tensor& concentration,
                                                              const Tensor& log_g);

}  // namespace sprout_fast
