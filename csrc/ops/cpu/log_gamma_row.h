// Rows of log gamma variates and of their implicit gradients on CPU, in loops that the compiler
// vectorizes. Included by kernels, in the namespace of their instruction set.
#pragma once

#include <cstring>
#include <limits>

#include "../../common/gamma.h"
#include "../../common/gamma_gradient.h"
#include "isa.h"
#include "philox_block.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

// The concentrations of a row, and for each its GammaShape and the factor of log U in its boost:
// 1/a for a < 1 (infinite for denormal a), else 0. Blocks read up to one element before the row and
// kAttempts beyond it, whatever is there.
template <typename T>
struct GammaRow {
  const T *a, *d, *c, *log_d, *boost;

  // The rest of the row from element k.
  GammaRow from(int64_t k) const { return {a + k, d + k, c + k, log_d + k, boost + k}; }
};
constexpr int64_t kGammaShapeArrays = 4;

// The row of `a` with its shapes computed into `storage`, kGammaShapeArrays arrays of `stride` >=
// count elements.
template <typename T>
GammaRow<T> gamma_row(int64_t count, const T* a, T* storage, int64_t stride) {
  T *d = storage, *c = d + stride, *log_d = c + stride, *boost = log_d + stride;
  for (int64_t k = 0; k < count; ++k) {
    const GammaShape<T> shape = gamma_shape(a[k]);
    d[k] = shape.d;
    c[k] = shape.c;
    log_d[k] = shape.log_d;
  }
  for (int64_t k = 0; k < count; ++k) boost[k] = T(1) / a[k];
  for (int64_t k = 0; k < count; ++k) boost[k] = a[k] < T(1) ? boost[k] : T(0);
  return {a, d, c, log_d, boost};
}

// Whether uniform words are below e^x, x <= 0. The bounds
//   1 + x + x^2/2 + x^3/6 <= e^x <= 1 / (1 - x + x^2/2)
// decide it if they suffice for all lanes, as they do for more than 9 of 10 blocks of attempts: the
// logarithms cost less than the branch if it were hard to predict.
template <typename T>
inline __attribute__((always_inline)) void uniform_below_exp(int64_t lanes, const uint32_t* word,
                                                             const T* x, int32_t* below) {
  constexpr T kRounding = T(5e-7);
  int32_t unsure = 0;
  for (int64_t i = 0; i < lanes; ++i) {
    // A signed conversion costs a third of an unsigned one. U - 1/2 is accurate enough here.
    const T u = static_cast<T>(static_cast<int32_t>(word[i] ^ 0x80000000u)) * T(0x1p-32) + T(0.5);
    const T square = T(0.5) * x[i] * x[i];
    const T lower = (T(1) + x[i]) + square * (T(1) + T(1.0 / 3) * x[i]);
    const T by_upper = u * ((T(1) - x[i]) + square);
    below[i] = u < lower - kRounding ? 1 : 0;
    unsure |= (by_upper < T(1) + kRounding ? 1 : 0) - below[i];
  }
  if (unsure == 0) return;
  for (int64_t i = 0; i < lanes; ++i) below[i] = log_uniform_as<T>(word[i]) < x[i] ? 1 : 0;
}

// Attempts are made for this many elements at a time, stage by stage: each stage is a chain of
// dependent instructions, and only those of several elements together keep the processor busy.
constexpr int64_t kAttempts = 64;

// Elements are processed in multiples of this, whatever the instruction set.
constexpr int64_t kAttemptLanes = 16;
static_assert(kAttempts % (2 * kLanes) == 0 && kAttemptLanes % kLanes == 0);

