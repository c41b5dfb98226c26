// Launches of dirichlet.
#include "../dirichlet_call.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dirichlet_kernel.cuh"
#include "launch.h"

namespace sprout_fast {
namespace {

template <typename T>
void launch(const DirichletArgs& args, cudaStream_t stream) {
  const dim3 block = dirichlet_block<T>(args.classes);
  dirichlet_kernel<T><<<dirichlet_grid(args.rows, block), block, 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void launch(const DirichletBackwardArgs& args, cudaStream_t stream) {
  const dim3 block = dirichlet_block<T>(args.classes);
  dirichlet_backward_kernel<T><<<dirichlet_grid(args.rows, block), block, 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Args>
void run(const Args& args, cudaStream_t stream) {
  if (args.rows == 0) return;
  args.dtype == Dtype::kFloat64 ? launch<double>(args, stream) : launch<float>(args, stream);
}

std::tuple<Tensor, Tensor> dirichlet_cuda(const Tensor& concentration, const Tensor& rng_state) {
  const torch::stable::accelerator::DeviceGuard guard(concentration.get_device_index());
  const DirichletCall call = prepare_dirichlet(concentration, rng_state);
  run(call.args, current_stream(concentration));
  return {call.z, call.log_total};
}

Tensor dirichlet_backward_cuda(const Tensor& grad_z, const Tensor& concentration, const Tensor& z,
                               const Tensor& log_total) {
  const torch::stable::accelerator::DeviceGuard guard(concentration.get_device_index());
  const DirichletBackwardCall call =
      prepare_dirichlet_backward(grad_z, concentration, z, log_total);
  run(call.args, current_stream(concentration));
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("dirichlet", TORCH_BOX(&dirichlet_cuda));
  m.impl("dirichlet_backward", TORCH_BOX(&dirichlet_backward_cuda));
}

}  // namespace sprout_fast
