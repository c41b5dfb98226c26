// sprout_loss on CPU, one row at a time, or a row per lane where classes are few. Several rows draw
// their variates together. The variates are kept in scratch only; the backward pass draws them
// again, unless the forward pass has computed the gradient of the logits.
#include "sprout_loss_kernel.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "log_gamma_row.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

// Variates of consecutive rows, [rows, K], drawn together.
template <typename T>
struct Variates {
  T log_g[kSpan];
  // Of more than kFewClasses:
  SpanRow<T> of_row[kSpan / kFewClasses];
  T of_labels[kSpan / kFewClasses];  // the sum of the variates of label and partner
  Listed<T> list;
  // Of few classes, in at most kRowChunk elements:
  T concentration[kRowChunk];
  T w[kRowChunk];  // dlog_g/da, if the implicit gradient is wanted
};

template <typename T>
struct Row {
  T* logits;         // [padded], -inf in the padding
  T* log_g;          // [padded] log gamma variates, for LabelMode::kSample
  T* z;              // [padded] the label, sampled or mean, times its sum
  T* softmax;        // [padded] times its sum; only if forward computes the gradient
  GammaRow<T> base;  // scale alpha beta
  int64_t label, partner;
  T label_mass, partner_mass;  // what the labels add to `base`
};

// The first of `count` > 0 ascending numbers that is not below `number`, or the last one. Without
// branches, which could not be predicted.
inline int64_t lower_bound(const int32_t* ascending, int64_t count, int32_t number) {
  const int32_t* from = ascending;
  for (int64_t left = count; left > 1;) {
    const int64_t half = left / 2;
    from += -static_cast<int64_t>(from[half - 1] < number) & half;
    left -= half;
  }
  return from - ascending;
}

// Where the data shared by all rows has the sum of all a, the number of classes that a row draws on
// average if the larger variate of label and partner is 1, and psi(a + 1) for the a < 1 in float32,
// or null.
template <typename T>
T* base_sum(int64_t classes, T* base) {
  return base + sprout_loss_base(classes) - 2;
}
template <typename T>
T* base_wanted(int64_t classes, T* base) {
  return base_sum(classes, base) + 1;
}
template <typename T>
T* base_digamma(int64_t classes, T* base) {
  return classes <= kCachedClasses ? base + 5 * padded_classes(classes) + 64 : nullptr;
}

template <typename T>
T concentration_of(const Row<T>& r, int64_t k) {
  return r.base.a[k] + (k == r.label ? r.label_mass : T(0)) +
         (k == r.partner ? r.partner_mass : T(0));
}

// A row without its logits.
template <typename T>
Row<T> label_row(const SproutLossArgs& args, int64_t row, const T* base, T* scratch) {
  const int64_t padded = padded_classes(args.classes);
  Row<T> r;
  r.logits = scratch;
  r.log_g = r.logits + padded;
  r.z = r.log_g + padded;
  r.softmax = r.z + padded;
  r.base = {base, base + padded, base + 2 * padded, base + 3 * padded, base + 4 * padded};
  const T label_total = static_cast<T>(args.scale) * (T(1) - static_cast<T>(args.alpha));
  const T lam = args.lam == nullptr ? T(1) : static_cast<T>(args.lam[row * args.lam_stride]);
  r.label = args.labels[row];
  r.partner = args.lam == nullptr ? r.label : args.partner_labels[row];
  r.label_mass = label_total * lam;
  r.partner_mass = label_total * (T(1) - lam);
  // Beyond these limits the logarithm of a variate or a sum may leave T's range. The NaN set here
  // propagates to all results of the row. (The implicit gradient, about 1/a^2, overflows earlier.)
  constexpr bool kFloat = sizeof(T) == 4;
  constexpr T kSmallest = T(kFloat ? 1e-33 : 1e-300), kLargest = T(kFloat ? 1e36 : 1e300);
  const T mass = *base_sum(args.classes, base) + (r.label_mass + r.partner_mass);
  if (!(mass >= kSmallest && mass <= kLargest)) {
    r.label_mass = std::numeric_limits<T>::quiet_NaN();
  }
  return r;
}

