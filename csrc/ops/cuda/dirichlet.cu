// Launches of dirichlet.
#include "../dirichlet_args.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dirichlet_kernel.cuh"
#include "launch.h"

namespace sprout_fast {
namespace {

constexpr int64_t kMaxBlocks = int64_t{1} << 20;
constexpr int64_t kRowsABlock = 4;  // with a warp a row
constexpr int64_t kClassesAWarp = 256;

template <typename T>
void launch(const DirichletArgs& args, cudaStream_t stream) {
  if (args.classes <= kClassesAWarp) {
    const int64_t blocks = std::min(ceil_div(args.rows, kRowsABlock), kMaxBlocks);
    dirichlet_kernel<T, 1><<<blocks, dim3(32, kRowsABlock), 0, stream>>>(args);
  } else {
    dirichlet_kernel<T, kDirichletThreads / 32>
        <<<std::min(args.rows, kMaxBlocks), kDirichletThreads, 0, stream>>>(args);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void launch(const DirichletBackwardArgs& args, cudaStream_t stream) {
  if (args.classes <= kClassesAWarp) {
    const int64_t blocks = std::min(ceil_div(args.rows, kRowsABlock), kMaxBlocks);
    dirichlet_backward_kernel<T, 1><<<blocks, dim3(32, kRowsABlock), 0, stream>>>(args);
  } else {
    dirichlet_backward_kernel<T, kDirichletThreads / 32>
        <<<std::min(args.rows, kMaxBlocks), kDirichletThreads, 0, stream>>>(args);
  }
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
