// Schema and argument checks of sample_mixup.
#include "sample_mixup_call.h"

#include <torch/csrc/stable/library.h>

namespace sprout_fast {

namespace {

SampleMixupCall make_call(const char* op, int64_t batch, const Tensor& rng_state,
                          double mixup_alpha, bool per_sample) {
  SPROUT_CHECK(batch >= 0 && batch < (int64_t{1} << 31), op,
               "batch_size must be in [0, 2^31), got ", batch);
  // Below 1e-36 both log G of a pair can leave float32's range, which would make lam NaN.
  SPROUT_CHECK(mixup_alpha >= 1e-30 && mixup_alpha <= 1e5, op,
               "mixup_alpha must be in [1e-30, 1e5], got ", mixup_alpha);
  SampleMixupCall call{dense(rng_state),
                       empty({batch}, ScalarType::Long, rng_state),
                       empty({per_sample ? batch : int64_t{1}}, ScalarType::Float, rng_state),
                       {},
                       {},
                       {},
                       {}};
  call.args.rng_state = call.rng_state.const_data_ptr<int64_t>();
  call.args.partner = static_cast<int64_t*>(call.partner.mutable_data_ptr());
  call.args.lam = static_cast<float*>(call.lam.mutable_data_ptr());
  call.args.batch = batch;
  call.args.lams = call.lam.numel();
  call.args.per_sample = per_sample;
  call.args.mixup_alpha = static_cast<float>(mixup_alpha);
  return call;
}

}  // namespace

SampleMixupCall prepare_sample_mixup(int64_t batch, const Tensor& rng_state, double mixup_alpha,
                                     bool per_sample) {
  constexpr const char* op = "sample_mixup";
  check_rng_state(op, rng_state, rng_state);
  return make_call(op, batch, rng_state, mixup_alpha, per_sample);
}

SampleMixupCall prepare_sample_mixup_(const Tensor& rng, const Tensor& first_row,
                                      const Tensor& labels, double mixup_alpha, bool per_sample) {
  constexpr const char* op = "sample_mixup_";
  check_rng(op, rng, first_row, rng);
  SPROUT_CHECK(labels.defined() && labels.dim() == 1, op, "labels must be int64 [B], got ",
               describe(labels));
  check_tensor(op, "labels", labels, ScalarType::Long, {labels.size(0)}, "int64 [B]", rng);
  SampleMixupCall call = make_call(op, labels.size(0), rng, mixup_alpha, per_sample);
  call.labels = dense(labels);
  call.partner_labels = empty({labels.size(0)}, ScalarType::Long, rng);
  call.used_rng = empty({3}, ScalarType::Long, rng);
  call.args.first_row = first_row.const_data_ptr<int64_t>();
  call.args.labels = call.labels.const_data_ptr<int64_t>();
  call.args.partner_labels = static_cast<int64_t*>(call.partner_labels.mutable_data_ptr());
  call.args.rng = static_cast<int64_t*>(call.rng_state.mutable_data_ptr());
  call.args.used_rng = static_cast<int64_t*>(call.used_rng.mutable_data_ptr());
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def(
      "sample_mixup(int batch_size, Tensor rng_state, float mixup_alpha, bool per_sample) "
      "-> (Tensor partner, Tensor lam)");
  // The same with what a training step needs besides: the labels of the partners, and the state
  // (seed, offset) advanced, of which used_rng is what was drawn with.
  m.def(
      "sample_mixup_(Tensor(a!) rng, Tensor first_row, Tensor labels, float mixup_alpha, "
      "bool per_sample) -> (Tensor partner, Tensor lam, Tensor partner_labels, Tensor used_rng)");
}

}  // namespace sprout_fast
