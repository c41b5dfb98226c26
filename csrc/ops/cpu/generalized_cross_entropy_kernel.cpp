// generalized_cross_entropy on CPU, one row at a time, or in the forward pass a row per lane where
// classes are few. Rows are converted into scratch, so that all loops but the first and the last
// use the accumulation type only.
#include "generalized_cross_entropy_kernel.h"

#include <cmath>
#include <limits>

#include "../../common/elementary.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

using Args = GeneralizedCrossEntropyArgs;
using Stat = CrossEntropyStat;

template <typename T>
void load_row(Dtype dtype, const void* matrix, int64_t row, int64_t K, T* out) {
  with_floating_type(dtype, [&](auto element) {
    const auto* in = static_cast<const decltype(element)*>(matrix) + row * K;
    for (int64_t k = 0; k < K; ++k) out[k] = static_cast<T>(in[k]);
  });
}

template <typename T>
void store_row(const T* values, Dtype dtype, void* matrix, int64_t row, int64_t K) {
  with_floating_type(dtype, [&](auto element) {
    auto* out = static_cast<decltype(element)*>(matrix) + row * K;
    for (int64_t k = 0; k < K; ++k) out[k] = static_cast<decltype(element)>(values[k]);
  });
}

template <typename T>
struct Row {
  T* logits;   // [padded K], -inf in the padding
  T* weights;  // [padded K], 0 in the padding; for probabilities only
  T keep;      // 1 - smoothing
  T uniform;   // smoothing / K
};

template <typename T>
Row<T> load(const Args& args, int64_t row, T* scratch) {
  const int64_t K = args.classes, padded = padded_row(K);
  const Row<T> r{scratch, scratch + padded, static_cast<T>(1 - args.smoothing),
                 static_cast<T>(args.smoothing / static_cast<double>(K))};
  load_row(args.dtype, args.logits, row, K, r.logits);
  for (int64_t k = K; k < padded; ++k) r.logits[k] = -std::numeric_limits<T>::infinity();
  if (args.probabilities != nullptr) {
    load_row(args.target_dtype, args.probabilities, row, K, r.weights);
    for (int64_t k = 0; k < K; ++k) r.weights[k] = r.keep * r.weights[k] + r.uniform;
    for (int64_t k = K; k < padded; ++k) r.weights[k] = T(0);
  }
  return r;
}

// t_k for a class index.
template <typename T>
T label_weight(const Row<T>& r, int64_t k, int64_t label) {
  return k == label ? r.keep + r.uniform : r.uniform;
}

template <typename T>
void forward_row(const Args& args, int64_t row, T* scratch) {
  const int64_t K = args.classes, padded = padded_row(K);
  const Row<T> r = load(args, row, scratch);
  const T top = row_maximum(r.logits, padded);
  // sum_k t_k (logit_k - top). Classes of weight 0 contribute nothing, whatever their logit.
  T dot, mass = T(1);
  if (args.labels != nullptr) {
    dot = r.keep == T(0) ? T(0) : r.keep * (r.logits[args.labels[row]] - top);
    if (r.uniform != T(0)) {
      dot += r.uniform *
             row_sum<T>(padded, [&](int64_t k) { return keep_if(k < K, r.logits[k] - top); });
    }
  } else {
    mass = row_sum<T>(padded, [&](int64_t k) { return r.weights[k]; });
    dot = row_sum<T>(padded, [&](int64_t k) {
      const T weight = r.weights[k];
      return keep_if(weight != T(0), weight * (r.logits[k] - top));
    });
  }
  const T sum = row_exponentials(padded, r.logits, top, r.logits);
  const T log_sum = std::log(sum);
  T* stats = static_cast<T*>(args.row_stats) + row * Stat::kCount;
  stats[Stat::kTop] = seen_nan(top, sum);
  stats[Stat::kLogSum] = log_sum;
  stats[Stat::kLoss] = mass * log_sum - dot;
  stats[Stat::kMass] = mass;
  if (args.grad_logits == nullptr) return;
  T* gradient = static_cast<T*>(args.grad_logits) + row * K;
  const T factor = args.reduction == Reduction::kMean ? T(1) / static_cast<T>(args.batch) : T(1);
  const T by_sum = mass / sum;
  if (args.labels != nullptr) {
    const int64_t label = args.labels[row];
    for (int64_t k = 0; k < K; ++k) {
      gradient[k] = factor * (r.logits[k] * by_sum - label_weight(r, k, label));
    }
  } else {
    for (int64_t k = 0; k < K; ++k) gradient[k] = factor * (r.logits[k] * by_sum - r.weights[k]);
  }
}

