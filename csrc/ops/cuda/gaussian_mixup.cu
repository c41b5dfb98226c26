// Launches of gaussian_mixup.
#include "../gaussian_mixup_call.h"

#include <torch/csrc/stable/library.h>

#include "dispatch.cuh"
#include "gaussian_mixup_kernel.cuh"
#include "launch.h"

namespace sprout_fast {
namespace {

template <typename In, typename Out>
void launch(const GaussianMixupArgs& args, cudaStream_t stream) {
  if (args.channels * args.height * args.width == 0 || args.batch == 0) return;
  gaussian_mixup_kernel<In, Out, typename Accumulate<Out>::type>
      <<<gaussian_mixup_grid(args), kMixupThreads, 0, stream>>>(args,
                                                                gaussian_mixup_is_packed<In>(args));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor gaussian_mixup_cuda(const Tensor& images, const std::optional<Tensor>& partner,
                           const std::optional<Tensor>& lam, const Tensor& rng_state,
                           const std::vector<double>& sigma, const std::vector<double>& mean,
                           const std::vector<double>& std, const std::string& noise,
                           ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(images.get_device_index());
  const GaussianMixupCall call =
      prepare_gaussian_mixup(images, partner, lam, rng_state, sigma, mean, std, noise, dtype);
  const cudaStream_t stream = current_stream(images);
  with_device_type(call.args.out_dtype, [&](auto out) {
    using Out = decltype(out);
    if (call.args.image_dtype == Dtype::kUInt8) {
      launch<uint8_t, Out>(call.args, stream);
    } else {
      with_device_type(call.args.image_dtype,
                       [&](auto in) { launch<decltype(in), Out>(call.args, stream); });
    }
  });
  return call.out;
}

Tensor gaussian_mixup_backward_cuda(const Tensor& grad, const std::optional<Tensor>& partner,
                                    const std::optional<Tensor>& lam,
                                    const std::vector<double>& std, ScalarType dtype) {
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const GaussianMixupBackwardCall call =
      prepare_gaussian_mixup_backward(grad, partner, lam, std, dtype);
  const GaussianMixupBackwardArgs& args = call.args;
  if (args.channels * args.pixels == 0 || args.batch == 0) return call.grad_images;
  const cudaStream_t stream = current_stream(grad);
  with_device_type(args.grad_dtype, [&](auto g) {
    with_device_type(args.image_dtype, [&](auto image) {
      gaussian_mixup_backward_kernel<decltype(g), decltype(image),
                                     typename Accumulate<decltype(g)>::type>
          <<<gaussian_mixup_backward_grid(args), kMixupBackwardThreads, 0, stream>>>(args);
    });
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return call.grad_images;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("gaussian_mixup", TORCH_BOX(&gaussian_mixup_cuda));
  m.impl("gaussian_mixup_backward", TORCH_BOX(&gaussian_mixup_backward_cuda));
}

}  // namespace sprout_fast
