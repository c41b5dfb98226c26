// From the arguments of meter_step_ to what its kernels read, once for both devices.
#pragma once

#include <optional>

#include "check.h"
#include "meter_step_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct MeterStepCall {
  Tensor logits, labels, loss;
  std::optional<Tensor> partner_labels, lam;
  MeterStepArgs args;
};
SPROUT_EXPORT MeterStepCall prepare_meter_step(const Tensor& loss_sum, const Tensor& hits,
                                               const Tensor& bad_step, const Tensor& loss,
                                               const Tensor& logits, const Tensor& labels,
                                               const std::optional<Tensor>& partner_labels,
                                               const std::optional<Tensor>& lam, int64_t step);

}  // namespace sprout_fast
