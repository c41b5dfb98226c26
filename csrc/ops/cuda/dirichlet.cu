// Launches of dirichlet.
#include "../dirichlet_call.h"

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

std::tuple<Tensor, Tensor> dirichlet_cuda(const DirichletCall& call, const Launch& on) {
  run(call.args, on.stream);
  return {call.z, call.log_total};
}

Tensor dirichlet_backward_cuda(const DirichletBackwardCall& call, const Launch& on) {
  run(call.args, on.stream);
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("dirichlet", SPROUT_ENTRY(prepare_dirichlet, dirichlet_cuda, Launch));
  m.impl("dirichlet_backward",
         SPROUT_ENTRY(prepare_dirichlet_backward, dirichlet_backward_cuda, Launch));
}

}  // namespace sprout_fast
