// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/gaussian_mixup_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void gaussian_mixup(const GaussianMixupArgs& args, const Shape& shape) {
  const auto run_with = [&](auto in, auto out) {
    using In = decltype(in);
    using Out = decltype(out);
    launch_as<gaussian_mixup_kernel<In, Out, typename Accumulate<Out>::type>>(
        shape, {gaussian_mixup_grid(args), kMixupThreads}, args,
        gaussian_mixup_is_packed<In>(args));
  };
  with_type(args.out_dtype, [&](auto out) {
    if (args.image_dtype == Dtype::kUInt8) {
      run_with(uint8_t(), out);
    } else {
      with_type(args.image_dtype, [&](auto in) { run_with(in, out); });
    }
  });
}

void gaussian_mixup_backward(const GaussianMixupBackwardArgs& args, const Shape& shape) {
  with_type(args.grad_dtype, [&](auto grad) {
    with_type(args.image_dtype, [&](auto image) {
      using Grad = decltype(grad);
      using T = typename Accumulate<Grad>::type;
      launch_as<gaussian_mixup_backward_kernel<Grad, decltype(image), T>>(
          shape, {gaussian_mixup_backward_grid(args), kMixupBackwardThreads}, args);
    });
  });
}

}  // namespace simt
