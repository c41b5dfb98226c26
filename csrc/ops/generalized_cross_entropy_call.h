// Checks of generalized_cross_entropy's tensors, made once for both devices
// (generalized_cross_entropy_call.cpp).
#pragma once

#include <optional>
#include <string>

#include "check.h"
#include "generalized_cross_entropy_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct GeneralizedCrossEntropyCall {
  Tensor logits, target, row_stats;
  std::optional<Tensor> grad_loss, grad_logits, grad_target;
  ScalarType accumulate_dtype;  // float32, or float64 for float64 logits: loss and row_stats
  GeneralizedCrossEntropyArgs args;
};

SPROUT_EXPORT GeneralizedCrossEntropyCall prepare_generalized_cross_entropy(
    const Tensor& logits, const Tensor& target, double label_smoothing,
    const std::string& reduction, bool return_grad_logits);

SPROUT_EXPORT GeneralizedCrossEntropyCall prepare_generalized_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& target, const Tensor& row_stats,
    double label_smoothing, const std::string& reduction, bool return_grad_target);

}  // namespace sprout_fast
