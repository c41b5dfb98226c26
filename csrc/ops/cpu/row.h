// Reductions over a row, in independent lanes that the compiler vectorizes, and compaction.
// Included by kernels, in the namespace of their instruction set.
#pragma once

#include <cstdint>
#include <limits>

#include "../../common/elementary.h"
#include "isa.h"
#include "vector.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kRowLanes = 16;

// Rows are processed in chunks of this many elements, whose intermediate results stay in the
// first-level cache. A multiple of kRowLanes.
constexpr int64_t kRowChunk = 1024;

// Calls body(first, size) for each chunk of `count` elements.
template <typename Body>
void by_chunks(int64_t count, Body body) {
  for (int64_t k = 0; k < count; k += kRowChunk) {
    body(k, count - k < kRowChunk ? count - k : kRowChunk);
  }
}

// Length of a row in scratch, padded to whole vectors with values that do not contribute.
inline int64_t padded_row(int64_t n) { return (n + kRowLanes - 1) / kRowLanes * kRowLanes; }

// The largest of values [padded]. NaNs may be missed: see seen_nan. (GCC 12 would split explicit
// lanes, as in row_sum, into scalars, at five times the cost. Both halves at once, since each step
// waits for the previous one.)
template <typename T>
T row_maximum(const T* values, int64_t padded) {
  const T* half = values + padded / 2;
  T largest = values[0];
#pragma omp simd reduction(max : largest)
  for (int64_t k = 0; k < padded / 2; ++k) {
    const T larger = values[k] > half[k] ? values[k] : half[k];
    largest = larger > largest ? larger : largest;
  }
  return largest;
}

// The maximum of a row whose exponentials, relative to it, sum to `sum`: NaN if the row contains
// one. (An infinite maximum stays, and makes the exponentials NaN by itself.)
template <typename T>
T seen_nan(T maximum, T sum) {
  return sum != sum && maximum - maximum == T(0) ? sum : maximum;
}

// `value` if `condition`, else 0, by masking bits. For terms of row_sum: with `c ? x[k] : 0`, GCC
// 12 (-O3 -mavx2 -fno-trapping-math) loads x under a mask, and its code drops the terms of the last
// lane (tests/packaging/test_build.py looks for such loads in the objects).
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

// A sum in independent lanes.
template <typename T>
struct LaneSum {
  T partial[kRowLanes] = {};

  // Adds term(i) for i in [0, kRowLanes).
  template <typename Term>
  void add(Term term) {
    for (int64_t i = 0; i < kRowLanes; ++i) partial[i] += term(i);
  }
  T total() {
    for (int64_t width = kRowLanes / 2; width > 0; width /= 2) {
      for (int64_t i = 0; i < width; ++i) partial[i] += partial[i + width];
    }
    return partial[0];
  }
};

// Sum of term(k) for k in [0, padded). For terms that read memory under a condition, see keep_if.
template <typename T, typename Term>
T row_sum(int64_t padded, Term term) {
  LaneSum<T> sum;
  for (int64_t k = 0; k < padded; k += kRowLanes) sum.add([&](int64_t i) { return term(k + i); });
  return sum.total();
}

// Computes out[k] = e^(x[k] - top) and returns the sum. `out` may be `x`; each x[k] - top must be
// below 88 or NaN. (Summed up in the same loop, it has 50 % more instructions with GCC 12.)
template <typename T>
T row_exponentials(int64_t padded, const T* x, T top, T* out) {
  LaneSum<T> sum;
  const auto some = [&](int64_t first, int64_t count) {
    for (int64_t k = first; k < first + count; ++k) out[k] = fast_exp_below_88(x[k] - top);
    for (int64_t k = first; k < first + count; k += kRowLanes) {
      sum.add([&](int64_t i) { return out[k + i]; });
    }
  };
  constexpr int64_t kSome = 4 * kRowLanes;
  const int64_t whole = padded / kSome * kSome;
  for (int64_t k = 0; k < whole; k += kSome) some(k, kSome);
  some(whole, padded - whole);
  return sum.total();
}