template <typename T, typename Logit>
Row<T> load_row(const SproutLossArgs& args, int64_t row, const T* base, T* scratch) {
  const int64_t K = args.classes, padded = padded_classes(K);
  Row<T> r = label_row(args, row, base, scratch);
  const Logit* logits = static_cast<const Logit*>(args.logits) + row * K;
  for (int64_t k = 0; k < K; ++k) r.logits[k] = static_cast<T>(logits[k]);
  for (int64_t k = K; k < padded; ++k) r.logits[k] = -std::numeric_limits<T>::infinity();
  return r;
}

inline bool adds_expected(const SproutLossArgs& args) {
  return args.wants_grad_beta && args.beta_grad == BetaGrad::kExpected;
}
inline bool adds_implicit(const SproutLossArgs& args) {
  return args.wants_grad_beta && args.beta_grad != BetaGrad::kExpected;
}

// Draws the variates of rows [begin, end) of few classes.
template <typename T>
void draw_few_classes(const SproutLossArgs& args, const PhiloxCall& call, int64_t begin,
                      int64_t end, const T* base, Variates<T>& variates) {
  const int64_t K = args.classes, count = (end - begin) * K;
  T* a = variates.concentration;
  for (int64_t row = begin; row < end; ++row) {
    const Row<T> r = label_row<T>(args, row, base, nullptr);
    T* of_row = a + (row - begin) * K;
    for (int64_t k = 0; k < K; ++k) of_row[k] = base[k];
    of_row[r.label] += r.label_mass;
    of_row[r.partner] += r.partner_mass;
  }
  const T infinity = std::numeric_limits<T>::infinity();
  log_gamma_row(call, call.first_element + begin * K, count, a, -infinity, variates.log_g);
  if (!adds_implicit(args)) return;
  T g[kRowChunk];
  for (int64_t i = 0; i < count; ++i) g[i] = fast_exp(variates.log_g[i]);
  log_gamma_gradients(count, a, variates.log_g, g, variates.w);
}

// The variates of a row's label and partner, which are drawn first: they have most of its mass, so
// the larger one bounds which of the others are negligible.
template <typename T>
struct LabelVariates {
  T label, partner, least_boost;

  LabelVariates(const SproutLossArgs& args, const PhiloxCall& call, int64_t element,
                const Row<T>& r) {
    const auto draw = [&](int64_t k) {
      return log_gamma_variate(concentration_of(r, k), call, Stream::kGamma, element + k);
    };
    label = draw(r.label);
    partner = r.partner == r.label ? label : draw(r.partner);
    least_boost = (label > partner ? label : partner) - unseen_boost_nats<T>(args);
  }
};

// Draws the variates of rows [begin, end), at most kSpan of them.
template <typename T>
void draw_rows(const SproutLossArgs& args, const PhiloxCall& call, int64_t begin, int64_t end,
               const T* base, Variates<T>& variates) {
  const int64_t K = args.classes, element = call.first_element + begin * K;
  // Those of the labels and partners first, of kAttempts / 2 rows at a time: see LabelVariates.
  T of_label[kSpan / kFewClasses][2];
  GammaRow<T> shapes{};
  for (int64_t n = 0; n < end - begin; n += kAttempts / 2) {
    const int64_t rows = end - begin - n < kAttempts / 2 ? end - begin - n : kAttempts / 2;
    Place place[kAttempts];
    T a[kAttempts];
    for (int64_t i = 0; i < rows; ++i) {
      const Row<T> r = label_row<T>(args, begin + n + i, base, nullptr);
      const int64_t classes[2] = {r.label, r.partner};
      for (int j = 0; j < 2; ++j) {
        variates.of_row[n + i].also_listed[j] = classes[j];
        place[2 * i + j] = place_of(classes[j], (n + i) * K + classes[j]);
        a[2 * i + j] = concentration_of(r, classes[j]);
      }
      shapes = r.base;
    }
    pad(place, 2 * rows);
    for (int64_t i = 2 * rows; i < whole_lanes(2 * rows); ++i) a[i] = a[0];
    log_gamma_each(call, element, 2 * rows, place, a, of_label[n]);
  }
  // Looking for the few that are negligible would take longer than drawing them.
  const bool most = *base_wanted(K, base) > T(K / 2);
  const T unseen = most ? std::numeric_limits<T>::infinity() : unseen_boost_nats<T>(args);
  for (int64_t n = 0; n < end - begin; ++n) {
    const T label = of_label[n][0], partner = of_label[n][1];
    variates.of_row[n].least_boost = (label > partner ? label : partner) - unseen;
    variates.of_labels[n] = label + partner;
  }
  log_gamma_span(call, element, end - begin, K, shapes, variates.of_row, variates.log_g,
                 variates.list);
  for (int64_t n = 0; n < end - begin; ++n) {
    const SpanRow<T>& of_row = variates.of_row[n];
    for (int i = 0; i < 2; ++i) {
      const int64_t k = of_row.also_listed[i];
      if (of_row.listed < 0) {
        variates.log_g[n * K + k] = of_label[n][i];
        continue;
      }
      const Place* place = variates.list.place + of_row.list_begin;
      const int64_t at = lower_bound(place, of_row.listed, place_of(k, n * K + k));
      variates.list.log_g[of_row.list_begin + at] = of_label[n][i];
    }
  }
}