// The attempts of a block, given their normals: the variates, including boosts, and whether they
// are accepted. `elements` must be a multiple of kAttemptLanes.
template <typename T>
inline __attribute__((always_inline)) void attempts(int64_t elements, const GammaRow<T>& row,
                                                    const T* normal, const uint32_t* word,
                                                    const uint32_t* boost_word, T* variate,
                                                    int32_t* accepted) {
  T log_acceptance[kAttempts];
  for (int64_t i = 0; i < elements; ++i) {
    const GammaProposal<T> proposal =
        gamma_proposal<T>({row.d[i], row.c[i], row.log_d[i]}, normal[i]);
    log_acceptance[i] = proposal.log_acceptance;
    variate[i] = proposal.log_g;
  }
  for (int64_t i = 0; i < elements; ++i) {
    variate[i] += log_uniform_as<T>(boost_word[i]) * row.boost[i];
  }
  uniform_below_exp(elements, word, log_acceptance, accepted);
}

// The normals of the first attempt for 2 kLanes consecutive elements, from the words of their
// pairs.
SPROUT_INLINE void store_pair_normals(const Words& radius, const Words& angle, float* normal) {
  Floats even, odd;
  normal_pair(radius, angle, &even, &odd);
  store(interleave_low((Words)even, (Words)odd), normal);
  store(interleave_high((Words)even, (Words)odd), normal + kLanes);
}
SPROUT_INLINE void store_pair_normals(const Words& radius, const Words& angle, double* normal) {
  uint32_t words[2][2 * kLanes];
  store(interleave_low(radius, angle), words[0]);
  store(interleave_high(radius, angle), words[0] + kLanes);
  for (int64_t i = 0; i < 2 * kLanes; i += 2) {
    normal_pair(words[0][i], words[0][i + 1], &normal[i], &normal[i + 1]);
  }
}

// The first attempt for kAttempts consecutive elements, the first of them even, whose pairs share a
// Philox block. `row` begins with them.
template <typename T>
SPROUT_INLINE void attempt_block(const PhiloxDraw& draw, int64_t first, const GammaRow<T>& row,
                                 const uint32_t* boost_word, T* variate, int32_t* accepted) {
  uint32_t word[kAttempts];
  T normal[kAttempts];
  constexpr int kVectors = 2;
  for (int64_t i = 0; i < kAttempts; i += kVectors * 2 * kLanes) {
    Words words[4][kVectors];
    draw.twos(first + i, words);
    for (int v = 0; v < kVectors; ++v) {
      const int64_t k = i + v * 2 * kLanes;
      store_pair_normals(words[0][v], words[1][v], normal + k);
      store(interleave_low(words[2][v], words[3][v]), word + k);
      store(interleave_high(words[2][v], words[3][v]), word + k + kLanes);
    }
  }
  attempts(kAttempts, row, normal, word, boost_word, variate, accepted);
}

// The words of the boosts of `count` elements from `first`, a multiple of four: four neighbors
// share a Philox block. Writes whole multiples of kBoosts.
constexpr int kBoostVectors = kLanes == 4 ? 4 : 2;
constexpr int64_t kBoosts = kBoostVectors * 4 * kLanes;
static_assert(kBoosts % kAttempts == 0);
inline void fill_boost_words(const PhiloxDraw& draw, int64_t first, int64_t count, uint32_t* out) {
  for (int64_t i = 0; i < count; i += kBoosts) {
    Words words[4][kBoostVectors];
    draw.fours(first + i, words);
    for (int v = 0; v < kBoostVectors; ++v) {
      Words group[4] = {words[0][v], words[1][v], words[2][v], words[3][v]};
      transpose_in_lanes(group);
      for (int j = 0; j < 4; ++j) store(group[j], out + i + v * 4 * kLanes + j * kLanes);
    }
  }
}

// Rows are drawn together up to this many elements: of most rows only a few elements need a second
// attempt, or any, and those of one row would not fill the vectors.
constexpr int64_t kSpan = 4096;

// An element's position in its row and, times 2^16, in the span.
using Place = int32_t;
inline Place place_of(int64_t in_row, int64_t in_span) {
  return static_cast<Place>(in_row | in_span << 16);
}
inline int32_t in_row(Place place) { return place & 0xFFFF; }
inline int32_t in_span(Place place) { return place >> 16; }

