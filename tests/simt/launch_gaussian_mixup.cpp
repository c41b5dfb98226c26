// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/gaussian_mixup_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void gaussian_mixup(const GaussianMixupArgs& args, const Shape& shape) {
  constexpr int kMultiprocessors = 132;
  const auto launch_kernel = [&](auto kernel, dim3 grid, const auto&... arguments) {
    launch_as<decltype(kernel)::value>(shape, {grid, kMixupThreads}, arguments...);
  };
  const auto run_with = [&](auto in, auto out) {
    with_gaussian_mixup_kernel<decltype(in), decltype(out)>(args, kMultiprocessors, launch_kernel);
  };
  with_type(args.out_dtype, [&](auto out) {
    if (args.image_dtype == Dtype::kUInt8) {
      run_with(uint8_t(), out);
    } else {
      with_type(args.image_dtype, [&](auto in) { run_with(in, out); });
    }
  });
}

std::array<unsigned, 2> gaussian_mixup_blocks(const GaussianMixupArgs& args, int multiprocessors) {
  const dim3 grid = gaussian_mixup_grid(args, multiprocessors);
  return {grid.x, grid.y};
}

void gaussian_mixup_backward(const GaussianMixupBackwardArgs& args, const Shape& shape) {
  with_type(args.grad_dtype, [&](auto grad) {
    with_type(args.image_dtype, [&](auto image) {
      using Grad = decltype(grad);
      using Image = decltype(image);
      using T = typename Accumulate<Grad>::type;
      launch_as<gaussian_mixup_backward_kernel<Grad, Image, T>>(
          shape, {gaussian_mixup_backward_grid(args), kMixupBackwardThreads}, args);
    });
  });
}

}  // namespace simt
