// log_gamma on CPU: from checked tensors to the kernel of the processor's instruction set.
#include "../log_gamma_call.h"

#include <torch/csrc/stable/library.h>

#include "log_gamma_kernel.h"
#include "parallel.h"

namespace sprout_fast {
namespace {

template <typename Args>
void run(const Args& args, void (*kernel)(const Args&, int64_t, int64_t)) {
  parallel_in_turn((args.numel + kLogGammaRun - 1) / kLogGammaRun, 1, [&] {
    return [&](int64_t begin, int64_t end) {
      kernel(args, begin * kLogGammaRun, std::min(end * kLogGammaRun, args.numel));
    };
  });
}

Tensor log_gamma_cpu(const Tensor& concentration, const Tensor& rng_state) {
  const LogGammaCall call = prepare_log_gamma(concentration, rng_state);
  run(call.args, SPROUT_BEST_KERNEL(log_gamma_elements));
  return call.log_g;
}

Tensor log_gamma_backward_cpu(const Tensor& grad, const Tensor& concentration,
                              const Tensor& log_g) {
  const LogGammaBackwardCall call = prepare_log_gamma_backward(grad, concentration, log_g);
  run(call.args, SPROUT_BEST_KERNEL(log_gamma_backward_elements));
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("log_gamma", TORCH_BOX(&log_gamma_cpu));
  m.impl("log_gamma_backward", TORCH_BOX(&log_gamma_backward_cpu));
}

}  // namespace sprout_fast