constexpr Place kNextPlace = 1 | 1 << 16;  // place_of(1, 1)

// Elements in order of their places, and their variates.
template <typename T>
struct Listed {
  Place place[kSpan + kAttempts];
  T log_g[kSpan + kAttempts];
  int64_t count = 0;
};

// Elements whose attempt was rejected, and where their variates belong: in the span's array or,
// from kSpan on, in the list's.
struct Rejected {
  Place place[kSpan + kAttempts];
  int32_t to[kSpan + kAttempts];
  int64_t count = 0;

  // Adds those of `number` elements, a multiple of kCompactLanes, that were not accepted. They may
  // be its own, from beyond `count`.
  void keep(const int32_t* accepted, int64_t number, const Place* of, const int32_t* of_to) {
    count +=
        compact(accepted, 0, number, Compacted{of, place + count}, Compacted{of_to, to + count});
  }
};

// The next multiple of kAttemptLanes.
inline int64_t whole_lanes(int64_t number) {
  return (number + kAttemptLanes - 1) / kAttemptLanes * kAttemptLanes;
}
// Fills the last kAttemptLanes with an element whose variate may be computed again.
inline void pad(Place* place, int64_t count) {
  for (int64_t i = count; i < whole_lanes(count); ++i) place[i] = place[0];
}

// An attempt for each of `count` <= kAttempts elements, whose places, concentrations and words of
// their boosts are given up to the next multiple of kAttemptLanes. The span begins at element
// `first`.
template <typename T>
void attempt_each(const PhiloxDraw& draw, int64_t first, int64_t count, const Place* place,
                  const T* a, const uint32_t* boost_word, T* variate, int32_t* accepted) {
  const int64_t elements = whole_lanes(count);
  // Recomputing the shapes is cheaper than gathering them.
  T shapes[kGammaShapeArrays * kAttempts];
  const GammaRow<T> row = gamma_row(elements, a, shapes, kAttempts);
  int32_t odd[kAttempts];
  uint32_t even_neighbor[kAttempts];
  for (int64_t i = 0; i < elements; ++i) {
    odd[i] = (in_span(place[i]) ^ static_cast<int32_t>(first)) & 1;
    even_neighbor[i] =
        static_cast<uint32_t>(first) + static_cast<uint32_t>(in_span(place[i]) - odd[i]);
  }
  uint32_t radius_word[kAttempts], angle_word[kAttempts], word[kAttempts];
  constexpr int kVectors = kAttemptLanes / kLanes;
  for (int64_t i = 0; i < elements; i += kAttemptLanes) {
    Words element[kVectors], words[4][kVectors];
    for (int v = 0; v < kVectors; ++v) element[v] = load<Words>(even_neighbor + i + v * kLanes);
    draw.words(element, words);
    for (int v = 0; v < kVectors; ++v) {
      const int64_t k = i + v * kLanes;
      store(words[0][v], radius_word + k);
      store(words[1][v], angle_word + k);
      store(load<Ints>(odd + k) != 0 ? words[3][v] : words[2][v], word + k);
    }
  }
  T normal[kAttempts];
  for (int64_t i = 0; i < elements; ++i) normal[i] = normal_radius<T>(radius_word[i]);
  for (int64_t i = 0; i < elements; ++i) {
    T sine, cosine;
    sincos_turns(angle_word[i], &sine, &cosine);
    normal[i] *= odd[i] != 0 ? sine : cosine;
  }
  attempts(elements, row, normal, word, boost_word, variate, accepted);
  for (int64_t i = count; i < elements; ++i) accepted[i] = 1;
}

