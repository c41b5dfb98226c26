// Schema and argument checks of sprout_loss.
#include "sprout_loss_call.h"

#include <torch/csrc/stable/library.h>

#include <cmath>

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

// Everything but row_stats, which forward makes and backward is given.
SproutLossCall prepare(const char* op, const Tensor& logits, const Tensor& labels,
                       const std::optional<Tensor>& partner_labels,
                       const std::optional<Tensor>& lam, const Tensor& beta,
                       const Tensor& rng_state, Tensor row_stats, double alpha, double scale,
                       const std::string& label_mode, const std::string& beta_grad,
                       const std::string& reduction) {
  SPROUT_CHECK(logits.defined() && logits.dim() == 2 && is_floating(logits.scalar_type()), op,
               "logits must be float64, float32, bfloat16 or float16 [B, K], got ",
               describe(logits));
  const int64_t batch = logits.size(0), classes = logits.size(1);
  SPROUT_CHECK(classes >= 1, op, "logits must have at least one class, got ", describe(logits));
  check_tensor(op, "labels", labels, ScalarType::Long, {batch}, "int64 [B]", logits);
  SPROUT_CHECK(partner_labels.has_value() == lam.has_value(), op,
               "partner_labels and lam must be given together or not at all, got only ",
               lam ? "lam" : "partner_labels");
  if (lam) {
    check_tensor(op, "partner_labels", *partner_labels, ScalarType::Long, {batch}, "int64 [B]",
                 logits);
    check_lam(op, *lam, batch, logits);
  }
  check_tensor(op, "beta", beta, ScalarType::Float, {classes}, "float32 [K]", logits);
  check_rng_state(op, rng_state, logits);
  SPROUT_CHECK(alpha >= 0 && alpha <= 1, op, "alpha must be in [0, 1], got ", alpha);
  SPROUT_CHECK(scale >= 1e-30 && scale <= 1e30, op, "scale must be in [1e-30, 1e30], got ", scale);

  const ScalarType accumulate_dtype =
      logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  SproutLossCall call{dense(logits),        dense(labels),         dense(beta), dense(rng_state),
                      std::move(row_stats), dense(partner_labels), dense(lam),  std::nullopt,
                      std::nullopt,         accumulate_dtype,      {}};
  if (logits.is_cpu()) {
    check_index_values(op, "labels", call.labels, classes);
    check_values<float>(op, "beta", call.beta, "finite and at least 0",
                        [](float v) { return v >= 0.0f && std::isfinite(v); });
    if (lam) {
      check_index_values(op, "partner_labels", *call.partner_labels, classes);
      check_lam_values(op, *call.lam);
    }
  }
  SproutLossArgs& args = call.args;
  args.dtype = to_dtype(logits.scalar_type());
  args.logits = call.logits.const_data_ptr();
  args.labels = call.labels.const_data_ptr<int64_t>();
  args.partner_labels = data_or_null<int64_t>(call.partner_labels);
  args.lam = data_or_null<float>(call.lam);
  args.lam_stride = lam && lam->size(0) != 1 ? 1 : 0;
  args.beta = call.beta.const_data_ptr<float>();
  args.rng_state = call.rng_state.const_data_ptr<int64_t>();
  args.row_stats = call.row_stats.mutable_data_ptr();
  args.batch = batch;
  args.classes = classes;
  args.alpha = alpha;
  args.scale = scale;
  args.label_mode = label_mode_from_name(op, label_mode);
  args.beta_grad = beta_grad_from_name(op, beta_grad);
  // Without a draw the loss is its own expectation, and so is its gradient.
  if (args.label_mode == LabelMode::kMean && args.beta_grad == BetaGrad::kImplicit) {
    args.beta_grad = BetaGrad::kExpected;
  }
  args.wants_mean = args.label_mode == LabelMode::kMean || args.beta_grad == BetaGrad::kExpected;
  args.reduction = reduction_from_name(op, reduction);
  return call;
}

}  // namespace

