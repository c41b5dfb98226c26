// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/dirichlet_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void dirichlet(const DirichletArgs& args, const Shape& shape) {
  with_wide_type(args.dtype, [&](auto t) {
    using T = decltype(t);
    const dim3 block = dirichlet_block<T>(args.classes);
    launch_as<dirichlet_kernel<T>>(shape, {dirichlet_grid(args.rows, block), block}, args);
  });
}

void dirichlet_backward(const DirichletBackwardArgs& args, const Shape& shape) {
  with_wide_type(args.dtype, [&](auto t) {
    using T = decltype(t);
    const dim3 block = dirichlet_block<T>(args.classes);
    launch_as<dirichlet_backward_kernel<T>>(shape, {dirichlet_grid(args.rows, block), block}, args);
  });
}

}  // namespace simt