// Variates of elements whose concentrations are not those of their rows, `count` <= kAttempts of
// them, whose places and concentrations are given up to the next multiple of kAttemptLanes. NaN
// where the concentration is NaN.
template <typename T>
void log_gamma_each(const PhiloxCall& call, int64_t first, int64_t count, const Place* place,
                    const T* a, T* log_g) {
  const int64_t elements = whole_lanes(count);
  const PhiloxDraw boost_draw(call, Stream::kGamma, kGammaBoostDraw, first);
  const PhiloxDraw first_draw(call, Stream::kGamma, 0, first);
  uint32_t element[kAttempts], boost_word[kAttempts];
  for (int64_t i = 0; i < elements; ++i) {
    element[i] = static_cast<uint32_t>(first) + static_cast<uint32_t>(in_span(place[i]));
  }
  constexpr int kVectors = kAttemptLanes / kLanes;
  for (int64_t i = 0; i < elements; i += kAttemptLanes) {
    Words of_group[kVectors], words[4][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      of_group[v] = load<Words>(element + i + v * kLanes) & ~3u;
    }
    boost_draw.words(of_group, words);
    for (int v = 0; v < kVectors; ++v) {
      const Words in_group = load<Words>(element + i + v * kLanes) & 3u;
      const Words low = (in_group & 1u) != 0u ? words[1][v] : words[0][v];
      const Words high = (in_group & 1u) != 0u ? words[3][v] : words[2][v];
      store((in_group & 2u) != 0u ? high : low, boost_word + i + v * kLanes);
    }
  }
  T variate[kAttempts];
  int32_t accepted[kAttempts];
  attempt_each(first_draw, first, count, place, a, boost_word, variate, accepted);
  for (int64_t i = 0; i < count; ++i) {
    const bool drawn = accepted[i] != 0 && a[i] == a[i];
    log_g[i] = drawn ? variate[i]
                     : log_gamma_variate(a[i], call, Stream::kGamma, first + in_span(place[i]));
  }
}

// In a row of small concentrations the words of the boosts alone show that most elements are
// negligible: log U / a < t if 1 - U > -a t. Elements with a >= 1 have no boost that could show it:
// with t <= -1 all of them are wanted. (Of those with a = 0, one in 2^23 is because of rounding.)
template <typename T>
class Wanted {
 public:
  explicit Wanted(T least_boost)
      : threshold_((least_boost < T(-1) ? least_boost : T(-1)) * T(-0x1p32)) {}

  static constexpr uint32_t kAlways = 0xFFFFFFFFu;  // the word with which an element is wanted

  // Writes the places of the wanted ones of `count` elements, the first of which is at `first`, and
  // returns their number; -1 if they are more than half, or all. `to` needs room for `count` more.
  int64_t list(int64_t count, const T* a, const uint32_t* word, Place first, Place* to) const {
    if (threshold_ > std::numeric_limits<T>::max()) return -1;  // its product with 0 would be NaN
    int64_t listed = 0, k = 0;
    if constexpr (sizeof(T) == 4) {
      Ints place = multiples(kNextPlace) + first;
      for (; k + kLanes <= count && listed <= count / 2; k += kLanes) {
        const Floats value = Lane<Floats>::from((Ints)(load<Words>(word + k) ^ kSign));
        const Compaction wanted(less(value, load<Floats>(a + k) * threshold_ + kOffset));
        wanted.store(place, to + listed);
        listed += wanted.count();
        place += static_cast<int32_t>(kLanes) * kNextPlace;
      }
    }
    for (; k < count && listed <= count / 2; ++k) {
      to[listed] = first + static_cast<int32_t>(k) * kNextPlace;
      const T value = static_cast<T>(static_cast<int32_t>(word[k] ^ kSign));
      listed += value < a[k] * threshold_ + kOffset ? 1 : 0;
    }
    return listed <= count / 2 ? listed : -1;
  }

 private:
  // Accounts for the rounding of the conversion, and for its sign.
  static constexpr T kOffset = T(512) - T(0x1p31);
  static constexpr uint32_t kSign = 0x7FFFFFFFu;
  T threshold_;
};