// Rows [row, row + count), at most kAbreast of them, of at most kAbreastClasses classes.
template <typename T>
void forward_abreast(const Args& args, int64_t row, int64_t count) {
  const int64_t K = args.classes;
  const T keep = static_cast<T>(1 - args.smoothing);
  const T uniform = static_cast<T>(args.smoothing / static_cast<double>(K));
  Abreast<T> logits[kAbreastClasses], weights[kAbreastClasses];
  const auto load = [&](Dtype dtype, const void* matrix, Abreast<T>* to) {
    with_floating_type(dtype, [&](auto element) {
      load_abreast(static_cast<const decltype(element)*>(matrix) + row * K, count, K, to);
    });
  };
  load(args.dtype, args.logits, logits);
  Abreast<T> top, sum = {}, dot = {}, mass = {}, log_sum, by_sum;
  if (args.labels == nullptr) {
    load(args.target_dtype, args.probabilities, weights);
    for (int64_t k = 0; k < K; ++k) {
      each_lane([&](int64_t i) {
        weights[k][i] = keep * weights[k][i] + uniform;
        mass[i] += weights[k][i];
      });
    }
  } else {
    for (int64_t k = 0; k < K; ++k) each_lane([&](int64_t i) { weights[k][i] = uniform; });
    for (int64_t i = 0; i < count; ++i) weights[args.labels[row + i]][i] += keep;
    each_lane([&](int64_t i) { mass[i] = T(1); });
  }
  abreast_maximum(K, logits, top);
  for (int64_t k = 0; k < K; ++k) {
    each_lane([&](int64_t i) {
      const T below = logits[k][i] - top[i];
      // Classes of weight 0 contribute nothing, whatever their logit.
      dot[i] += keep_if(weights[k][i] != T(0), weights[k][i] * below);
      logits[k][i] = fast_exp_below_88(below);
      sum[i] += logits[k][i];
    });
  }
  for (int64_t i = 0; i < kAbreast; ++i) log_sum[i] = std::log(sum[i]);
  T* stats = static_cast<T*>(args.row_stats) + row * Stat::kCount;
  for (int64_t i = 0; i < count; ++i, stats += Stat::kCount) {
    stats[Stat::kTop] = seen_nan(top[i], sum[i]);
    stats[Stat::kLogSum] = log_sum[i];
    stats[Stat::kLoss] = mass[i] * log_sum[i] - dot[i];
    stats[Stat::kMass] = mass[i];
  }
  if (args.grad_logits == nullptr) return;
  const T factor = args.reduction == Reduction::kMean ? T(1) / static_cast<T>(args.batch) : T(1);
  each_lane([&](int64_t i) { by_sum[i] = mass[i] / sum[i]; });
  for (int64_t k = 0; k < K; ++k) {
    each_lane(
        [&](int64_t i) { logits[k][i] = factor * (logits[k][i] * by_sum[i] - weights[k][i]); });
  }
  store_abreast(logits, count, K, static_cast<T*>(args.grad_logits) + row * K);
}

template <typename T>
void forward_rows(const Args& args, int64_t begin, int64_t end, void* scratch) {
  if (args.classes > kAbreastClasses) {
    for (int64_t row = begin; row < end; ++row) forward_row(args, row, static_cast<T*>(scratch));
    return;
  }
  for (int64_t row = begin; row < end; row += kAbreast) {
    forward_abreast<T>(args, row, end - row < kAbreast ? end - row : kAbreast);
  }
}

template <typename T>
void backward_row(const Args& args, int64_t row, T* scratch) {
  const int64_t K = args.classes;
  const Row<T> r = load(args, row, scratch);
  const T* stats = static_cast<const T*>(args.row_stats) + row * Stat::kCount;
  const T top = stats[Stat::kTop], log_sum = stats[Stat::kLogSum], mass = stats[Stat::kMass];
  const T* grad_loss = static_cast<const T*>(args.grad_loss);
  const T factor = args.reduction == Reduction::kNone   ? grad_loss[row]
                   : args.reduction == Reduction::kMean ? grad_loss[0] / static_cast<T>(args.batch)
                                                        : grad_loss[0];
  T* gradient = r.logits;  // in place of the logits
  if (args.labels != nullptr) {
    const int64_t label = args.labels[row];
    for (int64_t k = 0; k < K; ++k) {
      gradient[k] = factor * (fast_exp((r.logits[k] - top) - log_sum) - label_weight(r, k, label));
    }
  } else {
    T* by_target = r.weights;  // in place of the weights
    for (int64_t k = 0; k < K; ++k) {
      const T log_p = (r.logits[k] - top) - log_sum;
      gradient[k] = factor * (fast_exp(log_p) * mass - r.weights[k]);
      by_target[k] = factor * r.keep * -log_p;
    }
    if (args.grad_target != nullptr) {
      store_row(by_target, args.target_dtype, args.grad_target, row, K);
    }
  }
  store_row(gradient, args.dtype, args.grad_logits, row, K);
}

}  // namespace

void generalized_cross_entropy_rows(const Args& args, int64_t begin, int64_t end, void* scratch) {
  const auto rows = args.dtype == Dtype::kFloat64 ? forward_rows<double> : forward_rows<float>;
  rows(args, begin, end, scratch);
}

void generalized_cross_entropy_backward_rows(const Args& args, int64_t begin, int64_t end,
                                             void* scratch) {
  for (int64_t row = begin; row < end; ++row) {
    args.dtype == Dtype::kFloat64 ? backward_row(args, row, static_cast<double*>(scratch))
                                  : backward_row(args, row, static_cast<float*>(scratch));
  }
}

SPROUT_KERNEL_NAMESPACE_END
