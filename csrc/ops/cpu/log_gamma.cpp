// log_gamma on CPU: runs the kernel of the best instruction set over threads.
#include "../log_gamma_call.h"

#include "../entry.h"
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

Tensor log_gamma_cpu(const LogGammaCall& call) {
  run(call.args, SPROUT_BEST_KERNEL(log_gamma_elements));
  return call.log_g;
}

Tensor log_gamma_backward_cpu(const LogGammaBackwardCall& call) {
  run(call.args, SPROUT_BEST_KERNEL(log_gamma_backward_elements));
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("log_gamma", SPROUT_ENTRY(prepare_log_gamma, log_gamma_cpu));
  m.impl("log_gamma_backward", SPROUT_ENTRY(prepare_log_gamma_backward, log_gamma_backward_cpu));
}

}  // namespace sprout_fast