// The classes that the sums and gradients of a draw include: all of them, or the `count` listed in
// `index` in ascending order, whose logits, log_g and z are then compacted to the front of the
// row's arrays.
using Index = int32_t __attribute__((may_alias));
struct Drawn {
  int64_t count;
  const Index* index;  // null for all classes

  // Position of class k, or -1.
  int64_t position(int64_t k) const {
    if (index == nullptr) return k;
    const int64_t at = lower_bound(index, count, static_cast<int32_t>(k));
    return index[at] == k ? at : -1;
  }
};

// Where the list of drawn classes is: z uses the first half of its array only.
template <typename T>
Index* index_of(const Row<T>& r, int64_t padded) {
  return reinterpret_cast<Index*>(r.z + padded / 2);
}

// Whether the row's sums and gradients should include the `listed` classes only: if they are few,
// as in a row of small concentrations. `of_labels` is NaN for a row that must be so in every class.
template <typename T>
bool compacts(int64_t K, int64_t listed, T of_labels) {
  const bool finite = std::fabs(of_labels) < std::numeric_limits<T>::infinity();
  return sizeof(T) == 4 && finite && listed >= 0 && listed + kRowLanes <= padded_classes(K) / 2;
}

// Compacts the logits to those of the listed classes; the variates are compacted already.
template <typename T>
Drawn compacted(const Row<T>& r, int64_t count, const Index* index) {
  const T infinity = std::numeric_limits<T>::infinity();
  for (int64_t i = 0; i < count; ++i) r.logits[i] = r.logits[index[i]];
  for (int64_t i = count; i % kRowLanes != 0; ++i) r.log_g[i] = r.logits[i] = -infinity;
  return {count, index};
}

// The variates of one row of `variates`, in the row's log_g: those of all classes, or, if it may
// list, of few.
template <typename T>
Drawn take_row(const SproutLossArgs& args, const Variates<T>& variates, int64_t row, bool may_list,
               const Row<T>& r) {
  const int64_t K = args.classes, padded = padded_classes(K);
  const SpanRow<T>& of_row = variates.of_row[row];
  const int64_t listed = of_row.listed;  // in a register
  if (may_list && compacts(K, listed, variates.of_labels[row])) {
    const Place* place = variates.list.place + of_row.list_begin;
    const T* log_g = variates.list.log_g + of_row.list_begin;
    Index* index = index_of(r, padded);
    for (int64_t i = 0; i < listed; ++i) index[i] = in_row(place[i]);
    for (int64_t i = 0; i < listed; ++i) r.log_g[i] = log_g[i];
    return compacted(r, listed, index);
  }
  if (listed >= 0) {
    scatter_listed(variates.list, of_row, padded, r.log_g);
    return {K, nullptr};
  }
  for (int64_t k = 0; k < K; ++k) r.log_g[k] = variates.log_g[row * K + k];
  for (int64_t k = K; k < padded; ++k) r.log_g[k] = -std::numeric_limits<T>::infinity();
  return {K, nullptr};
}

