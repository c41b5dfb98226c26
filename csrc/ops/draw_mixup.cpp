// Schema and argument checks of draw_mixup.
#include "draw_mixup_args.h"

#include <torch/csrc/stable/library.h>

namespace sprout_fast {

DrawMixupCall prepare_draw_mixup(const Tensor& rng_state, int64_t batch, double a,
                                 bool per_sample) {
  constexpr const char* op = "draw_mixup";
  check_rng_state(op, rng_state, rng_state);
  SPROUT_CHECK(batch >= 0 && batch < (int64_t{1} << 31), op,
               "batch_size must be in [0, 2^31), got ", batch);
  // Below 1e-36 both log G of a pair can leave float32's range, and lam would be NaN.
  SPROUT_CHECK(a >= 1e-30 && a <= 1e5, op, "a must be in [1e-30, 1e5], got ", a);
  DrawMixupCall call{dense(rng_state),
                     empty({batch}, ScalarType::Long, rng_state),
                     empty({per_sample ? batch : int64_t{1}}, ScalarType::Float, rng_state),
                     {}};
  call.args.rng_state = call.rng_state.const_data_ptr<int64_t>();
  call.args.partner = static_cast<int64_t*>(call.partner.mutable_data_ptr());
  call.args.lam = static_cast<float*>(call.lam.mutable_data_ptr());
  call.args.batch = batch;
  call.args.lams = call.lam.numel();
  call.args.per_sample = per_sample;
  call.args.a = static_cast<float>(a);
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def(
      "draw_mixup(Tensor rng_state, int batch_size, float a, bool per_sample) "
      "-> (Tensor partner, Tensor lam)");
}

}  // namespace sprout_fast
