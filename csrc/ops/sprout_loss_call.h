// From the arguments of sprout_loss, its backward and the training step's ops to what their kernels
// read, once for both devices.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "sprout_loss_args.h"

namespace sprout_fast {

// The arguments that both schemas begin with, in their order.
struct SproutLossInputs {
  const Tensor& logits;                         // [B, K] float64, float32, bfloat16 or float16
  const Tensor& labels;                         // [B] int64
  const std::optional<Tensor>& partner_labels;  // [B] int64; None together with lam
  const std::optional<Tensor>& lam;             // [B] or [1] float32, the weight of `labels`
  const Tensor& beta;                           // [K] float32
  const Tensor& rng_state;                      // [3] int64
  double alpha, scale;
  const std::string &label_mode, &beta_grad, &reduction;
};

// The tensors that the pointers in `args` point into.
struct SproutLossCall {
  Tensor logits, labels, beta, rng_state, row_stats, grad_logits;
  std::optional<Tensor> partner_labels, lam, grad_loss;
  ScalarType accumulate_dtype;  // of the loss and of row_stats
  SproutLossArgs args;
};

SPROUT_EXPORT SproutLossCall prepare(const SproutLossInputs& inputs, bool return_grad_beta,
                                     bool return_grad_logits);
SPROUT_EXPORT SproutLossCall prepare(const SproutLossInputs& inputs, const Tensor& row_stats,
                                     const Tensor& grad_loss);

// Prepares a call of either op, whose own arguments follow the shared ones.
template <typename... Own>
SproutLossCall prepare_sprout_loss(const Tensor& logits, const Tensor& labels,
                                   const std::optional<Tensor>& partner_labels,
                                   const std::optional<Tensor>& lam, const Tensor& beta,
                                   const Tensor& rng_state, double alpha, double scale,
                                   const std::string& label_mode, const std::string& beta_grad,
                                   const std::string& reduction, Own... own) {
  return prepare({logits, labels, partner_labels, lam, beta, rng_state, alpha, scale, label_mode,
                  beta_grad, reduction},
                 own...);
}
constexpr auto prepare_sprout_loss_forward = &prepare_sprout_loss<bool, bool>;
constexpr auto prepare_sprout_loss_backward = &prepare_sprout_loss<const Tensor&, const Tensor&>;

// The tensors that the pointers in `finish` point into, besides those of `loss`, if there is a
// forward pass.
struct SproutStepCall {
  std::optional<SproutLossCall> loss;
  Tensor used_beta, used_rng;
  SproutFinishArgs finish;
};
SPROUT_EXPORT SproutStepCall prepare_sprout_loss_(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& partner_labels,
    const std::optional<Tensor>& lam, const Tensor& beta, const Tensor& rng,
    const Tensor& first_row, double alpha, double scale, const std::string& label_mode,
    const std::string& beta_grad, const Tensor& grad_sum, double weight, const Tensor& velocity,
    const Tensor& lr_factor, const std::vector<double>& step, bool return_grad_logits);
SPROUT_EXPORT SproutStepCall prepare_sprout_loss_step_(const Tensor& beta, const Tensor& grad_sum,
                                                       const Tensor& velocity,
                                                       const Tensor& lr_factor,
                                                       const std::vector<double>& step);

}  // namespace sprout_fast
