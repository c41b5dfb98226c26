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

// Scratch of log_gamma_row, in int32: the pairs that still wait for a variate, then a word for each
// element's boost.
constexpr int64_t gamma_row_scratch(int64_t count) { return count / 2 + 2 * kPhiloxLanes + count; }

// Whether a uniform word lies under e^x, x <= 0, for `lanes` of each: by 1 + x <= e^x <= 1 + x +
// x^2/2 where that is enough.
template <int64_t lanes, typename T>
inline __attribute__((always_inline)) void uniform_below_exp(const uint32_t* word, const T* x,
                                                             int32_t* below) {
  constexpr T kRounding = T(2e-7);
  int32_t unsure = 0;
  for (int64_t i = 0; i < lanes; ++i) {
    // A signed conversion is a third of an unsigned one; U - 1/2 is exact enough here.
    const T u = static_cast<T>(static_cast<int32_t>(word[i] ^ 0x80000000u)) * T(0x1p-32) + T(0.5);
    const T lower = T(1) + x[i];
    below[i] = u < lower - kRounding ? 1 : 0;
    unsure |= (u < lower + (T(0.5) * x[i] * x[i] + kRounding) ? 1 : 0) - below[i];
  }
  if (unsure == 0) return;
  for (int64_t i = 0; i < lanes; ++i) below[i] = log_uniform_as<T>(word[i]) < x[i] ? 1 : 0;
}

// Attempts are made at this many pairs at a time, stage by stage: each stage is a chain of
// dependent instructions, and only beside those of other pairs is the processor busy.
constexpr int64_t kGammaPairs = 4 * kPhiloxLanes;

// Attempt number `draw` at each of `pairs` pairs, at most kGammaPairs, waiting as log_gamma_row has
// them. Accepted variates go to log_g; writes the pairs that still wait to `rejected`, with room
// for kGammaPairs, and returns how many they are.
template <typename T>
int64_t attempt_pairs(const PhiloxBlocks& call, int64_t first, int64_t count, uint32_t draw,
                      const GammaRow<T>& row, const uint32_t* boost_word, const int32_t* waiting,
                      int64_t pairs, T* log_g, int32_t* rejected) {
  constexpr int64_t kBlock = 2 * kGammaPairs, kLanes = 2 * kPhiloxLanes;  // elements
  int32_t pair[kGammaPairs], offset[kGammaPairs];
  for (int64_t i = 0; i < kGammaPairs; ++i) pair[i] = 4;  // nobody
  for (int64_t i = 0; i < pairs; ++i) pair[i] = waiting[i];
  for (int64_t i = 0; i < kGammaPairs; ++i) offset[i] = (pair[i] >> 2) - 1;
  const int64_t elements = (pairs + kPhiloxLanes - 1) / kPhiloxLanes * kLanes;

  T gathered[4][kBlock];
  uint32_t gathered_word[kBlock];
  const T *a, *d, *c, *log_d;
  const uint32_t* boost;
  const int64_t begin = offset[0];
  const bool together = begin >= 0 && begin + kBlock <= count && pairs == kGammaPairs &&
                        offset[kGammaPairs - 1] == begin + kBlock - 2;
  if (together) {
    a = row.a + begin;
    d = row.d + begin;
    c = row.c + begin;
    log_d = row.log_d + begin;
    boost = boost_word + begin;
  } else {
    int32_t inside[kBlock];  // half a pair may lie outside the row
    for (int64_t i = 0; i < elements / 2; ++i) {
      const int32_t next = offset[i] + 1;
      inside[2 * i] = offset[i] < 0 ? 0 : offset[i];
      inside[2 * i + 1] = next < count ? next : offset[i];
    }
    for (int64_t i = 0; i < elements; ++i) {
      gathered[0][i] = row.a[inside[i]];
      gathered[1][i] = row.d[inside[i]];
      gathered[2][i] = row.c[inside[i]];
      gathered[3][i] = row.log_d[inside[i]];
      gathered_word[i] = boost_word[inside[i]];
    }
    a = gathered[0];
    d = gathered[1];
    c = gathered[2];
    log_d = gathered[3];
    boost = gathered_word;
  }

  uint32_t radius_word[kGammaPairs], angle_word[kGammaPairs], word[kBlock];
  for (int64_t i = 0; i < elements; i += kLanes) {
    uint32_t words[4][kPhiloxLanes];
    philox_block(call, Stream::kGamma, first, offset + i / 2, draw, words);
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) radius_word[i / 2 + lane] = words[0][lane];
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) angle_word[i / 2 + lane] = words[1][lane];
    interleave_pairs(words[2], words[3], word + i);
  }
  T normal[kBlock], variate[kBlock], log_acceptance[kBlock];
  T radius[kGammaPairs];
  for (int64_t i = 0; i < elements / 2; ++i) radius[i] = normal_radius<T>(radius_word[i]);
  for (int64_t i = 0; i < elements / 2; ++i) {
    T sine, cosine;
    sincos_turns(angle_word[i], &sine, &cosine);
    normal[2 * i] = radius[i] * cosine;
    normal[2 * i + 1] = radius[i] * sine;
  }
  for (int64_t i = 0; i < elements; ++i) {
    const GammaProposal<T> proposal = gamma_proposal<T>({d[i], c[i], log_d[i]}, normal[i]);
    log_acceptance[i] = proposal.log_acceptance;
    variate[i] = proposal.log_g;
  }
  // From a = 1 on a boost of (minus) 0.
  for (int64_t i = 0; i < elements; ++i) {
    variate[i] +=
        log_uniform_as<T>(boost[i]) / (a[i] < T(1) ? a[i] : std::numeric_limits<T>::infinity());
  }
  int32_t accepted[kBlock] = {};
  for (int64_t i = 0; i < elements; i += kLanes) {
    uniform_below_exp<kLanes>(word + i, log_acceptance + i, accepted + i);
  }

  int32_t done[kGammaPairs], left[kGammaPairs], waits[kGammaPairs];
  for (int64_t i = 0; i < kGammaPairs; ++i) {
    done[i] = pair[i] & (accepted[2 * i] + 2 * accepted[2 * i + 1]);
    left[i] = pair[i] - done[i];
    waits[i] = left[i] % 4 != 0 ? 1 : 0;
  }
  if (together) {
    T* out = log_g + begin;
    for (int64_t i = 0; i < kGammaPairs; ++i) {
      const T even = out[2 * i], odd = out[2 * i + 1];
      out[2 * i] = (done[i] & 1) != 0 ? variate[2 * i] : even;
      out[2 * i + 1] = (done[i] & 2) != 0 ? variate[2 * i + 1] : odd;
    }
  } else {
    // Without branches, which nobody could predict.
    T nowhere;
    T* const target[2] = {&nowhere, log_g};
    for (int64_t i = 0; i < pairs; ++i) {
      const int32_t even = done[i] & 1, odd = done[i] >> 1;
      target[even][even * offset[i]] = variate[2 * i];
      target[odd][odd * (offset[i] + 1)] = variate[2 * i + 1];
    }
  }
  return compact(waits, 1, elements / 2, Compacted{left, rejected});
}

