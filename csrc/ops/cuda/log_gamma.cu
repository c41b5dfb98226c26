// Launches of log_gamma.
#include "../log_gamma_call.h"

#include <torch/csrc/stable/library.h>

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

Tensor log_gamma_cuda(const Tensor& concentration, const Tensor& rng_state) {
  const torch::stable::accelerator::DeviceGuard guard(concentration.get_device_index());
  const LogGammaCall call = prepare_log_gamma(concentration, rng_state);
  run(call.args, current_stream(concentration));
  return call.log_g;
}

Tensor log_gamma_backward_cuda(const Tensor& grad, const Tensor& concentration,
                               const Tensor& log_g) {
  const torch::stable::accelerator::DeviceGuard guard(concentration.get_device_index());
  const LogGammaBackwardCall call = prepare_log_gamma_backward(grad, concentration, log_g);
  run(call.args, current_stream(concentration));
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("log_gamma", TORCH_BOX(&log_gamma_cuda));
  m.impl("log_gamma_backward", TORCH_BOX(&log_gamma_backward_cuda));
}

}  // namespace sprout_fast
