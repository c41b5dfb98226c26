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
  call.args.first_row = call.args.rng_state + 2;
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

namespace {

// Fills in the step, if there is one.
void parse_step(const char* op, const Tensor& beta, const Tensor& grad_sum, const Tensor& velocity,
                const Tensor& lr_factor, const std::vector<double>& step,
                SproutFinishArgs& finish) {
  const int64_t classes = beta.size(0);
  check_state(op, "grad_sum", grad_sum, ScalarType::Float, {classes}, "float32 [K]", beta);
  check_state(op, "velocity", velocity, ScalarType::Float, {classes}, "float32 [K]", beta);
  check_tensor(op, "lr_factor", lr_factor, ScalarType::Float, {}, "a float32 scalar", beta);
  constexpr size_t kNumbers = 6;
  bool valid = step.size() == kNumbers || step.empty();
  for (const double number : step) valid = valid && number >= 0;
  SPROUT_CHECK(valid && (step.empty() || step[0] > 0), op,
               "step must be empty or (divisor > 0, size, momentum, weight_decay, smallest, "
               "largest_total), at least 0, got ",
               step.size(), " numbers");
  finish.classes = classes;
  finish.beta = static_cast<float*>(beta.mutable_data_ptr());
  finish.grad_sum = static_cast<float*>(grad_sum.mutable_data_ptr());
  finish.velocity = static_cast<float*>(velocity.mutable_data_ptr());
  finish.lr_factor = lr_factor.const_data_ptr<float>();
  finish.steps = !step.empty();
  if (!finish.steps) return;
  const auto number = [&](size_t i) { return static_cast<float>(step[i]); };
  finish.step = {number(0), number(1), number(2), number(3), number(4), number(5)};
}

}  // namespace

SproutStepCall prepare_sprout_loss_(const Tensor& logits, const Tensor& labels,
                                    const std::optional<Tensor>& partner_labels,
                                    const std::optional<Tensor>& lam, const Tensor& beta,
                                    const Tensor& rng, const Tensor& first_row, double alpha,
                                    double scale, const std::string& label_mode,
                                    const std::string& beta_grad, const Tensor& grad_sum,
                                    double weight, const Tensor& velocity, const Tensor& lr_factor,
                                    const std::vector<double>& step, bool return_grad_logits) {
  constexpr const char* op = "sprout_loss_";
  check_logits(op, logits);
  check_rng(op, rng, first_row, logits);
  check_state(op, "beta", beta, ScalarType::Float, {logits.size(1)}, "float32 [K]", logits);
  SproutStepCall call{std::nullopt,
                      empty({logits.size(1)}, ScalarType::Float, logits),
                      empty({3}, ScalarType::Long, logits),
                      {}};
  SproutFinishArgs& finish = call.finish;
  parse_step(op, beta, grad_sum, velocity, lr_factor, step, finish);
  const std::string reduction = "mean";
  const SproutLossInputs in{logits, labels, partner_labels, lam,       beta,     call.used_rng,
                            alpha,  scale,  label_mode,     beta_grad, reduction};
  const SproutLossArgs args = parse(op, in);
  call.loss =
      make_call(op, in, args, empty({args.batch, kRowStats}, accumulate_dtype(logits), logits),
                empty_grad_logits(op, return_grad_logits, logits));
  SproutLossArgs& rows = call.loss->args;
  rows.rng_state = rng.const_data_ptr<int64_t>();
  rows.first_row = first_row.const_data_ptr<int64_t>();
  rows.wants_grad_beta = args.beta_grad != BetaGrad::kNone;
  if (!return_grad_logits) rows.grad_logits = nullptr;
  if (!rows.wants_grad_beta) {
    finish.grad_sum = nullptr;
    finish.steps = false;
  }
  finish.row_stats = rows.row_stats;
  finish.batch = args.batch;
  finish.rng = static_cast<int64_t*>(rng.mutable_data_ptr());
  finish.first_row = rows.first_row;
  finish.used_rng = static_cast<int64_t*>(call.used_rng.mutable_data_ptr());
  finish.used_beta = static_cast<float*>(call.used_beta.mutable_data_ptr());
  finish.factor = args.batch > 0 ? 1.0 / static_cast<double>(args.batch) : 1.0;
  finish.weight = static_cast<float>(weight);
  return call;
}

SproutStepCall prepare_sprout_loss_step_(const Tensor& beta, const Tensor& grad_sum,
                                         const Tensor& velocity, const Tensor& lr_factor,
                                         const std::vector<double>& step) {
  constexpr const char* op = "sprout_loss_step_";
  SPROUT_CHECK(beta.defined() && beta.scalar_type() == ScalarType::Float && beta.dim() == 1 &&
                   beta.is_contiguous(),
               op, "beta must be contiguous float32 [K], got ", describe(beta));
  SproutStepCall call{};
  parse_step(op, beta, grad_sum, velocity, lr_factor, step, call.finish);
  SPROUT_CHECK(call.finish.steps, op, "step must not be empty, got 0 numbers");
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
  // A training step: sprout_loss's mean, with the state's numbers, and what follows from it. The
  // gradient of beta is added to grad_sum, weight times; then, if `step` is not empty but (divisor,
  // size, momentum, weight_decay, smallest, largest_total), beta ascends on grad_sum / divisor.
  // used_beta and used_rng are what the loss was computed with, for sprout_loss_backward.
  m.def(
      "sprout_loss_(Tensor logits, Tensor labels, Tensor? partner_labels, Tensor? lam, "
      "Tensor(a!) beta, Tensor(b!) rng, Tensor first_row, float alpha, float scale, "
      "str label_mode, str beta_grad, Tensor(c!) grad_sum, float weight, Tensor(d!) velocity, "
      "Tensor lr_factor, float[] step, bool return_grad_logits) -> (Tensor loss, "
      "Tensor used_beta, Tensor used_rng, Tensor row_stats, Tensor grad_logits)");
  // The step alone, where other processes or batches add to grad_sum in between.
  m.def(
      "sprout_loss_step_(Tensor(a!) beta, Tensor(b!) grad_sum, Tensor(c!) velocity, "
      "Tensor lr_factor, float[] step) -> ()");
}

}  // namespace sprout_fast