// The same for a row of any length, which it draws.
template <typename T>
Drawn draw_row(const SproutLossArgs& args, const PhiloxCall& call, int64_t row, bool may_list,
               const Row<T>& r) {
  const int64_t K = args.classes, padded = padded_classes(K);
  const int64_t element = call.first_element + row * K;
  const LabelVariates<T> labels(args, call, element, r);
  Listed<T> list;
  Index* index = index_of(r, padded);
  int64_t listed = 0;
  const int64_t spans = (K + kSpan - 1) / kSpan, length = (K + spans - 1) / spans;
  for (int64_t k = 0, n = 0; k < K; k += n) {
    n = PhiloxDraw::reach(element + k, K - k < length ? K - k : length);
    const auto inside = [&](int64_t of) { return of >= k && of < k + n ? of - k : -1; };
    SpanRow<T> span{labels.least_boost, {inside(r.label), inside(r.partner)}};
    log_gamma_span(call, element + k, 1, n, r.base.from(k), &span, r.log_g + k, list);
    if (span.listed >= 0) scatter_listed(list, span, n, r.log_g + k);
    const bool fits = listed >= 0 && span.listed >= 0 && listed + list.count <= padded / 2;
    for (int64_t i = 0; fits && i < list.count; ++i) {
      index[listed + i] = in_row(list.place[i]) + static_cast<int32_t>(k);
    }
    listed = fits ? listed + list.count : -1;
  }
  r.log_g[r.label] = labels.label;
  r.log_g[r.partner] = labels.partner;
  for (int64_t k = K; k < padded; ++k) r.log_g[k] = -std::numeric_limits<T>::infinity();
  if (!may_list || !compacts(K, listed, labels.label + labels.partner)) return {K, nullptr};
  for (int64_t i = 0; i < listed; ++i) r.log_g[i] = r.log_g[index[i]];
  return compacted(r, listed, index);
}

// Adds weight x scale alpha dL/da_k for every class, here with the expected gradient (c_k - E[L]) /
// a_0 (docs/method.md: L is linear in z).
template <typename T>
void add_expected_grad_beta(const SproutLossArgs& args, const Row<T>& r, const T* stats, T weight,
                            T* grad_beta) {
  const T by_mass = weight * static_cast<T>(args.scale * args.alpha) / stats[kMass];
  const T top = stats[kTop], log_sum = std::log(stats[kSum]), mean_loss = stats[kMeanLoss];
  for (int64_t k = 0; k < args.classes; ++k) {
    grad_beta[k] += by_mass * ((log_sum - (r.logits[k] - top)) - mean_loss);
  }
}

// The same with the implicit gradient z_k (c_k - L) dlog G_k/da_k, where r.z is z x kSumG.
template <typename T>
void add_implicit_grad_beta(const SproutLossArgs& args, const Row<T>& r, const Drawn& drawn,
                            const T* digamma, const T* stats, T weight, T* grad_beta) {
  const T by_sum = weight * static_cast<T>(args.scale * args.alpha) / stats[kSumG];
  const T top = stats[kTop], log_sum = std::log(stats[kSum]), loss = stats[kLoss];
  const T least = stats[kSumG] * std::exp(-unseen_nats<T>());
  by_chunks(drawn.count, [&](int64_t first, int64_t count) {
    T listed_a[kRowChunk], exponentials[kRowChunk], w[kRowChunk];
    const T *a = r.base.a + first, *log_g = r.log_g + first, *g = r.z + first;
    const bool shares = digamma != nullptr && drawn.index == nullptr;
    const T* of_digamma = shares ? digamma + first : nullptr;
    if (drawn.index != nullptr) {
      for (int64_t i = 0; i < count; ++i) listed_a[i] = r.base.a[drawn.index[first + i]];
      a = listed_a;
    }
    if (stats[kTopG] != T(0)) {
      for (int64_t i = 0; i < count; ++i) exponentials[i] = fast_exp(log_g[i]);
      g = exponentials;
    }
    log_gamma_gradients(count, a, log_g, g, w, of_digamma);
    const auto of_label = [&](int64_t k) {
      const int64_t i = drawn.position(k) - first;
      if (i < 0 || i >= count) return;
      w[i] = log_gamma_gradient(concentration_of(r, k), log_g[i]);
    };
    of_label(r.label);
    if (r.partner != r.label) of_label(r.partner);
    const auto gradient = [&](int64_t i) {
      const T cost = log_sum - (r.logits[first + i] - top);
      const T by_w = by_sum * r.z[first + i] * (cost - loss) * w[i];
      return keep_if(!(r.z[first + i] < least), by_w);
    };
    if (drawn.index == nullptr) {
      for (int64_t i = 0; i < count; ++i) grad_beta[first + i] += gradient(i);
    } else {
      for (int64_t i = 0; i < count; ++i) w[i] = gradient(i);
      for (int64_t i = 0; i < count; ++i) grad_beta[drawn.index[first + i]] += w[i];
    }
  });
}

