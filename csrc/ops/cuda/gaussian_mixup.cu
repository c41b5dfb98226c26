// Launches of gaussian_mixup.
#include "../gaussian_mixup_call.h"

#include "dispatch.cuh"
#include "gaussian_mixup_kernel.cuh"
#include "launch.h"

namespace sprout_fast {
namespace {

template <typename In, typename Out>
void launch(const GaussianMixupArgs& args, cudaStream_t stream) {
  if (args.channels * args.height * args.width == 0 || args.batch == 0) return;
  const auto launch_kernel = [stream](auto kernel, dim3 grid, const auto&... arguments) {
    decltype(kernel)::value<<<grid, kMixupThreads, 0, stream>>>(arguments...);
  };
  with_gaussian_mixup_kernel<In, Out>(args, multiprocessors(), launch_kernel);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor gaussian_mixup_cuda(const GaussianMixupCall& call, const Launch& on) {
  with_device_type(call.args.out_dtype, [&](auto out) {
    using Out = decltype(out);
    if (call.args.image_dtype == Dtype::kUInt8) {
      launch<uint8_t, Out>(call.args, on.stream);
    } else {
      with_device_type(call.args.image_dtype,
                       [&](auto in) { launch<decltype(in), Out>(call.args, on.stream); });
    }
  });
  return call.out;
}

Tensor gaussian_mixup_backward_cuda(const GaussianMixupBackwardCall& call, const Launch& on) {
  const GaussianMixupBackwardArgs& args = call.args;
  if (args.channels * args.pixels == 0 || args.batch == 0) return call.grad_images;
  with_device_type(args.grad_dtype, [&](auto g) {
    with_device_type(args.image_dtype, [&](auto image) {
      using Grad = decltype(g);
      using Image = decltype(image);
      gaussian_mixup_backward_kernel<Grad, Image, typename Accumulate<Grad>::type>
          <<<gaussian_mixup_backward_grid(args), kMixupBackwardThreads, 0, on.stream>>>(args);
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return call.grad_images;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("gaussian_mixup", SPROUT_ENTRY(prepare_gaussian_mixup, gaussian_mixup_cuda, Launch));
  m.impl("gaussian_mixup_backward",
         SPROUT_ENTRY(prepare_gaussian_mixup_backward, gaussian_mixup_backward_cuda, Launch));
}

}  // namespace sprout_fast
