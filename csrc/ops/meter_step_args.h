// Arguments of meter_step_'s kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/macros.h"

namespace sprout_fast {

// Hits are counted in units of 2^-32: sums of integers do not depend on the order of the rows.
constexpr double kHit = 4294967296.0;

struct MeterStepArgs {
  Dtype dtype;                    // of logits
  const void* logits;             // [B, K] dense
  const int64_t* labels;          // [B]
  const int64_t* partner_labels;  // [B]; null for no Mixup
  const float* lam;               // [B] or [1]
  int64_t lam_stride;             // 1 or 0
  int64_t batch, classes;
  Dtype loss_dtype;  // float32 or float64
  const void* loss;  // one number: the batch's mean
  double* loss_sum;  // one number each, added to
  int64_t* hits;
  int64_t* bad_step;  // set to `step` at the first loss that is not finite, if it is negative
  int64_t step;
};

// What a row with this prediction adds to the hits.
SPROUT_HOST_DEVICE int64_t meter_hit(const MeterStepArgs& args, int64_t row, int64_t predicted) {
  double hit = predicted == args.labels[row] ? kHit : 0.0;
  if (args.lam != nullptr) {
    const double lam = args.lam[row * args.lam_stride];
    const double of_partner = predicted == args.partner_labels[row] ? kHit : 0.0;
    hit = of_partner + lam * (hit - of_partner);
  }
  return hit >= 0.0 && hit <= kHit ? static_cast<int64_t>(hit + 0.5) : 0;  // lam in [0, 1]
}

SPROUT_HOST_DEVICE void meter_loss(const MeterStepArgs& args) {
  const double loss = args.loss_dtype == Dtype::kFloat64
                          ? *static_cast<const double*>(args.loss)
                          : static_cast<double>(*static_cast<const float*>(args.loss));
  *args.loss_sum += loss * static_cast<double>(args.batch);
  if (!(loss - loss == 0.0) && *args.bad_step < 0) *args.bad_step = args.step;
}

}  // namespace sprout_fast