// A row of a span: what is wanted of it, and what was drawn.
template <typename T>
struct SpanRow {
  T least_boost;  // elements whose boost is certain to be below it, and below -1, may become -inf
  // Elements to list even so, or -1. Their variates are any numbers.
  int64_t also_listed[2] = {-1, -1};
  // Output: where the list has the elements drawn and their variates, and their number; -1 if they
  // are more than half of the row, which is then not listed but drawn as a whole.
  int64_t list_begin = 0, listed = -1;
};

// log_g[r * count + k] = log of the variate of element first + r * count + k, for k in [0, count)
// and `rows` rows, together at most kSpan elements with the same upper 32 bits. Rows have the same
// concentrations, which must be finite and nonnegative, and their own least_boost. The variates of
// a row that is listed are in the list only. (Inlined, it needs more instructions.)
template <typename T>
__attribute__((noinline)) void log_gamma_span(const PhiloxCall& call, int64_t first, int64_t rows,
                                              int64_t count, const GammaRow<T>& row,
                                              SpanRow<T>* of_row, T* log_g, Listed<T>& list) {
  Rejected rejected;
  list.count = 0;
  uint32_t boost_words[4 + kSpan + kBoosts];
  uint32_t* const boost_word = boost_words + 4;  // blocks extend beyond the ends of the span
  const PhiloxDraw boost_draw(call, Stream::kGamma, kGammaBoostDraw, first);
  const PhiloxDraw first_draw(call, Stream::kGamma, 0, first);
  fill_boost_words(boost_draw, first - (first & 3), rows * count + (first & 3),
                   boost_word - (first & 3));
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t begin = r * count;
    uint32_t* words = boost_word + begin;
    T* variates = log_g + begin;
    const Wanted<T> wanted(of_row[r].least_boost);
    for (const int64_t k : of_row[r].also_listed) {
      if (k >= 0) words[k] = Wanted<T>::kAlways;
    }
    of_row[r].list_begin = list.count;
    of_row[r].listed =
        wanted.list(count, row.a, words, place_of(0, begin), list.place + list.count);
    if (of_row[r].listed >= 0) {
      list.count += of_row[r].listed;
      continue;
    }
    for (int64_t k = -((first + begin) & 1); k < count; k += kAttempts) {
      const bool inside = k >= 0 && k + kAttempts <= count;
      T outside[kAttempts];
      T* variate = inside ? variates + k : outside;
      int32_t accepted[kAttempts];
      attempt_block(first_draw, first + begin + k, row.from(k), words + k, variate, accepted);
      for (int64_t i = 0; !inside && i < kAttempts; ++i) {
        accepted[i] = k + i >= 0 && k + i < count ? accepted[i] : 1;
      }
      const Place place = static_cast<int32_t>(k) * kNextPlace + place_of(0, begin);
      rejected.count +=
          compact(accepted, 0, kAttempts,
                  CompactedNumbers<kNextPlace>{place, rejected.place + rejected.count});
      for (int64_t i = k < 0 ? 1 : 0; !inside && i < kAttempts && k + i < count; ++i) {
        variates[k + i] = outside[i];
      }
    }
  }
  // One attempt for each of `number` <= kAttempts elements.
  const auto attempt = [&](const PhiloxDraw& draw, int64_t number, const Place* place, T* variate,
                           int32_t* accepted) {
    T a[kAttempts];
    uint32_t word[kAttempts];
    for (int64_t i = 0; i < whole_lanes(number); ++i) a[i] = row.a[in_row(place[i])];
    for (int64_t i = 0; i < whole_lanes(number); ++i) word[i] = boost_word[in_span(place[i])];
    attempt_each(draw, first, number, place, a, word, variate, accepted);
  };
  // So far all of them are of whole rows. (Compacted with their places, they would take longer.)
  for (int64_t n = 0; n < rejected.count; ++n) rejected.to[n] = in_span(rejected.place[n]);
  int32_t accepted[kAttempts];
  pad(list.place, list.count);
  for (int64_t n = 0; n < list.count; n += kAttempts) {
    const int64_t number = list.count - n < kAttempts ? list.count - n : kAttempts;
    attempt(first_draw, number, list.place + n, list.log_g + n, accepted);
    int32_t to[kAttempts];
    for (int64_t i = 0; i < whole_lanes(number); ++i) to[i] = static_cast<int32_t>(kSpan + n + i);
    rejected.keep(accepted, whole_lanes(number), list.place + n, to);
  }
  const auto put = [&](int32_t to, T variate) {
    (to < kSpan ? log_g[to] : list.log_g[to - kSpan]) = variate;
  };
  for (uint32_t draws = 1; draws < kMaxGammaDraws && rejected.count > 0; ++draws) {
    const PhiloxDraw draw(call, Stream::kGamma, draws, first);
    const int64_t count_before = rejected.count;
    pad(rejected.place, count_before);
    rejected.count = 0;
    for (int64_t n = 0; n < count_before; n += kAttempts) {
      const int64_t number = count_before - n < kAttempts ? count_before - n : kAttempts;
      T variate[kAttempts];
      attempt(draw, number, rejected.place + n, variate, accepted);
      for (int64_t i = 0; i < number; ++i) put(rejected.to[n + i], variate[i]);
      rejected.keep(accepted, whole_lanes(number), rejected.place + n, rejected.to + n);
    }
  }
  for (int64_t n = 0; n < rejected.count; ++n) {
    const Place place = rejected.place[n];
    const T boost = log_uniform_as<T>(boost_word[in_span(place)]) * row.boost[in_row(place)];
    put(rejected.to[n], row.log_d[in_row(place)] + boost);
  }
}