SproutLossCall prepare_sprout_loss(const Tensor& logits, const Tensor& labels,
                                   const std::optional<Tensor>& partner_labels,
                                   const std::optional<Tensor>& lam, const Tensor& beta,
                                   const Tensor& rng_state, double alpha, double scale,
                                   const std::string& label_mode, const std::string& beta_grad,
                                   const std::string& reduction, bool return_grad_beta,
                                   bool return_grad_logits) {
  constexpr const char* op = "sprout_loss";
  SPROUT_CHECK(logits.defined() && logits.dim() == 2, op, "logits must be [B, K], got ",
               describe(logits));
  const ScalarType accumulate_dtype =
      logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor row_stats = empty({logits.size(0), kRowStats}, accumulate_dtype, logits);
  SproutLossCall call = prepare(op, logits, labels, partner_labels, lam, beta, rng_state, row_stats,
                                alpha, scale, label_mode, beta_grad, reduction);
  call.args.wants_grad_beta = return_grad_beta && call.args.beta_grad != BetaGrad::kNone;
  check_return_grad_logits(op, return_grad_logits, logits);
  call.grad_logits = empty({return_grad_logits ? call.args.batch : 0, call.args.classes},
                           logits.scalar_type(), logits);
  call.args.grad_logits = return_grad_logits ? call.grad_logits->mutable_data_ptr() : nullptr;
  return call;
}

SproutLossCall prepare_sprout_loss_backward(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& labels,
    const std::optional<Tensor>& partner_labels, const std::optional<Tensor>& lam,
    const Tensor& beta, const Tensor& rng_state, const Tensor& row_stats, double alpha,
    double scale, const std::string& label_mode, const std::string& beta_grad,
    const std::string& reduction) {
  constexpr const char* op = "sprout_loss_backward";
  SproutLossCall call = prepare(op, logits, labels, partner_labels, lam, beta, rng_state,
                                dense(row_stats), alpha, scale, label_mode, beta_grad, reduction);
  const int64_t batch = call.args.batch;
  check_tensor(op, "row_stats", row_stats, call.accumulate_dtype, {batch, kRowStats},
               "what sprout_loss returned", logits);
  check_tensor(op, "grad_loss", grad_loss, call.accumulate_dtype,
               loss_shape(call.args.reduction, batch), "of the loss's dtype and shape", logits);
  call.grad_loss = dense(grad_loss);
  call.grad_logits = empty({batch, call.args.classes}, logits.scalar_type(), logits);
  call.args.wants_grad_beta = call.args.beta_grad != BetaGrad::kNone;
  call.args.grad_loss = call.grad_loss->const_data_ptr();
  call.args.grad_logits = call.grad_logits->mutable_data_ptr();
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  // From the same pass over the logits: with return_grad_beta, grad_beta is the gradient of the
  // mean (of the sum for the other reductions), else it is empty; with return_grad_logits,
  // grad_logits is [B, K], the gradient of the loss (of each row's for "none"), else [0, K].
  m.def(
      "sprout_loss(Tensor logits, Tensor labels, Tensor? partner_labels, Tensor? lam, Tensor beta, "
      "Tensor rng_state, float alpha, float scale, str label_mode, str beta_grad, str reduction, "
      "bool return_grad_beta, bool return_grad_logits) -> "
      "(Tensor loss, Tensor grad_beta, Tensor row_stats, Tensor grad_logits)");
  m.def(
      "sprout_loss_backward(Tensor grad_loss, Tensor logits, Tensor labels, Tensor? "
      "partner_labels, "
      "Tensor? lam, Tensor beta, Tensor rng_state, Tensor row_stats, float alpha, float scale, "
      "str label_mode, str beta_grad, str reduction) -> (Tensor grad_logits, Tensor grad_beta)");
}

}  // namespace sprout_fast