// z = the mean of the Dirichlet, times its mass.
template <typename T>
void fill_mean(const Row<T>& r, int64_t padded) {
  for (int64_t k = 0; k < padded; ++k) r.z[k] = r.base.a[k];
  r.z[r.label] = concentration_of(r, r.label);
  r.z[r.partner] = concentration_of(r, r.partner);
}

// The factor that makes z sum to 1.
template <typename T>
T by_z_sum(const SproutLossArgs& args, const T* stats) {
  return T(1) / (args.label_mode == LabelMode::kMean ? stats[kMass] : stats[kSumG]);
}

// The variates are those of row `drawn_as` of `variates`, or not drawn yet if that is null.
template <typename T, typename Logit>
void forward_row(const SproutLossArgs& args, const PhiloxCall& call, int64_t row, const T* base,
                 T* scratch, T* grad_beta, const Variates<T>* variates, int64_t drawn_as) {
  const int64_t K = args.classes, padded = padded_classes(K);
  Row<T> r = load_row<T, Logit>(args, row, base, scratch);
  T* stats = static_cast<T*>(args.row_stats) + row * kRowStats;

  const T top = row_maximum(r.logits, padded);
  const bool gives_gradient = args.grad_logits != nullptr;
  T* softmax = gives_gradient ? r.softmax : r.z;  // z is not needed yet
  const T sum = row_exponentials(padded, r.logits, top, softmax);
  const T log_sum = std::log(sum);
  stats[kTop] = seen_nan(top, sum);
  stats[kSum] = sum;
  stats[kTopG] = stats[kSumG] = stats[kMeanLoss] = stats[kMass] = T(0);
  // A class with z = 0 contributes nothing, whatever its logit: 0 * inf counts as 0.
  const auto times_logit = [&](T weight, int64_t k) {
    return keep_if(weight != T(0), weight * (r.logits[k] - top));
  };
  if (args.wants_mean) {
    const T dot = row_sum<T>(padded, [&](int64_t k) { return times_logit(r.base.a[k], k); });
    stats[kMass] = *base_sum(args.classes, base) + (r.label_mass + r.partner_mass);
    stats[kMeanLoss] = log_sum - (dot + times_logit(r.label_mass, r.label) +
                                  times_logit(r.partner_mass, r.partner)) /
                                     stats[kMass];
    stats[kLoss] = stats[kMeanLoss];
    if (adds_expected(args)) add_expected_grad_beta(args, r, stats, T(1), grad_beta);
  }
  Drawn drawn{K, nullptr};
  if (args.label_mode == LabelMode::kSample) {
    drawn = variates == nullptr ? draw_row(args, call, row, true, r)
                                : take_row(args, *variates, drawn_as, true, r);
    const int64_t whole = padded_row(drawn.count);
    const T largest = row_maximum(r.log_g, whole);
    // If nothing can leave T's range, use the variates themselves, which the gradient needs too.
    const T top_g = std::fabs(largest) < T(20) ? T(0) : largest;
    const T sum_g = row_exponentials(whole, r.log_g, top_g, r.z);
    const T dot = row_sum<T>(whole, [&](int64_t k) { return times_logit(r.z[k], k); });
    // A row that is NaN is so in every class, including those without a variate.
    for (int64_t k = 0; sum_g != sum_g && k < padded; ++k) r.z[k] = sum_g;
    stats[kTopG] = seen_nan(top_g, sum_g);
    stats[kSumG] = sum_g;
    stats[kLoss] = log_sum - dot / sum_g;
  }
  if (adds_implicit(args))
    add_implicit_grad_beta(args, r, drawn, base_digamma(K, base), stats, T(1), grad_beta);
  if (gives_gradient) {
    if (args.label_mode == LabelMode::kMean) fill_mean(r, padded);
    // dL/dlogit_k = softmax_k - z_k, since z sums to 1.
    const T weight = args.reduction == Reduction::kMean ? T(1) / static_cast<T>(args.batch) : T(1);
    const T by_sum = weight / sum, by_z = weight * by_z_sum(args, stats);
    T* gradient = static_cast<T*>(args.grad_logits) + row * K;
    if (drawn.index == nullptr) {
      for (int64_t k = 0; k < K; ++k) gradient[k] = r.softmax[k] * by_sum - r.z[k] * by_z;
    } else {
      for (int64_t k = 0; k < K; ++k) gradient[k] = r.softmax[k] * by_sum;
      for (int64_t i = 0; i < drawn.count; ++i) gradient[drawn.index[i]] -= r.z[i] * by_z;
    }
  }
}