// Writes the variates of a listed row to where they belong; the row has `count` elements, of which
// the others become -inf.
template <typename T>
void scatter_listed(const Listed<T>& list, const SpanRow<T>& row, int64_t count, T* log_g) {
  for (int64_t k = 0; k < count; ++k) log_g[k] = -std::numeric_limits<T>::infinity();
  for (int64_t i = row.list_begin; i < row.list_begin + row.listed; ++i) {
    log_g[in_row(list.place[i])] = list.log_g[i];
  }
}

// log_g[k] = log of the variate of element first + k, with concentration a[k], for k in [0, count).
// If they are most of them, elements whose boost is certain to be below `least_boost` become -inf
// at the cost of one random word. Concentrations must be finite and nonnegative.
template <typename T>
void log_gamma_row(const PhiloxCall& call, int64_t first, int64_t count, const T* a, T least_boost,
                   T* log_g) {
  static_assert(kRowChunk <= kSpan);
  Listed<T> list;
  by_chunks(count, [&](int64_t begin, int64_t some) {
    for (int64_t k = begin; k < begin + some;) {
      const int64_t element = first + k, n = PhiloxDraw::reach(element, begin + some - k);
      constexpr int64_t kStride = kAttempts + kRowChunk;
      T row_a[kStride], shapes[1 + kGammaShapeArrays * kStride];
      const int64_t odd = element & 1, whole = (odd + n + kAttempts - 1) / kAttempts * kAttempts;
      for (int64_t i = 0; i < n; ++i) row_a[i] = a[k + i];
      for (int64_t i = n; i < whole; ++i) row_a[i] = T(0);
      shapes[0] = T(0);
      const GammaRow<T> row = gamma_row(whole, row_a, shapes + 1, kStride);
      SpanRow<T> only{least_boost};
      log_gamma_span(call, element, 1, n, row, &only, log_g + k, list);
      if (only.listed >= 0) scatter_listed(list, only, n, log_g + k);
      k += n;
    }
  });
}

