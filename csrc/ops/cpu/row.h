// Reductions over a row, in independent lanes that the compiler makes vectors of. Included by
// kernels, inside their instruction set's namespace.
#pragma once

#include <cstdint>

#include "../../common/elementary.h"
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

// `value` where `condition`, else 0, by a mask on the bits. For row_sum's terms: `c ? x[k] : 0`
// there makes GCC 12 (-O3 -mavx2 -fno-trapping-math) load x under a mask, and its code then loses
// the last lane's terms (tests/test_build.py looks for such loads in the objects).
inline __attribute__((always_inline)) float keep_if(bool condition, float value) {
  return bits_to_float(float_to_bits(value) & -static_cast<int32_t>(condition));
}
inline __attribute__((always_inline)) double keep_if(bool condition, double value) {
  int64_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits &= -static_cast<int64_t>(condition);
  memcpy(&value, &bits, sizeof bits);
  return value;
}

// sum of term(k) for k in [0, padded). A term that reads memory under a condition: see keep_if.
template <typename T, typename Term>
T row_sum(int64_t padded, Term term) {
  T partial[kRowLanes] = {};
  for (int64_t k = 0; k < padded; k += kRowLanes) {
    for (int64_t i = 0; i < kRowLanes; ++i) partial[i] += term(k + i);
  }
  for (int64_t width = kRowLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) partial[i] += partial[i + width];
  }
  return partial[0];
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
