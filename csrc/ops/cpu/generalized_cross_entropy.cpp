// generalized_cross_entropy on CPU: from checked tensors to the kernel of the processor's
// instruction set.
#include "../generalized_cross_entropy_call.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "generalized_cross_entropy_kernel.h"

namespace sprout_fast {
namespace {

using Args = GeneralizedCrossEntropyArgs;

void run_rows(const Args& args, void (*kernel)(const Args&, int64_t, int64_t, void*)) {
  // Rows that are worth a thread: some thousand exponentials.
  const int64_t grain = std::max<int64_t>(1, 8192 / args.classes);
  torch::stable::parallel_for(0, args.batch, grain, [&](int64_t begin, int64_t end) {
    // Doubles: room for either type.
    std::vector<double> scratch(generalized_cross_entropy_scratch(args.classes));
    kernel(args, begin, end, scratch.data());
  });
}

template <typename T>
Tensor reduce(const GeneralizedCrossEntropyCall& call) {
  const Args& args = call.args;
  const bool each = args.reduction == Reduction::kNone;
  Tensor loss = empty(loss_shape(args.reduction, args.batch), call.accumulate_dtype, call.logits);
  T* out = static_cast<T*>(loss.mutable_data_ptr());
  double total = 0;
  for (int64_t row = 0; row < args.batch; ++row) {
    const T value = static_cast<const T*>(
        args.row_stats)[row * CrossEntropyStat::kCount + CrossEntropyStat::kLoss];
    if (each) out[row] = value;
    total += value;
  }
  // An empty batch has no mean: 0 / 0 is NaN, as in torch.
  if (args.reduction == Reduction::kMean) total /= static_cast<double>(args.batch);
  if (!each) out[0] = static_cast<T>(total);
  return loss;
}

std::tuple<Tensor, Tensor, Tensor> generalized_cross_entropy_cpu(const Tensor& logits,
                                                                 const Tensor& target,
                                                                 double label_smoothing,
                                                                 const std::string& reduction,
                                                                 bool return_grad_logits) {
  const GeneralizedCrossEntropyCall call = prepare_generalized_cross_entropy(
      logits, target, label_smoothing, reduction, return_grad_logits);
  run_rows(call.args, SPROUT_BEST_KERNEL(generalized_cross_entropy_rows));
  const bool wide = call.args.dtype == Dtype::kFloat64;
  return {wide ? reduce<double>(call) : reduce<float>(call), call.row_stats, *call.grad_logits};
}

std::tuple<Tensor, Tensor> generalized_cross_entropy_backward_cpu(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& target, const Tensor& row_stats,
    double label_smoothing, const std::string& reduction, bool return_grad_target) {
  const GeneralizedCrossEntropyCall call = prepare_generalized_cross_entropy_backward(
      grad_loss, logits, target, row_stats, label_smoothing, reduction, return_grad_target);
  run_rows(call.args, SPROUT_BEST_KERNEL(generalized_cross_entropy_backward_rows));
  return {*call.grad_logits, *call.grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("generalized_cross_entropy", TORCH_BOX(&generalized_cross_entropy_cpu));
  m.impl("generalized_cross_entropy_backward", TORCH_BOX(&generalized_cross_entropy_backward_cpu));
}

}  // namespace sprout_fast
