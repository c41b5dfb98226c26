// Checks shared by the ops with gamma concentrations.
#pragma once

#include <cmath>

#include "check.h"

namespace sprout_fast {

inline void check_concentration(const char* op, const Tensor& t) {
  const bool fits = t.defined() &&
                    (t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double);
  SPROUT_CHECK(fits, op, "concentration must be float32 or float64, got ", describe(t));
}

inline void check_concentration_values(const char* op, const Tensor& contiguous) {
  constexpr const char* takes = "finite and at least 0";
  const auto valid = [](auto v) { return v >= 0 && std::isfinite(v); };
  if (contiguous.scalar_type() == ScalarType::Double) {
    check_values<double>(op, "concentration", contiguous, takes, valid);
  } else {
    check_values<float>(op, "concentration", contiguous, takes, valid);
  }
}

inline std::vector<int64_t> shape_of(const Tensor& t) {
  std::vector<int64_t> shape(static_cast<size_t>(t.dim()));
  for (int64_t i = 0; i < t.dim(); ++i) shape[static_cast<size_t>(i)] = t.size(i);
  return shape;
}

// Number of elements per index of the first dimension, which is what first_row counts.
inline int64_t elements_per_row(const Tensor& t) {
  int64_t elements = 1;
  for (int64_t i = 1; i < t.dim(); ++i) elements *= t.size(i);
  return elements;
}

}  // namespace sprout_fast
