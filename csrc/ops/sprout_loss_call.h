// Checks of sprout_loss's tensors, made once for both devices (sprout_loss_call.cpp).
#pragma once

#include <optional>
#include <string>

#include "check.h"
#include "sprout_loss_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct SproutLossCall {
  Tensor logits, labels, beta, rng_state, row_stats;
  std::optional<Tensor> partner_labels, lam, grad_loss, grad_logits;
  ScalarType accumulate_dtype;  // float32, or float64 for float64 logits: loss and row_stats
  SproutLossArgs args;
};

SPROUT_EXPORT SproutLossCall prepare_sprout_loss(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& partner_labels,
    const std::optional<Tensor>& lam, const Tensor& beta, const Tensor& rng_state, double alpha,
    double scale, const std::string& label_mode, const std::string& beta_grad,
    const std::string& reduction, bool return_grad_beta, bool return_grad_logits);

SPROUT_EXPORT SproutLossCall prepare_sprout_loss_backward(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& labels,
    const std::optional<Tensor>& partner_labels, const std::optional<Tensor>& lam,
    const Tensor& beta, const Tensor& rng_state, const Tensor& row_stats, double alpha,
    double scale, const std::string& label_mode, const std::string& beta_grad,
    const std::string& reduction);

}  // namespace sprout_fast
