// A row of gamma variates on CPU, and of their implicit gradients, in loops that the compiler turns
// into vector instructions. Included by kernels, inside their instruction set's namespace.
#pragma once

#include <limits>

#include "../../common/gamma.h"
#include "../../common/gamma_gradient.h"
#include "isa.h"
#include "philox_block.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

// A row's concentrations and, of each, its GammaShape; [count] each.
template <typename T>
struct GammaRow {
  const T* a;
  T *d, *c, *log_d;
};
constexpr int64_t kGammaShapeArrays = 3;

// The row of `a`, its shapes put into `storage`, kGammaShapeArrays arrays of `stride` >= count.
template <typename T>
GammaRow<T> gamma_row(int64_t count, const T* a, T* storage, int64_t stride) {
  const GammaRow<T> row{a, storage, storage + stride, storage + 2 * stride};
  for (int64_t k = 0; k < count; ++k) {
    const GammaShape<T> shape = gamma_shape(a[k]);
    row.d[k] = shape.d;
    row.c[k] = shape.c;
    row.log_d[k] = shape.log_d;
  }
  return row;
}

// Room for the pairs that still wait for a variate, in int32.
constexpr int64_t pending_pairs(int64_t count) { return count / 2 + 2 * kPhiloxLanes; }

// log_g[k] = log of element (first + k)'s variate, for k in [0, count). Those surely under `floor`
// (-inf: none) become -inf, at the cost of their boost. Concentrations must be finite and at least
// 0; `pending` is scratch.
template <typename T>
void log_gamma_row(const PhiloxCall& call, int64_t first, int64_t count, const GammaRow<T>& row,
                   T floor, T* log_g, int32_t* pending) {
  const T infinity = std::numeric_limits<T>::infinity();
  // 1. The boosts: four neighbours share a block, so that most of a row of small concentrations is
  // done with after a quarter of a block an element. A pair waits as (its even element's k + 1) in
  // the upper bits, and which of the two wait in the lower two.
  const T threshold = floor - T(kLogGammaHeadroom);
  int64_t waiting = 0;
  for (int64_t k0 = -(first & 3); k0 < count; k0 += 4 * kPhiloxLanes) {
    int64_t elements[kPhiloxLanes];
    uint32_t words[4][kPhiloxLanes];
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) elements[lane] = first + k0 + 4 * lane;
    philox_block(call, Stream::kGamma, elements, kGammaBoostDraw, words);
    uint32_t ordered[4 * kPhiloxLanes];
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
      for (int64_t j = 0; j < 4; ++j) ordered[4 * lane + j] = words[j][lane];
    }
    const int64_t begin = k0 < 0 ? -k0 : 0;
    const int64_t end = count - k0 < 4 * kPhiloxLanes ? count - k0 : 4 * kPhiloxLanes;
    int32_t wanted[4 * kPhiloxLanes] = {};
    for (int64_t i = begin; i < end; ++i) {
      const T a = row.a[k0 + i];
      // At a = 0 a boost of -inf, which is never wanted; from a = 1 on one of (minus) 0.
      const T boost = log_uniform_as<T>(ordered[i]) / (a < T(1) ? a : infinity);
      wanted[i] = boost > threshold ? 1 : 0;
      log_g[k0 + i] = boost > threshold ? boost : -infinity;
    }
    for (int64_t i = 0; i < 4 * kPhiloxLanes; i += 2) {
      const int32_t which = wanted[i] + 2 * wanted[i + 1];
      pending[waiting] = static_cast<int32_t>(4 * (k0 + i + 1) + which);
      waiting += which != 0 ? 1 : 0;
    }
  }
  // 2. Rounds of attempts at those that matter; the rejected wait for the next round.
  for (uint32_t draw = 0; draw < kMaxGammaDraws && waiting > 0; ++draw) {
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) pending[waiting + lane] = 4;  // nobody
    int64_t rejected = 0;
    for (int64_t n = 0; n < waiting; n += kPhiloxLanes) {
      int64_t elements[kPhiloxLanes];
      int64_t index[2][kPhiloxLanes];
      GammaShape<T> shape[2][kPhiloxLanes];
      for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
        const int64_t k = (pending[n + lane] >> 2) - 1;
        elements[lane] = first + k;
        for (int64_t j = 0; j < 2; ++j) {
          // Half a pair may lie outside the row.
          const int64_t inside = k + j < 0 ? 0 : k + j;
          index[j][lane] = inside < count ? inside : count - 1;
          shape[j][lane] = {row.d[index[j][lane]], row.c[index[j][lane]],
                            row.log_d[index[j][lane]]};
        }
      }
      uint32_t words[4][kPhiloxLanes];
      philox_block(call, Stream::kGamma, elements, draw, words);
      T variate[2][kPhiloxLanes];
      int32_t accepted[2][kPhiloxLanes];
      T normal[2][kPhiloxLanes];
      for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
        normal_pair(words[0][lane], words[1][lane], &normal[0][lane], &normal[1][lane]);
      }
      for (int64_t j = 0; j < 2; ++j) {
        for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
          const bool ok =
              gamma_attempt(shape[j][lane], normal[j][lane], words[2 + j][lane], &variate[j][lane]);
          accepted[j][lane] = ok ? 1 << j : 0;
        }
      }
      for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
        const int32_t pair = pending[n + lane];
        const int32_t done = pair & (accepted[0][lane] | accepted[1][lane]);
        for (int64_t j = 0; j < 2; ++j) {
          log_g[index[j][lane]] += keep_if(((done >> j) & 1) != 0, variate[j][lane]);
        }
        pending[rejected] = pair - done;  // behind what has been read
        rejected += (pair - done) % 4 != 0 ? 1 : 0;
      }
    }
    waiting = rejected;
  }
  for (int64_t n = 0; n < waiting; ++n) {
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t k = (pending[n] >> 2) - 1 + j;
      if (((pending[n] >> j) & 1) != 0) log_g[k] += row.log_d[k];
    }
  }
}

