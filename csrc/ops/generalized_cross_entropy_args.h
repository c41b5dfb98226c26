// Arguments of generalized_cross_entropy's kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "reduction.h"

namespace sprout_fast {

// Columns of row_stats [B, kCount], which the forward pass saves for the backward pass. The sum of
// exponentials and the maximum that it is relative to are stored separately: their sum would lose
// the digits that a large logit occupies.
struct CrossEntropyStat {
  enum : int32_t {
    kTop = 0,     // largest logit
    kLogSum = 1,  // log sum_k exp(logit_k - top): softmax_k = exp((logit_k - top) - log_sum)
    kLoss = 2,    // sum_k t_k c_k, c = -log softmax
    kMass = 3,    // sum_k t_k
    kCount = 4,
  };
};

// Weights t_k = (1 - smoothing) y_k + smoothing / K, where y is the target.
struct GeneralizedCrossEntropyArgs {
  Dtype dtype;                // of logits and their gradient
  Dtype target_dtype;         // of probabilities and their gradient
  const void* logits;         // [B, K] dense
  const int64_t* labels;      // [B], null for probabilities
  const void* probabilities;  // [B, K] dense, null for labels
  void* row_stats;            // [B, CrossEntropyStat::kCount] float, or double for float64 logits
  int64_t batch, classes;
  double smoothing;
  Reduction reduction;
  // [B, K] dense. In the backward pass, the gradient of the logits, in their dtype. In the forward
  // pass, if not null, the gradient of the loss (of each row's loss for Reduction::kNone) with
  // respect to the logits in the type of row_stats, which backward only multiplies by grad_loss.
  void* grad_logits;
  // Backward only:
  const void* grad_loss;  // one number, or [B] for Reduction::kNone; type of row_stats
  void* grad_target;      // [B, K] dense, null if not requested
};

}  // namespace sprout_fast
