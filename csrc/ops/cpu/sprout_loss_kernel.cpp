// sprout_loss on CPU, a row at a time. A row's variates live in scratch; backward draws them again.
#include "sprout_loss_kernel.h"

#include <cmath>
#include <limits>

#include "log_gamma_row.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

template <typename T>
struct Row {
  T* logits;         // [padded K]
  T* log_g;          // [padded K] log gamma variates, for LabelsFrom::kDirichlet
  T* concentration;  // [padded K]
  int32_t* pending;  // [padded K] scratch of log_gamma_row
  int64_t label, partner;
  T label_mass, partner_mass;  // what the labels add to the base concentration
};

template <typename T, typename Logit>
Row<T> load_row(const SproutLossArgs& args, int64_t row, const T* base, T* scratch) {
  const int64_t K = args.classes, padded = padded_classes(K);
  Row<T> r;
  r.logits = scratch;
  r.log_g = scratch + padded;
  r.concentration = scratch + 2 * padded;
  r.pending = reinterpret_cast<int32_t*>(scratch + 3 * padded);
  const Logit* logits = static_cast<const Logit*>(args.logits) + row * K;
  for (int64_t k = 0; k < K; ++k) r.logits[k] = static_cast<T>(logits[k]);
  for (int64_t k = K; k < padded; ++k) r.logits[k] = -std::numeric_limits<T>::infinity();
  for (int64_t k = 0; k < padded; ++k) r.concentration[k] = base[k];
  const T label_total = static_cast<T>(args.scale) * (T(1) - static_cast<T>(args.alpha));
  const T lam = args.lam == nullptr ? T(1) : static_cast<T>(args.lam[row * args.lam_stride]);
  r.label = args.labels[row];
  r.partner = args.lam == nullptr ? r.label : args.partner_labels[row];
  r.label_mass = label_total * lam;
  r.partner_mass = label_total * (T(1) - lam);
  r.concentration[r.label] += r.label_mass;
  r.concentration[r.partner] += r.partner_mass;
  return r;
}

template <typename T>
void draw_row(const SproutLossArgs& args, const PhiloxCall& call, int64_t row, const Row<T>& r) {
  const int64_t K = args.classes, padded = padded_classes(K);
  if (args.labels_from == LabelsFrom::kMean) return;
  // The labels' variates first: they are most of the row's mass, so that their larger one shows
  // which of the others cannot matter.
  const int64_t element = call.first_element + row * K;
  const T first =
      log_gamma_variate(r.concentration[r.label], call, Stream::kGamma, element + r.label);
  const T second =
      log_gamma_variate(r.concentration[r.partner], call, Stream::kGamma, element + r.partner);
  const T largest = first > second ? first : second;
  log_gamma_row(call, element, K, r.concentration, largest, r.log_g, r.pending);
  for (int64_t k = K; k < padded; ++k) r.log_g[k] = -std::numeric_limits<T>::infinity();
  // Where every concentration is 0 there is no distribution: -inf - -inf makes the row NaN below.
}

// weight x scale alpha dL/da_k, added for every class: dL/da_k = z_k (c_k - L) dlog G_k/da_k
// (implicit) or (c_k - E[L]) / a_0 (expected; METHOD: L is linear in z).
template <typename T>
void add_grad_beta(const SproutLossArgs& args, const Row<T>& r, const T* stats, T weight,
                   T* grad_beta) {
  const int64_t K = args.classes;
  const T factor = weight * static_cast<T>(args.scale * args.alpha);
  const T top = stats[kTop], log_sum = stats[kLogSum];
  if (args.beta_grad == BetaGrad::kExpected) {
    const T mean_loss = stats[kMeanLoss], by_total = factor / stats[kMass];
    for (int64_t k = 0; k < K; ++k) {
      grad_beta[k] += by_total * (log_sum - (r.logits[k] - top) - mean_loss);
    }
    return;
  }
  for (int64_t k = 0; k < K; ++k) {
    const T log_z = (r.log_g[k] - stats[kTopG]) - stats[kLogSumG];
    if (log_z < T(-kNegligibleNats)) continue;  // NaN goes on
    const T w = static_cast<T>(log_gamma_gradient(r.concentration[k], r.log_g[k]));
    const T cost = log_sum - (r.logits[k] - top);
    grad_beta[k] += factor * fast_exp(log_z) * (cost - stats[kLoss]) * w;
  }
}