// w[k] = log_gamma_gradient(a[k], log_g[k]) for `count` <= kRowChunk values, with g = e^log_g.
// Values in region kSmall are computed in place, the others after sorting by region. For log_g =
// -inf, w must not be used. `digamma` may give psi(a + 1) for the a < 1, if many calls have the
// same concentrations.
inline void log_gamma_gradients(int64_t count, const float* a, const float* log_g, const float* g,
                                float* w, const float* digamma = nullptr) {
  constexpr int64_t kBlock = 32;
  using Block = const float (*)[kBlock];
  struct Elements {
    int32_t index[kRowChunk + kBlock];
    float a[kRowChunk + kBlock], log_g[kRowChunk + kBlock], g[kRowChunk + kBlock];
  };
  Elements rest, part;
  int64_t left = 0;
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t lanes = count - i < kBlock ? count - i : kBlock;
    const float *block_a = a + i, *block_log_g = log_g + i, *block_g = g + i;
    float tail[3][kBlock], result[kBlock];
    if (lanes < kBlock) {
      memset(tail, 0, sizeof tail);  // in the small region
      for (int64_t j = 0; j < lanes; ++j) tail[0][j] = block_a[j];
      for (int64_t j = 0; j < lanes; ++j) tail[1][j] = block_log_g[j];
      for (int64_t j = 0; j < lanes; ++j) tail[2][j] = block_g[j];
      block_a = tail[0], block_log_g = tail[1], block_g = tail[2];
    }
    const int64_t left_before = left;
    for (int64_t j = 0; j < kBlock; j += kLanes) {
      const Floats lane_a = load<Floats>(block_a + j), lane_g = load<Floats>(block_g + j);
      const Ints in_small = (lane_a < 1.0f) & (lane_g <= kSmallRegionEnd);
      const Compaction others(equal(in_small, Ints()));
      others.store((Ints)lane_a, rest.a + left);
      others.store(load<Ints>(block_log_g + j), rest.log_g + left);
      others.store((Ints)lane_g, rest.g + left);
      others.store(multiples(1) + static_cast<int32_t>(i + j), rest.index + left);
      left += others.count();
    }
    if (left - left_before == kBlock) continue;
    float excess[kBlock];
    if (digamma != nullptr && lanes == kBlock) {
      for (int64_t j = 0; j < kBlock; ++j) excess[j] = digamma[i + j] - block_log_g[j];
    } else {
      for (int64_t j = 0; j < kBlock; ++j) excess[j] = digamma_of_next(block_a[j]) - block_log_g[j];
    }
    log_gamma_gradient_at_small(*reinterpret_cast<Block>(block_a),
                                *reinterpret_cast<Block>(block_g), excess, result);
    if (lanes == kBlock) {
      for (int64_t j = 0; j < kBlock; ++j) w[i + j] = result[j];
    } else {
      for (int64_t j = 0; j < lanes; ++j) w[i + j] = result[j];
    }
  }
  // For a < 1 the rest is mostly in one region.
  int32_t region[kRowChunk + kBlock], elsewhere = 0;
  for (int64_t i = 0; i < left; ++i) {
    elsewhere |= below_middle_region_end(rest.a[i], rest.g[i]) ? 0 : 1;
  }
  const bool one_region = elsewhere == 0;
  int32_t regions = left > 0 ? 1 << kMiddle : 0;
  if (!one_region) {
    for (int64_t i = 0; i < left; ++i) region[i] = gamma_region(rest.a[i], rest.g[i]);
    for (int64_t i = left; i < whole_compact_lanes(left); ++i) region[i] = kSmall;
    for (int64_t i = 0; i < left; ++i) regions |= 1 << region[i];
  }
  for (int32_t which = kMiddle; which < kGammaRegions; ++which) {
    if ((regions >> which) % 2 == 0) continue;
    Elements& list = one_region ? rest : part;
    const int64_t length =
        one_region ? left
                   : compact(region, which, whole_compact_lanes(left),
                             Compacted{rest.index, part.index}, Compacted{rest.a, part.a},
                             Compacted{rest.log_g, part.log_g}, Compacted{rest.g, part.g});
    for (int64_t j = length; j % kBlock != 0; ++j) {
      list.index[j] = list.index[length - 1];
      list.a[j] = list.a[length - 1];
      list.log_g[j] = list.log_g[length - 1];
      list.g[j] = list.g[length - 1];
    }
    for (int64_t i = 0; i < length; i += kBlock) {
      const Block lane_a = reinterpret_cast<Block>(list.a + i);
      const Block lane_log_g = reinterpret_cast<Block>(list.log_g + i);
      const Block lane_g = reinterpret_cast<Block>(list.g + i);
      float excess[kBlock], result[kBlock];
      if (which == kMiddle) {
        log_gamma_gradient_at_middle(*lane_a, *lane_g, *lane_log_g, result);
      } else if (which == kAsymptotic) {
        for (int64_t j = 0; j < kBlock; ++j) {
          result[j] = log_gamma_gradient_by_asymptotic_series(
              (*lane_a)[j], (*lane_log_g)[j] - fast_log((*lane_a)[j]));
        }
      } else {
        for (int64_t j = 0; j < kBlock; ++j) {
          excess[j] = digamma_of_next_minus((*lane_a)[j], (*lane_log_g)[j]);
        }
        if (which == kContinuedFraction) {
          log_gamma_gradient_by_continued_fraction(*lane_a, *lane_g, excess, result);
        } else {
          log_gamma_gradient_by_power_series(*lane_a, *lane_g, excess, result);
        }
      }
      for (int64_t j = 0; j < kBlock; ++j) w[list.index[i + j]] = result[j];
    }
  }
}

