// What generalized_cross_entropy's checks hand to its kernels, on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "reduction.h"

namespace sprout_fast {

// Columns of row_stats, what backward needs of the forward pass: [B, kCount]. The sum of
// exponentials is kept beside the maximum that it is measured from: added up, the two would lose
// the digits that a large logit takes.
struct CrossEntropyStat {
  enum : int32_t {
    kTop = 0,     // largest logit
    kLogSum = 1,  // log sum_k exp(logit_k - top): softmax_k = exp((logit_k - top) - log_sum)
    kLoss = 2,    // sum_k t_k c_k, c = -log softmax
    kMass = 3,    // sum_k t_k
    kCount = 4,
  };
};

// Weights t_k = (1 - smoothing) y_k + smoothing / K, y the target.
struct GeneralizedCrossEntropyArgs {
  Dtype dtype;                // of logits and their gradient
  Dtype target_dtype;         // of probabilities and their gradient
  const void* logits;         // [B, K] dense
  const int64_t* labels;      // [B], or null: probabilities
  const void* probabilities;  // [B, K] dense, or null: labels
  void* row_stats;            // [B, CrossEntropyStat::kCount] float, or double for float64 logits
  int64_t batch, classes;
  double smoothing;
  Reduction reduction;
  // [B, K] dense: in backward the logits' gradient, in their dtype. In forward, where not null,
  // that of the loss (of each row's for Reduction::kNone) in row_stats' type, which is then only
  // left to multiply by grad_loss.
  void* grad_logits;
  // Backward only:
  const void* grad_loss;  // one number, or [B] for Reduction::kNone; type of row_stats
  void* grad_target;      // [B, K] dense, or null: not asked for
};

}  // namespace sprout_fast
