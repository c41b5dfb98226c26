// Schema and argument checks of sample_mixup.
#include "sample_mixup_call.h"

#include <torch/csrc/stable/library.h>

namespace sprout_fast {

SampleMixupCall prepare_sample_mixup(int64_t batch, const Tensor& rng_state, double mixup_alpha,
                                     bool per_sample) {
  constexpr const char* op = "sample_mixup";
  check_rng_state(op, rng_state, rng_state);
  SPROUT_CHECK(batch >= 0 && batch < (int64_t{1} << 31), op,
               "batch_size must be in [0, 2^31), got ", batch);
  // Below 1e-36 both log G of a pair can leave float32's range, which would make lam NaN.
  SPROUT_CHECK(mixup_alpha >= 1e-30 && mixup_alpha <= 1e5, op,
               "mixup_alpha must be in [1e-30, 1e5], got ", mixup_alpha);
  SampleMixupCall call{dense(rng_state),
                       empty({batch}, ScalarType::Long, rng_state),
                       empty({per_sample ? batch : int64_t{1}}, ScalarType::Float, rng_state),
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

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def(
      "sample_mixup(int batch_size, Tensor rng_state, float mixup_alpha, bool per_sample) "
      "-> (Tensor partner, Tensor lam)");
}

}  // namespace sprout_fast
