// Schema and argument checks of meter_step_.
#include "meter_step_call.h"

#include <torch/csrc/stable/library.h>

#include "loss.h"

namespace sprout_fast {

MeterStepCall prepare_meter_step(const Tensor& loss_sum, const Tensor& hits, const Tensor& bad_step,
                                 const Tensor& loss, const Tensor& logits, const Tensor& labels,
                                 const std::optional<Tensor>& partner_labels,
                                 const std::optional<Tensor>& lam, int64_t step) {
  constexpr const char* op = "meter_step_";
  check_logits(op, logits);
  const int64_t batch = logits.size(0);
  check_tensor(op, "loss_sum", loss_sum, ScalarType::Double, {}, "a float64 scalar", logits);
  check_tensor(op, "hits", hits, ScalarType::Long, {}, "an int64 scalar", logits);
  check_tensor(op, "bad_step", bad_step, ScalarType::Long, {}, "an int64 scalar", logits);
  const bool wide = loss.defined() && loss.scalar_type() == ScalarType::Double;
  check_tensor(op, "loss", loss, wide ? ScalarType::Double : ScalarType::Float, {},
               "a float32 or float64 scalar", logits);
  check_tensor(op, "labels", labels, ScalarType::Long, {batch}, "int64 [B]", logits);
  SPROUT_CHECK(partner_labels.has_value() == lam.has_value(), op,
               "partner_labels and lam must be given together or not at all, got only ",
               lam ? "lam" : "partner_labels");
  if (lam) {
    check_tensor(op, "partner_labels", *partner_labels, ScalarType::Long, {batch}, "int64 [B]",
                 logits);
    check_lam(op, *lam, batch, logits);
  }
  MeterStepCall call{dense(logits), dense(labels), loss, dense(partner_labels), dense(lam), {}};
  MeterStepArgs& args = call.args;
  args.dtype = to_dtype(logits.scalar_type());
  args.logits = call.logits.const_data_ptr();
  args.labels = call.labels.const_data_ptr<int64_t>();
  args.partner_labels = data_or_null<int64_t>(call.partner_labels);
  args.lam = data_or_null<float>(call.lam);
  args.lam_stride = lam && lam->size(0) != 1 ? 1 : 0;
  args.batch = batch;
  args.classes = logits.size(1);
  args.loss_dtype = to_dtype(loss.scalar_type());
  args.loss = loss.const_data_ptr();
  args.loss_sum = static_cast<double*>(loss_sum.mutable_data_ptr());
  args.hits = static_cast<int64_t*>(hits.mutable_data_ptr());
  args.bad_step = static_cast<int64_t*>(bad_step.mutable_data_ptr());
  args.step = step;
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def(
      "meter_step_(Tensor(a!) loss_sum, Tensor(b!) hits, Tensor(c!) bad_step, Tensor loss, "
      "Tensor logits, Tensor labels, Tensor? partner_labels, Tensor? lam, int step) -> ()");
}

}  // namespace sprout_fast