template <typename T, typename Logit>
void forward_row(const SproutLossArgs& args, const PhiloxCall& call, int64_t row, const T* base,
                 T* scratch, T* grad_beta) {
  const int64_t padded = padded_classes(args.classes);
  const Row<T> r = load_row<T, Logit>(args, row, base, scratch);
  draw_row(args, call, row, r);
  T* stats = static_cast<T*>(args.row_stats) + row * kRowStats;

  const T top = row_maximum(r.logits, padded);
  const T log_sum =
      std::log(row_sum<T>(padded, [&](int64_t k) { return fast_exp(r.logits[k] - top); }));
  stats[kTop] = top;
  stats[kLogSum] = log_sum;
  // A class with z = 0 adds nothing, whatever its logit: 0 x inf counts as 0.
  const auto times_logit = [&](T weight, int64_t k) {
    return keep_if(weight != T(0), weight * (r.logits[k] - top));
  };
  stats[kTopG] = stats[kLogSumG] = stats[kMeanLoss] = stats[kMass] = T(0);
  if (args.wants_mean) {
    stats[kMass] = row_sum<T>(padded, [&](int64_t k) { return r.concentration[k]; });
    const T dot = row_sum<T>(padded, [&](int64_t k) { return times_logit(r.concentration[k], k); });
    stats[kLoss] = stats[kMeanLoss] = log_sum - dot / stats[kMass];
  }
  if (args.labels_from == LabelsFrom::kDirichlet) {
    const T top_g = row_maximum(r.log_g, padded);
    const T total = row_sum<T>(padded, [&](int64_t k) { return fast_exp(r.log_g[k] - top_g); });
    const T dot =
        row_sum<T>(padded, [&](int64_t k) { return times_logit(fast_exp(r.log_g[k] - top_g), k); });
    stats[kTopG] = top_g;
    stats[kLogSumG] = std::log(total);
    stats[kLoss] = log_sum - dot / total;
  }
  if (args.wants_grad_beta) add_grad_beta(args, r, stats, T(1), grad_beta);
}

template <typename T, typename Logit>
void backward_row(const SproutLossArgs& args, const PhiloxCall& call, int64_t row, const T* base,
                  T* scratch, T* grad_beta) {
  const int64_t K = args.classes;
  const Row<T> r = load_row<T, Logit>(args, row, base, scratch);
  draw_row(args, call, row, r);
  const T* stats = static_cast<const T*>(args.row_stats) + row * kRowStats;
  const T* grad_loss = static_cast<const T*>(args.grad_loss);
  const T weight = args.reduction == Reduction::kNone   ? grad_loss[row]
                   : args.reduction == Reduction::kMean ? grad_loss[0] / static_cast<T>(args.batch)
                                                        : grad_loss[0];
  Logit* out = static_cast<Logit*>(args.grad_logits) + row * K;
  const T top = stats[kTop], log_sum = stats[kLogSum];
  if (args.wants_grad_beta) add_grad_beta(args, r, stats, weight, grad_beta);
  // dL/dlogit_k = softmax_k - z_k, since the z add up to 1.
  if (args.labels_from == LabelsFrom::kMean) {
    const T by_mass = T(1) / stats[kMass];
    for (int64_t k = 0; k < K; ++k) {
      const T z = r.concentration[k] * by_mass;
      r.logits[k] = weight * (fast_exp((r.logits[k] - top) - log_sum) - z);
    }
  } else {
    const T top_g = stats[kTopG], log_sum_g = stats[kLogSumG];
    for (int64_t k = 0; k < K; ++k) {
      const T z = fast_exp((r.log_g[k] - top_g) - log_sum_g);
      r.logits[k] = weight * (fast_exp((r.logits[k] - top) - log_sum) - z);
    }
  }
  // The conversion is a loop of its own, so that both become vector operations.
  for (int64_t k = 0; k < K; ++k) out[k] = static_cast<Logit>(r.logits[k]);
}

template <bool kBackward>
void rows(const SproutLossArgs& args, int64_t begin, int64_t end, const void* base, void* scratch,
          void* grad_beta) {
  const PhiloxCall call(args.rng_state, args.classes);
  with_floating_type(args.dtype, [&](auto logit) {
    using Logit = decltype(logit);
    using T = decltype(logit * 1.0f);
    for (int64_t row = begin; row < end; ++row) {
      if constexpr (kBackward) {
        backward_row<T, Logit>(args, call, row, static_cast<const T*>(base),
                               static_cast<T*>(scratch), static_cast<T*>(grad_beta));
      } else {
        forward_row<T, Logit>(args, call, row, static_cast<const T*>(base),
                              static_cast<T*>(scratch), static_cast<T*>(grad_beta));
      }
    }
  });
}

}  // namespace

void sprout_loss_rows(const SproutLossArgs& args, int64_t begin, int64_t end, const void* base,
                      void* scratch, void* grad_beta) {
  rows<false>(args, begin, end, base, scratch, grad_beta);
}

void sprout_loss_backward_rows(const SproutLossArgs& args, int64_t begin, int64_t end,
                               const void* base, void* scratch, void* grad_beta) {
  rows<true>(args, begin, end, base, scratch, grad_beta);
}

SPROUT_KERNEL_NAMESPACE_END