// w[k] = dlog G_k/da_k at log_g[k], and 0 where log_g[k] < floor or is -inf.
inline void log_gamma_gradient_row(int64_t count, const double* a, const double* log_g,
                                   double floor, double* w) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < count; ++k) {
    const bool wanted = !(log_g[k] < floor) && log_g[k] != -infinity;
    w[k] = wanted ? log_gamma_gradient(a[k], log_g[k]) : 0.0;
  }
}

inline void log_gamma_gradient_row(int64_t count, const float* a, const float* log_g, float floor,
                                   float* w) {
  constexpr int64_t kChunk = 1024;
  constexpr int64_t kLanes = 16;
  constexpr int kLists = 4;  // the regions, the power series' in two: few and many terms
  const float lowest = std::numeric_limits<float>::lowest();
  floor = floor < lowest ? lowest : floor;
  for (int64_t k0 = 0; k0 < count; k0 += kChunk) {
    // Gather those that are wanted, then sort them by region, then work through each region.
    int32_t source[kChunk];
    const int64_t chunk = count - k0 < kChunk ? count - k0 : kChunk;
    int64_t wanted = 0;
    for (int64_t i = 0; i < chunk; ++i) {
      w[k0 + i] = 0.0f;
      source[wanted] = static_cast<int32_t>(i);
      wanted += !(log_g[k0 + i] < floor) ? 1 : 0;
    }
    float some_a[kChunk], some_log_g[kChunk], g[kChunk];
    int32_t list_of[kChunk];
    for (int64_t n = 0; n < wanted; ++n) {
      some_a[n] = a[k0 + source[n]];
      some_log_g[n] = log_g[k0 + source[n]];
    }
    for (int64_t n = 0; n < wanted; ++n) {
      g[n] = fast_exp(some_log_g[n]);
      const int32_t region = static_cast<int32_t>(gamma_region(some_a[n], g[n]));
      list_of[n] = g[n] < 0.1f ? (region == 0 ? 3 : region) : region;
    }
    int32_t lists[kLists][kChunk + kLanes];
    int64_t lengths[kLists] = {};
    for (int64_t n = 0; n < wanted; ++n) {
      for (int list = 0; list < kLists; ++list) {
        lists[list][lengths[list]] = static_cast<int32_t>(n);
        lengths[list] += list_of[n] == list ? 1 : 0;
      }
    }
    for (int list = 0; list < kLists; ++list) {
      const int64_t length = lengths[list];
      if (length == 0) continue;
      for (int64_t i = 0; i < kLanes; ++i) lists[list][length + i] = lists[list][length - 1];
      for (int64_t n0 = 0; n0 < length; n0 += kLanes) {
        const int32_t* n = lists[list] + n0;
        float lane_a[kLanes], lane_log_g[kLanes], lane_g[kLanes], excess[kLanes], result[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) {
          lane_a[i] = some_a[n[i]];
          lane_log_g[i] = some_log_g[n[i]];
          lane_g[i] = g[n[i]];
        }
        if (list == static_cast<int>(GammaRegion::kAsymptotic)) {
          for (int64_t i = 0; i < kLanes; ++i) {
            result[i] = log_gamma_gradient_by_asymptotic_series(
                lane_a[i], lane_log_g[i] - fast_log(lane_a[i]));
          }
        } else {
          for (int64_t i = 0; i < kLanes; ++i) {
            excess[i] = digamma_of_next_minus(lane_a[i], lane_log_g[i]);
          }
          if (list == static_cast<int>(GammaRegion::kContinuedFraction)) {
            log_gamma_gradient_by_continued_fraction(lane_a, lane_g, excess, result);
          } else {
            log_gamma_gradient_by_power_series(lane_a, lane_g, excess, result);
          }
        }
        for (int64_t i = 0; i < kLanes; ++i) w[k0 + source[n[i]]] = result[i];
      }
    }
  }
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
