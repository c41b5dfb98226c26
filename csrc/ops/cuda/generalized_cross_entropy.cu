// Launches of generalized_cross_entropy.
#include "../generalized_cross_entropy_call.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dispatch.cuh"
#include "generalized_cross_entropy_kernel.cuh"
#include "launch.h"
#include "reduction_kernel.cuh"

namespace sprout_fast {
namespace {

using Args = GeneralizedCrossEntropyArgs;

// Calls body(Logit{}, Target{}), Target int64_t for labels.
template <typename Body>
void with_types(const Args& args, Body body) {
  with_device_type(args.dtype, [&](auto logit) {
    if (args.labels != nullptr) {
      body(logit, int64_t());
    } else {
      with_device_type(args.target_dtype, [&](auto target) { body(logit, target); });
    }
  });
}

template <typename Logit, typename Target>
void launch_rows(const Args& args, cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  generalized_cross_entropy_kernel<Logit, Target, T>
      <<<cross_entropy_grid(args), cross_entropy_block(args), 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
Tensor reduce(const GeneralizedCrossEntropyCall& call, cudaStream_t stream) {
  const Args& args = call.args;
  const bool each = args.reduction == Reduction::kNone;
  Tensor loss = torch::stable::new_empty(
      call.row_stats, each ? std::vector<int64_t>{args.batch} : std::vector<int64_t>{});
  reduce_losses_kernel<T><<<1, kReductionThreads, 0, stream>>>(
      static_cast<const T*>(args.row_stats) + CrossEntropyStat::kLoss, CrossEntropyStat::kCount,
      args.batch, args.reduction, static_cast<T*>(loss.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return loss;
}

std::tuple<Tensor, Tensor, Tensor> generalized_cross_entropy_cuda(const Tensor& logits,
                                                                  const Tensor& target,
                                                                  double label_smoothing,
                                                                  const std::string& reduction,
                                                                  bool return_grad_logits) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const GeneralizedCrossEntropyCall call = prepare_generalized_cross_entropy(
      logits, target, label_smoothing, reduction, return_grad_logits);
  const cudaStream_t stream = current_stream(logits);
  if (call.args.batch > 0) {
    with_types(call.args, [&](auto logit, auto t) {
      launch_rows<decltype(logit), decltype(t)>(call.args, stream);
    });
  }
  const bool wide = call.args.dtype == Dtype::kFloat64;
  return {wide ? reduce<double>(call, stream) : reduce<float>(call, stream), call.row_stats,
          *call.grad_logits};
}

template <typename Logit, typename Target>
void launch_backward(const Args& args, cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  generalized_cross_entropy_backward_kernel<Logit, Target, T>
      <<<cross_entropy_backward_grid(args), cross_entropy_backward_block(args), 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> generalized_cross_entropy_backward_cuda(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& target, const Tensor& row_stats,
    double label_smoothing, const std::string& reduction, bool return_grad_target) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const GeneralizedCrossEntropyCall call = prepare_generalized_cross_entropy_backward(
      grad_loss, logits, target, row_stats, label_smoothing, reduction, return_grad_target);
  if (call.args.batch > 0) {
    with_types(call.args, [&](auto logit, auto t) {
      launch_backward<decltype(logit), decltype(t)>(call.args, current_stream(logits));
    });
  }
  return {*call.grad_logits, *call.grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("generalized_cross_entropy", TORCH_BOX(&generalized_cross_entropy_cuda));
  m.impl("generalized_cross_entropy_backward", TORCH_BOX(&generalized_cross_entropy_backward_cuda));
}

}  // namespace sprout_fast