// Rows of few classes are processed this many at a time, a row per lane, so that no sum crosses
// lanes and no row waits for another: alone, its chain of reductions takes most of a row's time.
constexpr int64_t kAbreast = 16, kAbreastClasses = 32;
template <typename T>
using Abreast = T[kAbreast];

// Calls body(i) for each lane, in a loop that the compiler vectorizes.
template <typename Body>
inline __attribute__((always_inline)) void each_lane(Body body) {
  for (int64_t i = 0; i < kAbreast; ++i) body(i);
}

// The row that a lane has, of `count`: those beyond repeat the last one.
inline int64_t row_of_lane(int64_t i, int64_t count) { return i < count ? i : count - 1; }

// Element k of row i, of `count` rows with K elements each, into to[k][i].
template <typename From, typename T>
void load_abreast(const From* rows, int64_t count, int64_t K, Abreast<T>* to) {
  const From* of_lane[kAbreast];
  for (int64_t i = 0; i < kAbreast; ++i) of_lane[i] = rows + row_of_lane(i, count) * K;
  for (int64_t k = 0; k < K; ++k) {
    for (int64_t i = 0; i < kAbreast; ++i) to[k][i] = static_cast<T>(of_lane[i][k]);
  }
}

// The reverse, for those `count` rows.
template <typename T, typename To>
void store_abreast(const Abreast<T>* from, int64_t count, int64_t K, To* rows) {
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; k < K; ++k) rows[i * K + k] = static_cast<To>(from[k][i]);
  }
}

// The largest of each lane's numbers, as row_maximum.
template <typename T>
inline __attribute__((always_inline)) void abreast_maximum(int64_t K, const Abreast<T>* values,
                                                           Abreast<T>& largest) {
  each_lane([&](int64_t i) { largest[i] = values[0][i]; });
  for (int64_t k = 1; k < K; ++k) {
    each_lane(
        [&](int64_t i) { largest[i] = values[k][i] > largest[i] ? values[k][i] : largest[i]; });
  }
}

// Arrays are compacted in multiples of this, whatever the instruction set, and their lengths
// rounded up to one.
constexpr int64_t kCompactLanes = 16;
static_assert(kCompactLanes % kLanes == 0);
inline int64_t whole_compact_lanes(int64_t n) {
  return (n + kCompactLanes - 1) / kCompactLanes * kCompactLanes;
}

// The numbers 0, step, 2 step, ...
SPROUT_INLINE Ints multiples(int32_t step) {
  Ints numbers;
  for (int32_t i = 0; i < kLanes; ++i) numbers[i] = i * step;
  return numbers;
}

// What to compact: an array of 32-bit values. `to` needs room for kCompactLanes more, and may be
// `from`.
struct Compacted {
  const void* from;
  void* to;

  Ints next(int64_t i) const { return load<Ints>(static_cast<const char*>(from) + 4 * i); }
};

// Or the numbers `first` + i kStep.
template <int32_t kStep = 1>
struct CompactedNumbers {
  int32_t first;
  int32_t* to;

  Ints next(int64_t i) const {
    return multiples(kStep) + (first + static_cast<int32_t>(i) * kStep);
  }
};

// Of `count` values, a multiple of kCompactLanes, writes those whose key is `wanted`, in order, and
// returns their number. Written by hand: GCC 12 compacts one at a time, at 1 ns each.
template <typename... Arrays>
inline __attribute__((always_inline)) int64_t compact(const int32_t* key, int32_t wanted,
                                                      int64_t count, Arrays... arrays) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    const Compaction lanes(equal(load<Ints>(key + i), Ints() + wanted));
    (lanes.store(arrays.next(i), static_cast<int32_t*>(arrays.to) + n), ...);
    n += lanes.count();
  }
  return n;
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
