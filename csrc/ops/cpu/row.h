// Reductions over a row, in independent lanes that the compiler makes vectors of. Included by
// kernels, inside their instruction set's namespace.
#pragma once

#include <cstdint>

#include "isa.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kRowLanes = 16;

// A row's length in scratch, rounded up to whole vectors; the overhang is filled with what does not
// count.
inline int64_t padded_row(int64_t n) { return (n + kRowLanes - 1) / kRowLanes * kRowLanes; }

// The largest of values [padded], NaN if one is.
template <typename T>
T row_maximum(const T* values, int64_t padded) {
  T partial[kRowLanes];
  for (int64_t i = 0; i < kRowLanes; ++i) partial[i] = values[i];
  for (int64_t k = kRowLanes; k < padded; k += kRowLanes) {
    for (int64_t i = 0; i < kRowLanes; ++i) {
      // The operand that is not provably smaller stays: so does a NaN, on either side.
      const T v = values[k + i];
      partial[i] = v <= partial[i] || partial[i] != partial[i] ? partial[i] : v;
    }
  }
  T result = partial[0];
  for (int64_t i = 1; i < kRowLanes; ++i) {
    result = partial[i] <= result || result != result ? result : partial[i];
  }
  return result;
}

// sum of term(k) for k in [0, padded).
template <typename T, typename Term>
T row_sum(int64_t padded, Term term) {
  T partial[kRowLanes] = {};
  for (int64_t k = 0; k < padded; k += kRowLanes) {
    for (int64_t i = 0; i < kRowLanes; ++i) partial[i] += term(k + i);
  }
  T result = 0;
  for (int64_t i = 0; i < kRowLanes; ++i) result += partial[i];
  return result;
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