template <typename T, typename Logit>
void backward_row(const SproutLossArgs& args, const PhiloxCall& call, int64_t row, const T* base,
                  T* scratch, T* grad_beta, const Variates<T>* variates, int64_t drawn_as) {
  const int64_t K = args.classes, padded = padded_classes(K);
  Row<T> r = load_row<T, Logit>(args, row, base, scratch);
  const T* stats = static_cast<const T*>(args.row_stats) + row * kRowStats;
  const T* grad_loss = static_cast<const T*>(args.grad_loss);
  const T weight = args.reduction == Reduction::kNone   ? grad_loss[row]
                   : args.reduction == Reduction::kMean ? grad_loss[0] / static_cast<T>(args.batch)
                                                        : grad_loss[0];
  if (args.label_mode == LabelMode::kMean) {
    fill_mean(r, padded);
  } else {
    variates == nullptr ? draw_row(args, call, row, false, r)
                        : take_row(args, *variates, drawn_as, false, r);
    row_exponentials(padded, r.log_g, stats[kTopG], r.z);
  }
  if (adds_expected(args)) add_expected_grad_beta(args, r, stats, weight, grad_beta);
  if (adds_implicit(args)) {
    add_implicit_grad_beta(args, r, Drawn{K, nullptr}, base_digamma(K, base), stats, weight,
                           grad_beta);
  }
  const T top = stats[kTop], by_sum = T(1) / stats[kSum], by_z = by_z_sum(args, stats);
  for (int64_t k = 0; k < K; ++k) {
    r.logits[k] = weight * (fast_exp(r.logits[k] - top) * by_sum - r.z[k] * by_z);
  }
  // The conversion is a separate loop, so that both are vectorized.
  Logit* out = static_cast<Logit*>(args.grad_logits) + row * K;
  for (int64_t k = 0; k < K; ++k) out[k] = static_cast<Logit>(r.logits[k]);
}

static_assert(kFewClasses <= kAbreastClasses);