inline void log_gamma_gradients(int64_t count, const double* a, const double* log_g,
                                const double* /* computes its own g */, double* w,
                                const double* /* and digamma */ = nullptr) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < count; ++k) {
    w[k] = log_g[k] == -infinity ? 0.0 : log_gamma_gradient(a[k], log_g[k]);
  }
}

// The same for rows of any length, in which most log_g may be -inf.
template <typename T>
void log_gamma_gradient_row(int64_t count, const T* a, const T* log_g, T* w) {
  const T infinity = std::numeric_limits<T>::infinity();
  by_chunks(count, [&](int64_t k0, int64_t chunk) {
    const T *chunk_a = a + k0, *chunk_log_g = log_g + k0;
    T* chunk_w = w + k0;
    T g[kRowChunk];
    if constexpr (sizeof(T) == 4) {
      for (int64_t i = 0; i < chunk; ++i) g[i] = fast_exp(chunk_log_g[i]);
      const int64_t whole = whole_compact_lanes(chunk);
      int32_t key[kRowChunk], index[kRowChunk + kCompactLanes], wanted = 0;
      for (int64_t i = 0; i < chunk; ++i) key[i] = chunk_log_g[i] == -infinity ? 0 : 1;
      for (int64_t i = 0; i < chunk; ++i) wanted += key[i];
      for (int64_t i = chunk; i < whole; ++i) key[i] = 0;
      if (wanted <= chunk / 2) {
        compact(key, 1, whole, CompactedNumbers<>{0, index});
        T wanted_a[kRowChunk], wanted_log_g[kRowChunk], wanted_g[kRowChunk], wanted_w[kRowChunk];
        for (int64_t i = 0; i < wanted; ++i) wanted_a[i] = chunk_a[index[i]];
        for (int64_t i = 0; i < wanted; ++i) wanted_log_g[i] = chunk_log_g[index[i]];
        for (int64_t i = 0; i < wanted; ++i) wanted_g[i] = g[index[i]];
        log_gamma_gradients(wanted, wanted_a, wanted_log_g, wanted_g, wanted_w);
        for (int64_t i = 0; i < wanted; ++i) chunk_w[index[i]] = wanted_w[i];
        return;
      }
    }
    log_gamma_gradients(chunk, chunk_a, chunk_log_g, g, chunk_w);
  });
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
