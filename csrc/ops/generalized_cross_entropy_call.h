// From the arguments of generalized_cross_entropy to what its kernels read, once for both devices.
#pragma once

#include <optional>
#include <string>

#include "check.h"
#include "generalized_cross_entropy_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct GeneralizedCrossEntropyCall {
  Tensor logits, target, row_stats, grad_logits;
  std::optional<Tensor> grad_loss, grad_target;
  ScalarType accumulate_dtype;  // of the loss and of row_stats
  GeneralizedCrossEntropyArgs args;
};

SPROUT_EXPORT GeneralizedCrossEntropyCall prepare_generalized_cross_entropy(
    const Tensor& logits, const Tensor& target, double label_smoothing,
    const std::string& reduction, bool return_grad_logits);

SPROUT_EXPORT GeneralizedCrossEntropyCall prepare_generalized_cross_entropy_backward(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& target, const Tensor& row_stats,
    double label_smoothing, const std::string& reduction, bool return_grad_target);

}  // namespace sprout_fast