// The forward or the backward pass of rows [row, row + count), at most kAbreast of them, of few
// classes. Their variates are those from row `drawn_as` of `variates` on, if labels are drawn.
template <bool kBackward, typename T, typename Logit>
void rows_abreast(const SproutLossArgs& args, int64_t row, int64_t count, const T* base,
                  T* grad_beta, const Variates<T>& variates, int64_t drawn_as) {
  const int64_t K = args.classes;
  const bool samples = args.label_mode == LabelMode::kSample;
  Abreast<T> logits[kFewClasses], softmax[kFewClasses], z[kFewClasses], stats[kRowStats];
  Abreast<T> label_mass, partner_mass, log_sum, weight;
  Abreast<int64_t> label, partner;
  for (int64_t i = 0; i < kAbreast; ++i) {
    const Row<T> r = label_row<T>(args, row + row_of_lane(i, count), base, nullptr);
    label[i] = r.label, partner[i] = r.partner;
    label_mass[i] = r.label_mass, partner_mass[i] = r.partner_mass;
  }
  load_abreast(static_cast<const Logit*>(args.logits) + row * K, count, K, logits);

  T* of_rows = static_cast<T*>(args.row_stats) + row * kRowStats;
  if constexpr (kBackward) {
    load_abreast(of_rows, count, kRowStats, stats);
    const T* grad_loss = static_cast<const T*>(args.grad_loss);
    const bool mean = args.reduction == Reduction::kMean;
    for (int64_t i = 0; i < kAbreast; ++i) {
      weight[i] = args.reduction == Reduction::kNone ? grad_loss[row + row_of_lane(i, count)]
                                                     : grad_loss[0] / T(mean ? args.batch : 1);
    }
  } else {
    abreast_maximum(K, logits, stats[kTop]);
    for (int64_t s = kTop + 1; s < kRowStats; ++s)
      each_lane([&](int64_t i) { stats[s][i] = T(0); });
    each_lane([&](int64_t i) { weight[i] = T(1); });
  }
  for (int64_t k = 0; k < K; ++k) {
    each_lane([&](int64_t i) {
      logits[k][i] -= stats[kTop][i];  // from here on
      softmax[k][i] = fast_exp_below_88(logits[k][i]);
    });
  }
  // A class with z = 0 contributes nothing, whatever its logit: 0 * inf counts as 0.
  const auto product = [](T mass, T logit) { return keep_if(mass != T(0), mass * logit); };
  if constexpr (!kBackward) {
    for (int64_t k = 0; k < K; ++k) {
      each_lane([&](int64_t i) { stats[kSum][i] += softmax[k][i]; });
    }
  }
  for (int64_t i = 0; i < kAbreast; ++i) log_sum[i] = std::log(stats[kSum][i]);
  if (!kBackward && args.wants_mean) {
    Abreast<T> dot = {};
    for (int64_t k = 0; k < K; ++k) {
      each_lane([&](int64_t i) { dot[i] += product(base[k], logits[k][i]); });
    }
    for (int64_t i = 0; i < kAbreast; ++i) {
      dot[i] += product(label_mass[i], logits[label[i]][i]) +
                product(partner_mass[i], logits[partner[i]][i]);
    }
    each_lane([&](int64_t i) {
      stats[kMass][i] = *base_sum(K, base) + (label_mass[i] + partner_mass[i]);
      stats[kMeanLoss][i] = stats[kLoss][i] = log_sum[i] - dot[i] / stats[kMass][i];
    });
  }
  if (samples) {
    load_abreast(variates.log_g + drawn_as * K, count, K, z);
    for (int64_t i = 0; i < kAbreast; ++i) {
      // Variates of a NaN are any numbers.
      if (label_mass[i] != label_mass[i]) z[label[i]][i] = label_mass[i];
    }
    if constexpr (!kBackward) {
      Abreast<T> largest, dot = {};
      abreast_maximum(K, z, largest);
      // If nothing can leave T's range, the variates themselves.
      each_lane(
          [&](int64_t i) { stats[kTopG][i] = std::fabs(largest[i]) < T(20) ? T(0) : largest[i]; });
      for (int64_t k = 0; k < K; ++k) {
        each_lane([&](int64_t i) {
          z[k][i] = fast_exp_below_88(z[k][i] - stats[kTopG][i]);
          stats[kSumG][i] += z[k][i];
          dot[i] += product(z[k][i], logits[k][i]);
        });
      }
      each_lane([&](int64_t i) { stats[kLoss][i] = log_sum[i] - dot[i] / stats[kSumG][i]; });
    } else {
      for (int64_t k = 0; k < K; ++k) {
        each_lane([&](int64_t i) { z[k][i] = fast_exp_below_88(z[k][i] - stats[kTopG][i]); });
      }
    }
  } else {
    for (int64_t k = 0; k < K; ++k) each_lane([&](int64_t i) { z[k][i] = base[k]; });
    for (int64_t i = 0; i < kAbreast; ++i) {
      z[label[i]][i] += label_mass[i];
      z[partner[i]][i] += partner_mass[i];
    }
  }

  const T factor = static_cast<T>(args.scale * args.alpha);
  Abreast<T> by_total;
  const auto add_grad_beta = [&](RowStat total, auto gradient) {
    for (int64_t i = 0; i < kAbreast; ++i) {
      by_total[i] = i < count ? weight[i] * factor / stats[total][i] : T(0);
    }
    for (int64_t k = 0; k < K; ++k) {
      grad_beta[k] += row_sum<T>(kAbreast, [&](int64_t i) { return gradient(k, i); });
    }
  };
  if (adds_expected(args)) {
    add_grad_beta(kMass, [&](int64_t k, int64_t i) {
      return by_total[i] * ((log_sum[i] - logits[k][i]) - stats[kMeanLoss][i]);
    });
  }
  if (adds_implicit(args)) {
    Abreast<T> w[kFewClasses];
    load_abreast(variates.w + drawn_as * K, count, K, w);
    const T unseen = std::exp(-unseen_nats<T>());
    add_grad_beta(kSumG, [&](int64_t k, int64_t i) {
      const T by_w = by_total[i] * z[k][i] * ((log_sum[i] - logits[k][i]) - stats[kLoss][i]);
      return keep_if(!(z[k][i] < unseen * stats[kSumG][i]), by_w * w[k][i]);
    });
  }

  if constexpr (!kBackward) {
    each_lane([&](int64_t i) {
      stats[kTop][i] = seen_nan(stats[kTop][i], stats[kSum][i]);
      stats[kTopG][i] = seen_nan(stats[kTopG][i], stats[kSumG][i]);
    });
    store_abreast(stats, count, kRowStats, of_rows);
    if (args.grad_logits == nullptr) return;
    const bool mean = args.reduction == Reduction::kMean;
    each_lane([&](int64_t i) { weight[i] = T(1) / T(mean ? args.batch : 1); });
  }
  // dL/dlogit_k = softmax_k - z_k, both divided by their sums.
  each_lane([&](int64_t i) { by_total[i] = weight[i] / stats[samples ? kSumG : kMass][i]; });
  Abreast<T> by_sum;
  each_lane([&](int64_t i) { by_sum[i] = weight[i] / stats[kSum][i]; });
  for (int64_t k = 0; k < K; ++k) {
    each_lane(
        [&](int64_t i) { softmax[k][i] = softmax[k][i] * by_sum[i] - z[k][i] * by_total[i]; });
  }
  using Out = std::conditional_t<kBackward, Logit, T>;
  store_abreast(softmax, count, K, static_cast<Out*>(args.grad_logits) + row * K);
}

