// Arguments of sprout_loss's kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/gamma.h"
#include "../common/macros.h"
#include "reduction.h"

namespace sprout_fast {

enum class LabelMode : int32_t { kSample, kMean };
enum class BetaGrad : int32_t { kNone, kImplicit, kExpected };

// Columns of row_stats [B, kRowStats], which the forward pass saves for the backward pass. Sums of
// exponentials and the maximum that they are relative to are stored separately: their sum would
// lose the digits that a large logit occupies.
enum RowStat : int32_t {
  kTop = 0,   // largest logit
  kSum = 1,   // sum_k exp(logit_k - top), so softmax_k = exp(logit_k - top) / sum
  kLoss = 2,  // sum_k z_k c_k, c = -log softmax
  // For LabelMode::kSample, else 0:
  kTopG = 3,  // the largest log gamma variate, or on CPU 0 if that suffices
  kSumG = 4,  // the same for the variates: z_k = exp(log_g_k - top_g) / sum_g
  // For LabelMode::kMean and BetaGrad::kExpected, else 0:
  kMeanLoss = 5,  // sum_k (a_k / a_0) c_k: the loss's expectation over the draw
  kMass = 6,      // a_0 = sum_k a_k
  kRowStats = 7,
};

// Classes with z < e^-T, T = unseen_nats, are left out of the implicit gradient of beta. That loses
// less than a rounding error: (T + 1) e^-T of its expectation, 1e-9 in float and 2e-16 in double
// (see kNegligibleNats in gamma.h).
template <typename T>
constexpr T unseen_nats() {
  return sizeof(T) == 4 ? T(24) : T(40);
}

// concentration a_k = scale ((1 - alpha) y_k + alpha beta_k), y = lam e_label + (1 - lam)
// e_partner.
struct SproutLossArgs {
  Dtype dtype;                    // of logits and their gradient
  const void* logits;             // [B, K] dense
  const int64_t* labels;          // [B]
  const int64_t* partner_labels;  // [B]; null for no Mixup
  const float* lam;               // [B] or [1]
  int64_t lam_stride;             // 1 or 0
  const float* beta;              // [K]
  const int64_t* rng_state;       // (seed, offset, first_row), or (seed, offset) with first_row
  const int64_t* first_row;       // null if rng_state has it
  void* row_stats;                // [B, kRowStats] float, or double for float64 logits
  int64_t batch, classes;
  double alpha, scale;
  LabelMode label_mode;
  BetaGrad beta_grad;
  Reduction reduction;
  bool wants_grad_beta;  // whether this pass computes beta's gradient
  bool wants_mean;       // whether it computes kMeanLoss and kMass
  // [B, K] dense. In the backward pass, the gradient of the logits, in their dtype. In the forward
  // pass, if not null, the gradient of the loss (of each row's loss for Reduction::kNone) with
  // respect to the logits in the type of row_stats, which backward only multiplies by grad_loss.
  void* grad_logits;
  // Backward only:
  const void* grad_loss;  // one number, or [B] for Reduction::kNone; type of row_stats
};

// A draw may leave out classes whose boost is this much below the larger variate of label and
// partner. The implicit gradient, in which z has a factor of about 1/a, needs all with z >= e^-T.
// The rest needs fewer: what is left out is e^-20 of the loss's expectation, 2e-9, in double 4e-18.
template <typename T>
SPROUT_HOST_DEVICE T unseen_boost_nats(const SproutLossArgs& args) {
  if (args.beta_grad == BetaGrad::kImplicit) return unseen_nats<T>() + T(kBoostHeadroom);
  return sizeof(T) == 4 ? T(20) : T(40);
}

// One step of beta's ascent, and what bounds beta afterwards.
struct BetaStep {
  float divisor;  // of the accumulated gradient
  float size, momentum, weight_decay;
  float smallest;       // of each class
  float largest_total;  // of all classes together, from the mass floor; infinity for none
};

// What follows the rows of a training step, in one launch: all that depends on their sums.
struct SproutFinishArgs {
  int64_t classes;
  float* beta;  // [K]
  // Of the forward pass; null without one.
  const void* row_stats;  // [B, kRowStats] float, or double for float64 logits
  void* loss;             // one number of that type: the rows' mean
  int64_t batch;
  int64_t* rng;  // (seed, offset), advanced
  const int64_t* first_row;
  int64_t* used_rng;  // [3] what the rows drew from, for the backward pass
  float* used_beta;   // [K] the same of beta
  // The gradient of beta, added to `grad_sum` with a weight: factor times the sum of `partial` over
  // its groups, or `summed`, or none if both are null.
  const void* partial;  // [groups, K], type of row_stats
  const float* summed;  // [K]
  int64_t groups;
  double factor;
  float weight;
  float* grad_sum;  // [K] since the last step, which a step sets to 0; null if none is wanted
  // The step:
  bool steps;
  float* velocity;         // [K]
  const float* lr_factor;  // one number
  BetaStep step;
};

// Class k before the step: returns whether the gradient to step with is finite.
SPROUT_HOST_DEVICE bool accumulate_gradient(const SproutFinishArgs& args, int64_t k,
                                            float gradient) {
  if (args.used_beta != nullptr) args.used_beta[k] = args.beta[k];
  if (args.grad_sum == nullptr) return true;
  const float sum = args.grad_sum[k] + args.weight * gradient;
  args.grad_sum[k] = sum;
  return sum - sum == 0.0f;
}

// Steps class k if the gradients of all classes are finite; returns its beta.
SPROUT_HOST_DEVICE float step_beta(const SproutFinishArgs& args, int64_t k, bool finite) {
  const BetaStep& step = args.step;
  const float beta = args.beta[k];
  float g = args.grad_sum[k] / step.divisor - step.weight_decay * beta;
  args.grad_sum[k] = 0.0f;
  if (!finite) return beta;
  if (step.momentum != 0.0f) {
    g += step.momentum * args.velocity[k];
    args.velocity[k] = g;
  }
  const float ascended = beta + step.size * (g * *args.lr_factor);
  return args.beta[k] = ascended < step.smallest ? step.smallest : ascended;
}

// Scales class k down so that the classes' total is what the mass floor allows.
SPROUT_HOST_DEVICE void bound_beta(const SproutFinishArgs& args, int64_t k, double total) {
  const float bounded = args.beta[k] * static_cast<float>(args.step.largest_total / total);
  args.beta[k] = bounded < args.step.smallest ? args.step.smallest : bounded;
}

}  // namespace sprout_fast
