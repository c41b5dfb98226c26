// Schemas and argument checks of sprout_loss.
#include "sprout_loss_call.h"

#include <torch/csrc/stable/library.h>

#include <cmath>

#include "loss.h"

namespace sprout_fast {
namespace {

LabelMode label_mode_from_name(const char* op, const std::string& name) {
  if (name == "sample") return LabelMode::kSample;
  if (name == "mean") return LabelMode::kMean;
  fail(op, "label_mode must be 'sample' or 'mean', got '", name, "'");
}

BetaGrad beta_grad_from_name(const char* op, const std::string& name) {
  if (name == "none") return BetaGrad::kNone;
  if (name == "implicit") return BetaGrad::kImplicit;
  if (name == "expected") return BetaGrad::kExpected;
  fail(op, "beta_grad must be 'implicit', 'expected' or 'none', got '", name, "'");
}

// Checks all but the values of tensors; everything of the kernels' arguments but the pointers.
SproutLossArgs parse(const char* op, const SproutLossInputs& in) {
  check_logits(op, in.logits);
  const int64_t batch = in.logits.size(0), classes = in.logits.size(1);
  check_tensor(op, "labels", in.labels, ScalarType::Long, {batch}, "int64 [B]", in.logits);
  SPROUT_CHECK(in.partner_labels.has_value() == in.lam.has_value(), op,
               "partner_labels and lam must be given together or not at all, got only ",
               in.lam ? "lam" : "partner_labels");
  if (in.lam) {
    check_tensor(op, "partner_labels", *in.partner_labels, ScalarType::Long, {batch}, "int64 [B]",
                 in.logits);
    check_lam(op, *in.lam, batch, in.logits);
  }
  check_tensor(op, "beta", in.beta, ScalarType::Float, {classes}, "float32 [K]", in.logits);
  check_rng_state(op, in.rng_state, in.logits);
  SPROUT_CHECK(in.alpha >= 0 && in.alpha <= 1, op, "alpha must be in [0, 1], got ", in.alpha);
  SPROUT_CHECK(in.scale >= 1e-30 && in.scale <= 1e30, op, "scale must be in [1e-30, 1e30], got ",
               in.scale);
  SproutLossArgs args{};
  args.dtype = to_dtype(in.logits.scalar_type());
  args.lam_stride = in.lam && in.lam->size(0) != 1 ? 1 : 0;
  args.batch = batch;
  args.classes = classes;
  args.alpha = in.alpha;
  args.scale = in.scale;
  args.label_mode = label_mode_from_name(op, in.label_mode);
  args.beta_grad = beta_grad_from_name(op, in.beta_grad);
  // Without a draw the loss is its own expectation, and so is its gradient.
  if (args.label_mode == LabelMode::kMean && args.beta_grad == BetaGrad::kImplicit) {
    args.beta_grad = BetaGrad::kExpected;
  }
  args.wants_mean = args.label_mode == LabelMode::kMean || args.beta_grad == BetaGrad::kExpected;
  args.reduction = reduction_from_name(op, in.reduction);
  return args;
}

SproutLossCall make_call(const char* op, const SproutLossInputs& in, const SproutLossArgs& args,
                         Tensor row_stats, Tensor grad_logits) {
  SproutLossCall call{dense(in.logits),
                      dense(in.labels),
                      dense(in.beta),
                      dense(in.rng_state),
                      std::move(row_stats),
                      std::move(grad_logits),
                      dense(in.partner_labels),
                      dense(in.lam),
                      std::nullopt,
                      accumulate_dtype(in.logits),
                      args};
  if (in.logits.is_cpu()) {
    check_index_values(op, "labels", call.labels, args.classes);
    check_values<float>(op, "beta", call.beta, "finite and at least 0",
                        [](float v) { return v >= 0.0f && std::isfinite(v); });
    if (in.lam) {
      check_index_values(op, "partner_labels", *call.partner_labels, args.classes);
      check_lam_values(op, *call.lam);
    }
  }
  call.args.logits = call.logits.const_data_ptr();
  call.args.labels = call.labels.const_data_ptr<int64_t>();
  call.args.partner_labels = data_or_null<int64_t>(call.partner_labels);
  call.args.lam = data_or_null<float>(call.lam);
  call.args.beta = call.beta.const_data_ptr<float>();
  call.args.rng_state = call.rng_state.const_data_ptr<int64_t>();
  call.args.row_stats = call.row_stats.mutable_data_ptr();
  call.args.grad_logits = call.grad_logits.mutable_data_ptr();
  return call;
}

}  // namespace

SproutLossCall prepare(const SproutLossInputs& in, bool return_grad_beta, bool return_grad_logits) {
  constexpr const char* op = "sprout_loss";
  const SproutLossArgs args = parse(op, in);
  SproutLossCall call = make_call(
      op, in, args, empty({args.batch, kRowStats}, accumulate_dtype(in.logits), in.logits),
      empty_grad_logits(op, return_grad_logits, in.logits));
  call.args.wants_grad_beta = return_grad_beta && args.beta_grad != BetaGrad::kNone;
  if (!return_grad_logits) call.args.grad_logits = nullptr;
  return call;
}

SproutLossCall prepare(const SproutLossInputs& in, const Tensor& row_stats,
                       const Tensor& grad_loss) {
  constexpr const char* op = "sprout_loss_backward";
  const SproutLossArgs args = parse(op, in);
  check_tensor(op, "row_stats", row_stats, accumulate_dtype(in.logits), {args.batch, kRowStats},
               "what sprout_loss returned", in.logits);
  check_grad_loss(op, grad_loss, args.reduction, in.logits);
  SproutLossCall call =
      make_call(op, in, args, dense(row_stats),
                empty({args.batch, args.classes}, in.logits.scalar_type(), in.logits));
  call.grad_loss = dense(grad_loss);
  call.args.wants_grad_beta = args.beta_grad != BetaGrad::kNone;
  call.args.grad_loss = call.grad_loss->const_data_ptr();
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  const std::string inputs =
      "Tensor logits, Tensor labels, Tensor? partner_labels, Tensor? lam, Tensor beta, "
      "Tensor rng_state, float alpha, float scale, str label_mode, str beta_grad, str reduction";
  // From the same pass over the logits: with return_grad_beta, grad_beta is the gradient of the
  // mean (of the sum for the other reductions), else it is empty; with return_grad_logits,
  // grad_logits is [B, K], the gradient of the loss (of each row's for "none"), else [0, K].
  m.def(("sprout_loss(" + inputs +
         ", bool return_grad_beta, bool return_grad_logits) -> "
         "(Tensor loss, Tensor grad_beta, Tensor row_stats, Tensor grad_logits)")
            .c_str());
  m.def(("sprout_loss_backward(" + inputs +
         ", Tensor row_stats, Tensor grad_loss) -> (Tensor grad_logits, Tensor grad_beta)")
            .c_str());
}

}  // namespace sprout_fast
