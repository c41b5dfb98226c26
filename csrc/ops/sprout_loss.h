// What sprout_loss's checks hand to its kernels, on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"

namespace sprout_fast {

enum class LabelsFrom : int32_t { kDirichlet, kMean };
enum class BetaGrad : int32_t { kNone, kImplicit, kExpected };
enum class Reduction : int32_t { kNone, kMean, kSum };

// Columns of row_stats, what backward needs of the forward pass: [B, kRowStats].
enum RowStat : int32_t {
  kLogSumExp = 0,  // log sum_k e^logit_k
  kLogTotal = 1,   // log sum_k G_k, or log sum_k a_k for LabelsFrom::kMean
  kLoss = 2,       // sum_k z_k c_k, c = -log softmax
  kMeanLoss = 3,   // sum_k (a_k / a_0) c_k: the loss's expectation over the draw
  kRowStats = 4,
};

// concentration a_k = scale ((1 - alpha) y_k + alpha beta_k), y = lam e_label + (1 - lam) e_partner.
struct SproutLossArgs {
  Dtype dtype;                    // of logits and their gradient
  const void* logits;             // [B, K] dense
  const int64_t* labels;          // [B]
  const int64_t* partner_labels;  // [B], or null with lam: no Mixup
  const float* lam;               // [B] or [1]
  int64_t lam_stride;             // 1 or 0
  const float* beta;              // [K]
  const int64_t* rng_state;       // (seed, offset, first_row)
  void* row_stats;                // [B, kRowStats] float, or double for float64 logits
  int64_t batch, classes;
  double alpha, scale;
  LabelsFrom labels_from;
  BetaGrad beta_grad;
  Reduction reduction;
  // Backward only:
  const void* grad_loss;          // one number, or [B] for Reduction::kNone; type of row_stats
  void* grad_logits;              // [B, K] dense
};

}  // namespace sprout_fast