template <bool kBackward>
void rows(const SproutLossArgs& args, int64_t begin, int64_t end, const void* base, void* scratch,
          void* grad_beta) {
  const PhiloxCall call(args.rng_state, args.classes, args.first_row);
  with_floating_type(args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    using T = decltype(logit * 1.0f);
    const T* of_base = static_cast<const T*>(base);
    const auto run = [&](int64_t row, const Variates<T>* variates, int64_t drawn_as) {
      constexpr auto run_row = kBackward ? backward_row<T, Logit> : forward_row<T, Logit>;
      run_row(args, call, row, of_base, static_cast<T*>(scratch), static_cast<T*>(grad_beta),
              variates, drawn_as);
    };
    static_assert(kRowChunk == 1024 && kSpan == 4096, "as in drawn_together");
    const bool few = args.classes <= kFewClasses, samples = args.label_mode == LabelMode::kSample;
    const int64_t some = drawn_together(args.classes) / args.classes;
    if (some == 0 || (!few && !samples)) {
      for (int64_t row = begin; row < end; ++row) run(row, nullptr, 0);
      return;
    }
    Variates<T> variates;
    const auto draw = few ? draw_few_classes<T> : draw_rows<T>;
    for (int64_t first = begin; first < end; first += some) {
      const int64_t last = end - first < some ? end : first + some;
      const int64_t element = call.first_element + first * args.classes;
      const int64_t elements = (last - first) * args.classes;
      const bool together = few || PhiloxDraw::reach(element, elements) == elements;
      if (together && samples) draw(args, call, first, last, of_base, variates);
      for (int64_t row = first; row < last && few; row += kAbreast) {
        const int64_t count = last - row < kAbreast ? last - row : kAbreast;
        rows_abreast<kBackward, T, Logit>(args, row, count, of_base, static_cast<T*>(grad_beta),
                                          variates, row - first);
      }
      for (int64_t row = first; row < last && !few; ++row) {
        run(row, together ? &variates : nullptr, row - first);
      }
    }
  });
}

}  // namespace

void sprout_loss_prepare(const SproutLossArgs& args, void* base) {
  const int64_t padded = padded_classes(args.classes);
  with_floating_type(args.dtype, [&](auto logit) {
    using T = decltype(logit * 1.0f);
    T* a = static_cast<T*>(base);
    gamma_row(padded, a, a + padded, padded);
    *base_sum(args.classes, a) =
        static_cast<T>(row_sum<double>(padded, [&](int64_t k) { return a[k]; }));
    const T unseen = unseen_boost_nats<T>(args);
    *base_wanted(args.classes, a) =
        row_sum<T>(padded, [&](int64_t k) { return a[k] * unseen < T(1) ? a[k] * unseen : T(1); });
    T* digamma = base_digamma(args.classes, a);
    for (int64_t k = 0; digamma != nullptr && k < padded; ++k) {
      digamma[k] = T(digamma_of_next(static_cast<float>(a[k])));
    }
  });
}

void sprout_loss_rows(const SproutLossArgs& args, int64_t begin, int64_t end, const void* base,
                      void* scratch, void* grad_beta) {
  rows<false>(args, begin, end, base, scratch, grad_beta);
}

void sprout_loss_backward_rows(const SproutLossArgs& args, int64_t begin, int64_t end,
                               const void* base, void* scratch, void* grad_beta) {
  rows<true>(args, begin, end, base, scratch, grad_beta);
}

SPROUT_KERNEL_NAMESPACE_END
