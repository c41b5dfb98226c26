// Checks and outputs that the losses share.
#pragma once

#include <string>

#include "check.h"
#include "reduction.h"

namespace sprout_fast {

inline void check_logits(const char* op, const Tensor& logits) {
  SPROUT_CHECK(logits.defined() && logits.dim() == 2 && is_floating(logits.scalar_type()), op,
               "logits must be float64, float32, bfloat16 or float16 [B, K], got ",
               describe(logits));
  SPROUT_CHECK(logits.size(1) >= 1, op, "logits must have at least one class, got ",
               describe(logits));
}

// The dtype of the loss and of row_stats: float32, or float64 for float64 logits.
inline ScalarType accumulate_dtype(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Reduction reduction_from_name(const char* op, const std::string& name) {
  if (name == "none") return Reduction::kNone;
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  fail(op, "reduction must be 'mean', 'sum' or 'none', got '", name, "'");
}

// [batch] for Reduction::kNone, else a scalar.
inline Shape loss_shape(Reduction reduction, const int64_t& batch) {
  return {&batch, reduction == Reduction::kNone ? size_t{1} : size_t{0}};
}

inline void check_grad_loss(const char* op, const Tensor& grad_loss, Reduction reduction,
                            const Tensor& logits) {
  check_tensor(op, "grad_loss", grad_loss, accumulate_dtype(logits),
               loss_shape(reduction, logits.size(0)), "of the loss's dtype and shape", logits);
}

// The forward pass's gradient with respect to the logits: [B, K] if requested, else [0, K]. Only on
// CPU, where computing it again costs more than keeping it, and only in the dtypes in which it can
// be kept without being rounded twice.
inline Tensor empty_grad_logits(const char* op, bool return_grad_logits, const Tensor& logits) {
  const ScalarType dtype = logits.scalar_type();
  SPROUT_CHECK(!return_grad_logits ||
                   (logits.is_cpu() && (dtype == ScalarType::Float || dtype == ScalarType::Double)),
               op, "logits must be float32 or float64 on CPU if return_grad_logits is True, got ",
               describe(logits));
  return empty({return_grad_logits ? logits.size(0) : 0, logits.size(1)}, dtype, logits);
}

}  // namespace sprout_fast
