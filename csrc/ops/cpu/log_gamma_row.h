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

// Rows are worked at this many elements at a time, whose intermediate results then stay in the
// first-level cache.
constexpr int64_t kGammaChunk = 1024;

// body(first, count) for the chunks of `count` elements.
template <typename Body>
void by_chunks(int64_t count, Body body) {
  for (int64_t k = 0; k < count; k += kGammaChunk) {
    body(k, count - k < kGammaChunk ? count - k : kGammaChunk);
  }
}

// A row's concentrations and, of each, its GammaShape; or no shapes (null).
template <typename T>
struct GammaRow {
  const T *a, *d, *c, *log_d;

  // The row from element k on.
  GammaRow from(int64_t k) const { return {a + k, d + k, c + k, log_d + k}; }
};
constexpr int64_t kGammaShapeArrays = 3;

// The row of `a` with its shapes, put into `storage`, kGammaShapeArrays arrays of `stride` >=
// count.
template <typename T>
GammaRow<T> gamma_row(int64_t count, const T* a, T* storage, int64_t stride) {
  T *d = storage, *c = storage + stride, *log_d = storage + 2 * stride;
  for (int64_t k = 0; k < count; ++k) {
    const GammaShape<T> shape = gamma_shape(a[k]);
    d[k] = shape.d;
    c[k] = shape.c;
    log_d[k] = shape.log_d;
  }
  return {a, d, c, log_d};
}

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
  if (pairs == kGammaPairs) {
    for (int64_t i = 0; i < kGammaPairs; ++i) pair[i] = waiting[i];
  } else {
    for (int64_t i = 0; i < kGammaPairs; ++i) pair[i] = 4;  // nobody
    for (int64_t i = 0; i < pairs; ++i) pair[i] = waiting[i];
  }
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
    // Half of the first or of the last pair may lie outside the row.
    const bool across = offset[0] < 0 || offset[pairs - 1] + 1 >= count;
    const auto gather = [&](const auto* from, auto* to) {
      for (int64_t i = 0; i < elements / 2 && !across; ++i) {
        memcpy(to + 2 * i, from + offset[i], 2 * sizeof *to);
      }
      for (int64_t i = 0; i < elements / 2 && across; ++i) {
        const int32_t next = offset[i] + 1;
        to[2 * i] = from[offset[i] < 0 ? 0 : offset[i]];
        to[2 * i + 1] = from[next < count ? next : offset[i]];
      }
    };
    gather(row.a, gathered[0]);
    gather(boost_word, gathered_word);
    for (int64_t i = 0; i < elements; ++i) {  // cheaper than to gather it
      const GammaShape<T> shape = gamma_shape(gathered[0][i]);
      gathered[1][i] = shape.d;
      gathered[2][i] = shape.c;
      gathered[3][i] = shape.log_d;
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
  int32_t accepted[kBlock];
  for (int64_t i = elements; i < kBlock; ++i) accepted[i] = 0;
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

// log_gamma_row of a chunk, whose shapes are known. (Inlined, it takes more instructions.)
template <typename T>
__attribute__((noinline)) void log_gamma_chunk(const PhiloxBlocks& call, int64_t first,
                                               int64_t count, const GammaRow<T>& row, T floor,
                                               T* log_g) {
  const T infinity = std::numeric_limits<T>::infinity();
  // The pairs that still wait for a variate, and a word for each element's boost.
  int32_t pending[kGammaChunk / 2 + 2 * kPhiloxLanes];
  uint32_t boost_word[kGammaChunk];
  // 1. The boosts' words: four neighbours share a Philox block, and a word tells for most of a row
  // of small concentrations that they do not matter: log U / a < t where 1 - U > -a t. A pair waits
  // as (its even element's k + 1) in the upper bits, and which of the two wait in the lower two.
  // From a = 1 on there is no boost that could tell: a threshold of at least 0, as beside a variate
  // over e^44, would leave them all out.
  const T below_floor = floor - T(kLogGammaHeadroom);
  const T threshold = below_floor < T(0) ? below_floor : T(-1);
  const T scaled_threshold = threshold * T(-0x1p32);
  constexpr T kLimitOffset = T(512) - T(0x1p31);
  constexpr int64_t kGroup = 8 * kPhiloxLanes;  // two blocks: loops of 16 GCC 12 would take apart
  int64_t waiting = 0;
  for (int64_t k0 = -(first & 3); k0 < count; k0 += kGroup) {
    uint32_t word[kGroup];
    for (int64_t i = 0; i < kGroup; i += 4 * kPhiloxLanes) {
      uint32_t words[4][kPhiloxLanes];
      philox_block(call, Stream::kGamma, first + k0 + i, kEveryFourth, kGammaBoostDraw, words);
      interleave(words, word + i);
    }
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
      const T limit =
          a[i] * scaled_threshold + kLimitOffset;  // NaN, so nothing is below it, for 0 x inf
      const T value = static_cast<T>(static_cast<int32_t>(word[i] ^ 0x7FFFFFFFu));
      wanted[i] = (value < limit ? 1 : 0) | (a[i] < T(1) ? 0 : 1);
    }
    int32_t pair[kGroup / 2], waits[kGroup / 2];
    const int32_t first_pair = static_cast<int32_t>(4 * (k0 + 1));
    for (int32_t i = 0; i < kGroup / 2; ++i) {
      const int32_t which = wanted[2 * i] + 2 * wanted[2 * i + 1];
      pair[i] = first_pair + 8 * i + which;
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

// log_g[k] = log of element (first + k)'s variate, for k in [0, count). Those surely under `floor`
// (-inf: none) become -inf, at the cost of a word. Concentrations must be finite and at least 0.
// Shapes are for who draws from the same concentrations more than once.
template <typename T>
void log_gamma_row(const PhiloxBlocks& call, int64_t first, int64_t count, const GammaRow<T>& row,
                   T floor, T* log_g) {
  by_chunks(count, [&](int64_t k, int64_t n) {
    T shapes[kGammaShapeArrays * kGammaChunk];
    const GammaRow<T> chunk =
        row.d != nullptr ? row.from(k) : gamma_row(n, row.a + k, shapes, kGammaChunk);
    log_gamma_chunk(call, first + k, n, chunk, floor, log_g + k);
  });
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

// log_gamma_gradient of `count` values, at most kGammaChunk: where they lie in kSmall on the
// spot, the rest sorted by region first.
inline void log_gamma_gradients(int64_t count, const float* a, const float* log_g, float* w) {
  constexpr int64_t kLanes = 32;
  struct Elements {
    int32_t index[kGammaChunk + kLanes];
    float a[kGammaChunk + kLanes], log_g[kGammaChunk + kLanes], g[kGammaChunk + kLanes];
  };
  Elements rest, list;
  int64_t left = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    float lane_a[kLanes], lane_log_g[kLanes], g[kLanes], result[kLanes];
    int32_t other[kLanes], index[kLanes];
    if (lanes == kLanes) {
      for (int64_t j = 0; j < kLanes; ++j) lane_a[j] = a[i + j];
      for (int64_t j = 0; j < kLanes; ++j) lane_log_g[j] = log_g[i + j];
    } else {
      for (int64_t j = 0; j < kLanes; ++j) lane_a[j] = a[j < lanes ? i + j : i];
      for (int64_t j = 0; j < kLanes; ++j) lane_log_g[j] = log_g[j < lanes ? i + j : i];
    }
    int32_t others = 0;
    for (int64_t j = 0; j < kLanes; ++j) g[j] = fast_exp(lane_log_g[j]);
    for (int64_t j = 0; j < kLanes; ++j) other[j] = in_small_region(lane_a[j], g[j]) ? 0 : 1;
    for (int64_t j = 0; j < kLanes; ++j) index[j] = static_cast<int32_t>(i + j);
    for (int64_t j = 0; j < kLanes; ++j) others += other[j];
    if (others < kLanes) {
      log_gamma_gradient_at_small(lane_a, g, lane_log_g, result);
      if (lanes == kLanes) {
        for (int64_t j = 0; j < kLanes; ++j) w[i + j] = result[j];
      } else {
        for (int64_t j = 0; j < lanes; ++j) w[i + j] = result[j];
      }
    }
    for (int64_t j = lanes; j < kLanes; ++j) other[j] = 0;
    left += compact(other, 1, kLanes, Compacted{index, rest.index + left},
                    Compacted{lane_a, rest.a + left}, Compacted{lane_log_g, rest.log_g + left},
                    Compacted{g, rest.g + left});
  }
  int32_t region[kGammaChunk + kLanes], regions = 0;
  for (int64_t i = 0; i < left; ++i) region[i] = gamma_region(rest.a[i], rest.g[i]);
  for (int64_t i = 0; i < left; ++i) regions |= 1 << region[i];
  for (int64_t i = left; i % 8 != 0; ++i) region[i] = kSmall;
  for (int32_t which = kMiddle; which < kGammaRegions; ++which) {
    if ((regions >> which) % 2 == 0) continue;
    const int64_t length = compact(region, which, (left + 7) / 8 * 8,
                                   Compacted{rest.index, list.index}, Compacted{rest.a, list.a},
                                   Compacted{rest.log_g, list.log_g}, Compacted{rest.g, list.g});
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
      if (which == kMiddle) {
        log_gamma_gradient_at_middle(lane_a, lane_g, lane_log_g, result);
      } else if (which == kAsymptotic) {
        for (int64_t j = 0; j < kLanes; ++j) {
          result[j] = log_gamma_gradient_by_asymptotic_series(lane_a[j],
                                                              lane_log_g[j] - fast_log(lane_a[j]));
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

struct Indices {
  int32_t of[kGammaChunk];
};
constexpr Indices indices() {
  Indices table = {};
  for (int32_t i = 0; i < kGammaChunk; ++i) table.of[i] = i;
  return table;
}

inline void log_gamma_gradient_row(int64_t count, const float* a, const float* log_g, float floor,
                                   float* w) {
  const float lowest = std::numeric_limits<float>::lowest();
  floor = floor < lowest ? lowest : floor;
  by_chunks(count, [&](int64_t k0, int64_t chunk) {
    const float *chunk_a = a + k0, *chunk_log_g = log_g + k0;
    float* chunk_w = w + k0;
    int32_t key[kGammaChunk + 8], wanted = 0;
    for (int64_t i = 0; i < chunk; ++i) key[i] = chunk_log_g[i] < floor ? 0 : 1;
    for (int64_t i = 0; i < chunk; ++i) wanted += key[i];
    if (wanted > chunk / 2) {
      log_gamma_gradients(chunk, chunk_a, chunk_log_g, chunk_w);
      for (int64_t i = 0; i < chunk; ++i) chunk_w[i] = keep_if(key[i] != 0, chunk_w[i]);
      return;
    }
    static constexpr Indices kIndices = indices();
    const int32_t* index = kIndices.of;
    int32_t wanted_index[kGammaChunk + 8];
    float wanted_a[kGammaChunk + 8], wanted_log_g[kGammaChunk + 8];
    float wanted_w[kGammaChunk];
    const int64_t whole = chunk / 8 * 8;
    int64_t n = compact(key, 1, whole, Compacted{index, wanted_index}, Compacted{chunk_a, wanted_a},
                        Compacted{chunk_log_g, wanted_log_g});
    for (int64_t i = whole; i < chunk; ++i) {
      wanted_index[n] = index[i];
      wanted_a[n] = chunk_a[i];
      wanted_log_g[n] = chunk_log_g[i];
      n += key[i];
    }
    log_gamma_gradients(n, wanted_a, wanted_log_g, wanted_w);
    for (int64_t i = 0; i < chunk; ++i) chunk_w[i] = 0.0f;
    for (int64_t i = 0; i < n; ++i) chunk_w[wanted_index[i]] = wanted_w[i];
  });
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
