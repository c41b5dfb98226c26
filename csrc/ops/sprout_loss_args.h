// Arguments of sprout_loss's kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
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

// Classes with z < e^-T, T = unseen_nats, are left out of the loss and of the gradient of beta.
// That loses less than a rounding error: (T + 1) e^-T of their expectations, 1e-9 in float and
// 2e-16 in double (see kNegligibleNats in gamma.h).
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
  const int64_t* rng_state;       // (seed, offset, first_row)
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

}  // namespace sprout_fast
