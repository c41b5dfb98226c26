// Schema and argument checks of generalized_cross_entropy.
#include "generalized_cross_entropy_call.h"

#include <torch/csrc/stable/library.h>

#include "loss.h"

namespace sprout_fast {
namespace {

// Shared by both passes; `row_stats` and `grad_logits` may be outputs.
GeneralizedCrossEntropyCall prepare(const char* op, const Tensor& logits, const Tensor& target,
                                    Tensor row_stats, Tensor grad_logits, double label_smoothing,
                                    const std::string& reduction) {
  const int64_t batch = logits.size(0), classes = logits.size(1);
  const bool hard =
      target.defined() && target.scalar_type() == ScalarType::Long && target.dim() == 1;
  const bool soft = target.defined() && is_floating(target.scalar_type()) && target.dim() == 2 &&
                    target.size(1) == classes;
  SPROUT_CHECK((hard || soft) && target.size(0) == batch && target.device() == logits.device(), op,
               "target must be int64 [B], or probabilities float64, float32, bfloat16 or float16 "
               "[B, K], on the device of logits (",
               describe(logits), "), got ", describe(target));
  SPROUT_CHECK(label_smoothing >= 0 && label_smoothing <= 1, op,
               "label_smoothing must be in [0, 1], got ", label_smoothing);
  GeneralizedCrossEntropyCall call{
      dense(logits), dense(target), std::move(row_stats),     std::move(grad_logits),
      std::nullopt,  std::nullopt,  accumulate_dtype(logits), {}};
  if (logits.is_cpu() && hard) check_index_values(op, "target", call.target, classes);
  GeneralizedCrossEntropyArgs& args = call.args;
  args.dtype = to_dtype(logits.scalar_type());
  args.target_dtype = to_dtype(target.scalar_type());
  args.logits = call.logits.const_data_ptr();
  args.labels = hard ? call.target.const_data_ptr<int64_t>() : nullptr;
  args.probabilities = soft ? call.target.const_data_ptr() : nullptr;
  args.row_stats = call.row_stats.mutable_data_ptr();
  args.batch = batch;
  args.classes = classes;
  args.smoothing = label_smoothing;
  args.reduction = reduction_from_name(op, reduction);
  args.grad_logits = call.grad_logits.mutable_data_ptr();
  return call;
}

}  // namespace

GeneralizedCrossEntropyCall prepare_generalized_cross_entropy(const Tensor& logits,
                                                              const Tensor& target,
                                                              double label_smoothing,
                                                              const std::string& reduction,
                                                              bool return_grad_logits) {
  constexpr const char* op = "generalized_cross_entropy";
  check_logits(op, logits);
  GeneralizedCrossEntropyCall call =
      prepare(op, logits, target,
              empty({logits.size(0), CrossEntropyStat::kCount}, accumulate_dtype(logits), logits),
              empty_grad_logits(op, return_grad_logits, logits), label_smoothing, reduction);
  if (!return_grad_logits) call.args.grad_logits = nullptr;
  return call;
}

GeneralizedCrossEntropyCall prepare_generalized_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& target, const Tensor& row_stats,
    double label_smoothing, const std::string& reduction, bool return_grad_target) {
  constexpr const char* op = "generalized_cross_entropy_backward";
  check_logits(op, logits);
  const int64_t batch = logits.size(0), classes = logits.size(1);
  check_tensor(op, "row_stats", row_stats, accumulate_dtype(logits),
               {batch, CrossEntropyStat::kCount}, "what generalized_cross_entropy returned",
               logits);
  GeneralizedCrossEntropyCall call =
      prepare(op, logits, target, dense(row_stats),
              empty({batch, classes}, logits.scalar_type(), logits), label_smoothing, reduction);
  GeneralizedCrossEntropyArgs& args = call.args;
  check_grad_loss(op, grad_loss, args.reduction, logits);
  SPROUT_CHECK(!return_grad_target || is_floating(target.scalar_type()), op,
               "return_grad_target must be False for an int64 target, got True");
  call.grad_loss = dense(grad_loss);
  call.grad_target = return_grad_target ? empty({batch, classes}, target.scalar_type(), target)
                                        : empty({0}, target.scalar_type(), target);
  args.grad_loss = call.grad_loss->const_data_ptr();
  args.grad_target = return_grad_target ? call.grad_target->mutable_data_ptr() : nullptr;
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  // With return_grad_logits, grad_logits is [B, K], the gradient of the loss (of each row's for
  // "none"), else [0, K].
  m.def(
      "generalized_cross_entropy(Tensor logits, Tensor target, float label_smoothing, "
      "str reduction, bool return_grad_logits) -> "
      "(Tensor loss, Tensor row_stats, Tensor grad_logits)");
  // grad_target is [0] without return_grad_target.
  m.def(
      "generalized_cross_entropy_backward(Tensor grad_loss, Tensor logits, Tensor target, "
      "Tensor row_stats, float label_smoothing, str reduction, bool return_grad_target) "
      "-> (Tensor grad_logits, Tensor grad_target)");
}

}  // namespace sprout_fast
