// Launches of log_gamma.
#include "../log_gamma_call.h"

#include "launch.h"
#include "log_gamma_kernel.cuh"

namespace sprout_fast {
namespace {

template <typename T>
void launch(const LogGammaArgs& args, cudaStream_t stream) {
  log_gamma_kernel<T><<<log_gamma_grid<T>(args.numel), kGammaThreads, 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void launch(const LogGammaBackwardArgs& args, cudaStream_t stream) {
  log_gamma_backward_kernel<T>
      <<<log_gamma_backward_grid<T>(args.numel), kGammaThreads, 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Args>
void run(const Args& args, cudaStream_t stream) {
  if (args.numel == 0) return;
  args.dtype == Dtype::kFloat64 ? launch<double>(args, stream) : launch<float>(args, stream);
}

Tensor log_gamma_cuda(const LogGammaCall& call, const Launch& on) {
  run(call.args, on.stream);
  return call.log_g;
}

Tensor log_gamma_backward_cuda(const LogGammaBackwardCall& call, const Launch& on) {
  run(call.args, on.stream);
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("log_gamma", SPROUT_ENTRY(prepare_log_gamma, log_gamma_cuda, Launch));
  m.impl("log_gamma_backward",
         SPROUT_ENTRY(prepare_log_gamma_backward, log_gamma_backward_cuda, Launch));
}

}  // namespace sprout_fast
