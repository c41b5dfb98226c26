// Launches of sprout_loss.
#include "../sprout_loss_args.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "dispatch.cuh"
#include "launch.h"
#include "sprout_loss_kernel.cuh"

namespace sprout_fast {
namespace {

template <typename T>
Tensor grad_beta(const SproutLossCall& call, T factor, cudaStream_t stream) {
  const SproutLossArgs& args = call.args;
  if (!args.wants_grad_beta) return torch::stable::new_empty(call.beta, {0});
  Tensor result = torch::stable::new_empty(call.beta, {args.classes});
  const dim3 grid = sprout_loss_grad_beta_grid(args);
  const int64_t groups = grid.y;
  Tensor partial =
      torch::stable::new_empty(call.row_stats, {groups, args.classes}, call.accumulate_dtype);
  T* partial_data = static_cast<T*>(partial.mutable_data_ptr());
  with_device_type(args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    if constexpr (std::is_same_v<typename Accumulate<Logit>::type, T>) {
      sprout_loss_grad_beta_kernel<Logit, T><<<grid, kLossThreads, 0, stream>>>(args, partial_data);
    }
  });
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  sprout_loss_grad_beta_finish_kernel<T><<<grid.x, kLossThreads, 0, stream>>>(
      partial_data, groups, args.classes, factor, static_cast<float*>(result.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

template <typename Logit>
std::tuple<Tensor, Tensor, Tensor> forward(const SproutLossCall& call, cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  const SproutLossArgs& args = call.args;
  if (args.batch > 0) {
    // A warp a row for few classes, else a block a row.
    const dim3 grid = sprout_loss_rows_grid(args), block = sprout_loss_rows_block(args);
    if (sprout_loss_takes_a_warp_a_row(args)) {
      sprout_loss_rows_kernel<Logit, T, 1><<<grid, block, 0, stream>>>(args);
    } else {
      sprout_loss_rows_kernel<Logit, T, kLossThreads / 32><<<grid, block, 0, stream>>>(args);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const bool each = args.reduction == Reduction::kNone;
  Tensor loss = torch::stable::new_empty(
      call.row_stats, each ? std::vector<int64_t>{args.batch} : std::vector<int64_t>{},
      call.accumulate_dtype);
  sprout_loss_finish_kernel<T>
      <<<1, kLossThreads, 0, stream>>>(args, static_cast<T*>(loss.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const T factor = args.reduction == Reduction::kMean && args.batch > 0
                       ? T(1) / static_cast<T>(args.batch)
                       : T(1);
  return {loss, grad_beta<T>(call, factor, stream), call.row_stats};
}

std::tuple<Tensor, Tensor, Tensor> sprout_loss_cuda(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& partner_labels,
    const std::optional<Tensor>& lam, const Tensor& beta, const Tensor& rng_state, double alpha,
    double scale, const std::string& labels_from, const std::string& beta_grad_name,
    const std::string& reduction, bool return_grad_beta) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const SproutLossCall call =
      prepare_sprout_loss(logits, labels, partner_labels, lam, beta, rng_state, alpha, scale,
                          labels_from, beta_grad_name, reduction, return_grad_beta);
  std::tuple<Tensor, Tensor, Tensor> result;
  with_device_type(call.args.dtype, [&](auto logit) {
    result = forward<decltype(logit)>(call, current_stream(logits));
  });
  return result;
}

template <typename Logit>
Tensor backward(const SproutLossCall& call, cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  const SproutLossArgs& args = call.args;
  if (args.batch > 0) {
    sprout_loss_grad_logits_kernel<Logit, T>
        <<<sprout_loss_grad_logits_grid(args), kLossThreads, 0, stream>>>(args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return grad_beta<T>(call, T(1), stream);
}

std::tuple<Tensor, Tensor> sprout_loss_backward_cuda(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& labels,
    const std::optional<Tensor>& partner_labels, const std::optional<Tensor>& lam,
    const Tensor& beta, const Tensor& rng_state, const Tensor& row_stats, double alpha,
    double scale, const std::string& labels_from, const std::string& beta_grad_name,
    const std::string& reduction) {
  const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());
  const SproutLossCall call =
      prepare_sprout_loss_backward(grad_loss, logits, labels, partner_labels, lam, beta, rng_state,
                                   row_stats, alpha, scale, labels_from, beta_grad_name, reduction);
  Tensor grad;
  with_device_type(call.args.dtype, [&](auto logit) {
    grad = backward<decltype(logit)>(call, current_stream(logits));
  });
  return {*call.grad_logits, grad};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("sprout_loss", TORCH_BOX(&sprout_loss_cuda));
  m.impl("sprout_loss_backward", TORCH_BOX(&sprout_loss_backward_cuda));
}

}  // namespace sprout_fast
