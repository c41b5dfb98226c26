// Launches of sprout_loss.
#include "../sprout_loss_call.h"

#include <optional>
#include <tuple>
#include <utility>

#include "dispatch.cuh"
#include "launch.h"
#include "reduce_losses.h"
#include "sprout_loss_kernel.cuh"

namespace sprout_fast {
namespace {

// Dynamic shared memory available to a block of sprout_loss_rows_kernel, beyond the default 48 KiB.
int64_t max_shared_bytes() {
  int device = 0, bytes = 0;
  STD_CUDA_CHECK(cudaGetDevice(&device));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes - kLossOwnBytes;
}

// The gradient of beta: partial sums over groups of rows, [groups, K], and their sum.
template <typename T>
struct GradBeta {
  const SproutLossCall& call;
  int64_t groups;
  Tensor partial;

  GradBeta(const SproutLossCall& call, int64_t groups)
      : call(call),
        groups(groups),
        partial(torch::stable::new_empty(call.row_stats, {groups, call.args.classes},
                                         call.accumulate_dtype)) {}
  T* data() { return static_cast<T*>(partial.mutable_data_ptr()); }

  Tensor sum(T factor, cudaStream_t stream) {
    Tensor result = torch::stable::new_empty(call.beta, {call.args.classes});
    sprout_loss_grad_beta_kernel<T><<<sprout_loss_grad_beta_grid(call.args),
                                      dim3(kGradBetaClasses, kGradBetaTeams), 0, stream>>>(
        data(), groups, call.args.classes, factor, static_cast<float*>(result.mutable_data_ptr()));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    return result;
  }
};

// Computes the requested gradients; that of beta, if requested, as sums over groups of rows.
template <typename Logit, typename T = typename Accumulate<Logit>::type>
std::optional<GradBeta<T>> launch_grad(const SproutLossCall& call, cudaStream_t stream) {
  const SproutLossArgs& args = call.args;
  const GradPlan plan = plan_sprout_loss_grad<Logit, T>(args);
  std::optional<GradBeta<T>> beta;
  if (args.wants_grad_beta) beta.emplace(call, plan.groups);
  if (args.batch > 0 && (beta || args.grad_logits != nullptr)) {
    const auto kernel =
        beta ? sprout_loss_grad_kernel<Logit, T, true> : sprout_loss_grad_kernel<Logit, T, false>;
    kernel<<<plan.grid, plan.block, 0, stream>>>(args, plan.rows, plan.classes,
                                                 beta ? beta->data() : nullptr);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return beta;
}

// Computes the rows' statistics and, if requested, the gradient of beta, as launch_grad does.
template <typename Logit, typename T = typename Accumulate<Logit>::type>
std::optional<GradBeta<T>> launch_rows(const SproutLossCall& call, cudaStream_t stream) {
  const SproutLossArgs& args = call.args;
  const int64_t max_bytes = max_shared_bytes();
  const RowsPlan plan = plan_sprout_loss_rows<Logit, T>(args, max_bytes);
  std::optional<GradBeta<T>> beta;
  if (plan.keeps) beta.emplace(call, plan.grid.x);
  if (args.batch > 0) {
    const auto kernel = sprout_loss_rows_kernel<Logit, T>;
    // The same value on every call, so that concurrent calls do not lower it for each other.
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(max_bytes)));
    const int64_t segments = plan.grid.y;
    const Tensor sums = torch::stable::new_empty(
        call.row_stats, {segments > 1 ? args.batch * segments : 0, kRowStats});
    auto* sums_data = static_cast<RowSums<T>*>(sums.mutable_data_ptr());
    kernel<<<plan.grid, plan.block, plan.shared_bytes, stream>>>(args, sums_data,
                                                                 beta ? beta->data() : nullptr);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (segments > 1) {
      sprout_loss_segments_kernel<Logit, T>
          <<<sprout_loss_segments_grid(args), kSegmentsThreads, 0, stream>>>(args, sums_data,
                                                                             segments);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
  return beta ? std::move(beta) : launch_grad<Logit>(call, stream);
}

template <typename T>
Tensor sum_or_empty(const SproutLossCall& call, std::optional<GradBeta<T>> beta, T factor,
                    cudaStream_t stream) {
  return beta ? beta->sum(factor, stream) : torch::stable::new_empty(call.beta, {0});
}

template <typename Logit>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const SproutLossCall& call,
                                                   cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  const SproutLossArgs& args = call.args;
  std::optional<GradBeta<T>> beta = launch_rows<Logit>(call, stream);
  Tensor loss = reduce_losses_as<T>(call, kLoss, kRowStats, stream);
  const T factor = args.reduction == Reduction::kMean && args.batch > 0
                       ? T(1) / static_cast<T>(args.batch)
                       : T(1);
  return {loss, sum_or_empty<T>(call, std::move(beta), factor, stream), call.row_stats,
          call.grad_logits};
}

template <typename T>
void launch_finish(const SproutFinishArgs& args, cudaStream_t stream) {
  sprout_loss_finish_kernel<T><<<1, kFinishThreads, 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// A training step: returns the loss.
template <typename Logit>
Tensor train(const SproutStepCall& call, cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  std::optional<GradBeta<T>> beta = launch_rows<Logit>(*call.loss, stream);
  Tensor loss = empty({}, call.loss->accumulate_dtype, call.used_beta), summed;
  SproutFinishArgs args = call.finish;
  args.loss = loss.mutable_data_ptr();
  if (beta && finish_sums_groups(beta->groups, args.classes)) {
    args.partial = beta->data();
    args.groups = beta->groups;
  } else if (beta) {
    summed = beta->sum(static_cast<T>(args.factor), stream);
    args.summed = summed.const_data_ptr<float>();
  }
  launch_finish<T>(args, stream);
  return loss;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sprout_loss_cuda(const SproutLossCall& call,
                                                            const Launch& on) {
  std::tuple<Tensor, Tensor, Tensor, Tensor> result;
  with_device_type(call.args.dtype,
                   [&](auto logit) { result = forward<decltype(logit)>(call, on.stream); });
  return result;
}

std::tuple<Tensor, Tensor> sprout_loss_backward_cuda(const SproutLossCall& call, const Launch& on) {
  Tensor grad_beta;
  with_device_type(call.args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    using T = typename Accumulate<Logit>::type;
    grad_beta = sum_or_empty<T>(call, launch_grad<Logit>(call, on.stream), T(1), on.stream);
  });
  return {call.grad_logits, grad_beta};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sprout_loss_cuda_(const SproutStepCall& call,
                                                                     const Launch& on) {
  Tensor loss;
  with_device_type(call.loss->args.dtype,
                   [&](auto logit) { loss = train<decltype(logit)>(call, on.stream); });
  return {loss, call.used_beta, call.used_rng, call.loss->row_stats, call.loss->grad_logits};
}

void sprout_loss_step_cuda_(const SproutStepCall& call, const Launch& on) {
  launch_finish<float>(call.finish, on.stream);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("sprout_loss", SPROUT_ENTRY(prepare_sprout_loss_forward, sprout_loss_cuda, Launch));
  m.impl("sprout_loss_backward",
         SPROUT_ENTRY(prepare_sprout_loss_backward, sprout_loss_backward_cuda, Launch));
  m.impl("sprout_loss_", SPROUT_ENTRY(&prepare_sprout_loss_, sprout_loss_cuda_, Launch));
  m.impl("sprout_loss_step_",
         SPROUT_ENTRY(&prepare_sprout_loss_step_, sprout_loss_step_cuda_, Launch));
}

}  // namespace sprout_fast