// log_g[k] = log of element (first + k)'s variate, for k in [0, count). Those surely under `floor`
// (-inf: none) become -inf, at the cost of a word. Concentrations must be finite and at least 0.
template <typename T>
void log_gamma_row(const PhiloxBlocks& call, int64_t first, int64_t count, const GammaRow<T>& row,
                   T floor, T* log_g, int32_t* scratch) {
  const T infinity = std::numeric_limits<T>::infinity();
  int32_t* pending = scratch;
  uint32_t* boost_word = reinterpret_cast<uint32_t*>(scratch) + count / 2 + 2 * kPhiloxLanes;
  // 1. The boosts' words: four neighbours share a Philox block, and a word tells for most of a row
  // of small concentrations that they do not matter: log U / a < t where 1 - U > -a t. A pair waits
  // as (its even element's k + 1) in the upper bits, and which of the two wait in the lower two.
  // From a = 1 on there is no boost that could tell: a threshold of at least 0, as beside a variate
  // over e^44, would leave them all out.
  const T below_floor = floor - T(kLogGammaHeadroom);
  const T threshold = below_floor < T(0) ? below_floor : T(-1);
  constexpr int64_t kGroup = 4 * kPhiloxLanes;
  int64_t waiting = 0;
  for (int64_t k0 = -(first & 3); k0 < count; k0 += kGroup) {
    uint32_t words[4][kPhiloxLanes], word[kGroup];
    philox_block(call, Stream::kGamma, first + k0, kEveryFourth, kGammaBoostDraw, words);
    interleave(words, word);
    T a[kGroup];
    if (k0 >= 0 && k0 + kGroup <= count) {
      for (int64_t i = 0; i < kGroup; ++i) {
        a[i] = row.a[k0 + i];
        boost_word[k0 + i] = word[i];
        log_g[k0 + i] = -infinity;
      }
    } else {  // the row's ends: outside, a = 0, which wants nothing
      const int64_t begin = k0 < 0 ? -k0 : 0;
      const int64_t end = count - k0 < kGroup ? count - k0 : kGroup;
      for (int64_t i = 0; i < kGroup; ++i) a[i] = T(0);
      for (int64_t i = begin; i < end; ++i) {
        a[i] = row.a[k0 + i];
        boost_word[k0 + i] = word[i];
        log_g[k0 + i] = -infinity;
      }
    }
    int32_t wanted[kGroup];
    for (int64_t i = 0; i < kGroup; ++i) {
      const T limit = a[i] * -threshold;  // NaN, so nothing is below it, for 0 x inf
      const int32_t below_one = a[i] < T(1) ? 1 : 0;
      wanted[i] = (below_one & (uniform_as<T>(~word[i]) < limit ? 1 : 0)) | (1 - below_one);
    }
    int32_t pair[kGroup / 2], waits[kGroup / 2];
    for (int64_t i = 0; i < kGroup / 2; ++i) {
      const int32_t which = wanted[2 * i] + 2 * wanted[2 * i + 1];
      pair[i] = static_cast<int32_t>(4 * (k0 + 2 * i + 1)) + which;
      waits[i] = which != 0 ? 1 : 0;
    }
    waiting += compact(waits, 1, kGroup / 2, Compacted{pair, pending + waiting});
  }
  // 2. Rounds of attempts at those that matter; the rejected wait for the next round.
  for (uint32_t draw = 0; draw < kMaxGammaDraws && waiting > 0; ++draw) {
    int64_t rejected = 0;
    for (int64_t n = 0; n < waiting; n += kGammaPairs) {
      const int64_t pairs = waiting - n < kGammaPairs ? waiting - n : kGammaPairs;
      rejected += attempt_pairs(call, first, count, draw, row, boost_word, pending + n, pairs,
                                log_g, pending + rejected);  // behind those read
    }
    waiting = rejected;
  }
  for (int64_t n = 0; n < waiting; ++n) {
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t k = (pending[n] >> 2) - 1 + j;
      if (((pending[n] >> j) & 1) == 0) continue;
      log_g[k] = row.log_d[k];
      if (row.a[k] < T(1)) log_g[k] += log_uniform_as<T>(boost_word[k]) / row.a[k];
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
  constexpr int64_t kChunk = 1024, kLanes = 32;
  constexpr int32_t kFewTerms = 3, kLists = 4;  // the regions, the power series' in two
  struct Elements {
    int32_t index[kChunk + kLanes];
    float a[kChunk + kLanes], log_g[kChunk + kLanes], g[kChunk + kLanes];
  };
  const float lowest = std::numeric_limits<float>::lowest();
  floor = floor < lowest ? lowest : floor;
  for (int64_t k0 = 0; k0 < count; k0 += kChunk, a += kChunk, log_g += kChunk, w += kChunk) {
    // Those that are wanted, then sorted by region, then each region's.
    const int64_t chunk = count - k0 < kChunk ? count - k0 : kChunk;
    int32_t key[kChunk + 8], index[kChunk];
    Elements wanted, list;
    for (int64_t i = 0; i < chunk; ++i) index[i] = static_cast<int32_t>(i);
    for (int64_t i = 0; i < chunk; ++i) key[i] = log_g[i] < floor ? 0 : 1;
    for (int64_t i = 0; i < chunk; ++i) w[i] = 0.0f;
    const int64_t whole = chunk / 8 * 8;
    int64_t n = compact(key, 1, whole, Compacted{index, wanted.index}, Compacted{a, wanted.a},
                        Compacted{log_g, wanted.log_g});
    for (int64_t i = whole; i < chunk; ++i) {
      wanted.index[n] = index[i];
      wanted.a[n] = a[i];
      wanted.log_g[n] = log_g[i];
      n += key[i];
    }
    int32_t present = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float g = fast_exp(wanted.log_g[i]);
      const int32_t region = gamma_region(wanted.a[i], g);
      wanted.g[i] = g;
      key[i] = (region == kPowerSeries) & (g < 0.3f) ? kFewTerms : region;
      present |= 1 << key[i];
    }
    for (int64_t i = n; i % 8 != 0; ++i) key[i] = kLists;
    for (int32_t which = 0; which < kLists; ++which) {
      if ((present >> which) % 2 == 0) continue;
      const int64_t length =
          compact(key, which, (n + 7) / 8 * 8, Compacted{wanted.index, list.index},
                  Compacted{wanted.a, list.a}, Compacted{wanted.log_g, list.log_g},
                  Compacted{wanted.g, list.g});
      for (int64_t j = length; j % kLanes != 0; ++j) {
        list.index[j] = list.index[length - 1];
        list.a[j] = list.a[length - 1];
        list.log_g[j] = list.log_g[length - 1];
        list.g[j] = list.g[length - 1];
      }
      for (int64_t i = 0; i < length; i += kLanes) {
        float lane_a[kLanes], lane_log_g[kLanes], lane_g[kLanes], excess[kLanes], result[kLanes];
        for (int64_t j = 0; j < kLanes; ++j) {
          lane_a[j] = list.a[i + j];
          lane_log_g[j] = list.log_g[i + j];
          lane_g[j] = list.g[i + j];
        }
        if (which == kAsymptotic) {
          for (int64_t j = 0; j < kLanes; ++j) {
            result[j] = log_gamma_gradient_by_asymptotic_series(
                lane_a[j], lane_log_g[j] - fast_log(lane_a[j]));
          }
        } else {
          for (int64_t j = 0; j < kLanes; ++j) {
            excess[j] = digamma_of_next_minus(lane_a[j], lane_log_g[j]);
          }
          if (which == kContinuedFraction) {
            log_gamma_gradient_by_continued_fraction(lane_a, lane_g, excess, result);
          } else {
            log_gamma_gradient_by_power_series(lane_a, lane_g, excess, result);
          }
        }
        for (int64_t j = 0; j < kLanes; ++j) w[list.index[i + j]] = result[j];
      }
    }
  }
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
