// Launches of generalized_cross_entropy.
#include "../generalized_cross_entropy_call.h"

#include <tuple>

#include "dispatch.cuh"
#include "generalized_cross_entropy_kernel.cuh"
#include "launch.h"
#include "reduce_losses.h"

namespace sprout_fast {
namespace {

using Args = GeneralizedCrossEntropyArgs;

// Calls body(Logit{}, Target{}), where Target is int64_t for labels.
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

std::tuple<Tensor, Tensor, Tensor> generalized_cross_entropy_cuda(
    const GeneralizedCrossEntropyCall& call, const Launch& on) {
  if (call.args.batch > 0) {
    with_types(call.args, [&](auto logit, auto target) {
      launch_rows<decltype(logit), decltype(target)>(call.args, on.stream);
    });
  }
  return {reduce_losses(call, CrossEntropyStat::kLoss, CrossEntropyStat::kCount, on.stream),
          call.row_stats, call.grad_logits};
}

template <typename Logit, typename Target>
void launch_backward(const Args& args, cudaStream_t stream) {
  using T = typename Accumulate<Logit>::type;
  generalized_cross_entropy_backward_kernel<Logit, Target, T>
      <<<cross_entropy_backward_grid(args), cross_entropy_backward_block(args), 0, stream>>>(args);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> generalized_cross_entropy_backward_cuda(
    const GeneralizedCrossEntropyCall& call, const Launch& on) {
  if (call.args.batch > 0) {
    with_types(call.args, [&](auto logit, auto target) {
      launch_backward<decltype(logit), decltype(target)>(call.args, on.stream);
    });
  }
  return {call.grad_logits, *call.grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("generalized_cross_entropy",
         SPROUT_ENTRY(prepare_generalized_cross_entropy, generalized_cross_entropy_cuda, Launch));
  m.impl("generalized_cross_entropy_backward",
         SPROUT_ENTRY(prepare_generalized_cross_entropy_backward,
                      generalized_cross_entropy_backward_cuda, Launch));
}

}  // namespace sprout_fast
