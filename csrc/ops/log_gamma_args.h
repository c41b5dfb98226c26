// Arguments of log_gamma's kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/gamma_gradient.h"

namespace sprout_fast {

struct LogGammaArgs {
  Dtype dtype;                // float32 or float64, of every floating tensor
  const void* concentration;  // [numel]
  const int64_t* rng_state;   // (seed, offset, first_row)
  void* log_g;                // [numel]
  int64_t numel, elements_per_row;
};

struct LogGammaBackwardArgs {
  Dtype dtype;
  const void *grad, *concentration, *log_g;  // [numel]
  void* grad_concentration;                  // [numel]
  int64_t numel;
};

// grad * dlog G/da for one variate. 0 if the variate is -inf (a is 0, or so small that log G leaves
// T's range), since exp(-inf) = 0 does not depend on a. Also 0 if grad is, so that unused elements
// cost nothing and 0 * inf does not arise.
template <typename T>
SPROUT_HOST_DEVICE T log_gamma_chain(T grad, T a, T log_g) {
  if (log_g == -std::numeric_limits<T>::infinity() || (grad == T(0) && log_g == log_g)) return T(0);
  return grad * log_gamma_gradient(a, log_g);
}

}  // namespace sprout_fast
