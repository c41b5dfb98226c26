// dirichlet on CPU, one row at a time; rows of few classes share the drawing and the gradients of
// their variates, of which each alone would fill a part of the vectors only.
#include "dirichlet_kernel.h"

#include <cmath>

#include "log_gamma_row.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kFewClasses = 32;

// z and log_total of a row from its log variates, -inf in the padding. `out` has room for the row
// only, or with its padding if `out_padded`.
template <typename T>
void normalize_row(int64_t K, const T* log_g, bool out_padded, T* out, T* log_total) {
  const int64_t padded = padded_row(K);
  const T top = row_maximum(log_g, padded);
  // All concentrations 0 define no distribution: -inf - -inf makes the row NaN.
  const T sum = row_sum<T>(padded, [&](int64_t k) { return fast_exp(log_g[k] - top); });
  const T log_sum = std::log(sum);
  *log_total = top + log_sum;
  for (int64_t k = 0; k < (out_padded ? padded : K); ++k) {
    const T log_z = (log_g[k] - top) - log_sum;
    out[k] = log_z < T(-kNegligibleNats) ? T(0) : fast_exp(log_z);
  }
}

template <typename T>
void forward_row(const DirichletArgs& args, const PhiloxCall& call, int64_t row, T* log_g) {
  const int64_t K = args.classes, padded = padded_row(K);
  const T* concentration = static_cast<const T*>(args.concentration) + row * K;
  T* out = static_cast<T*>(args.z) + row * K;
  // The variate of the largest concentration bounds which of the others are negligible.
  int64_t main = 0;
  for (int64_t k = 1; k < K; ++k) main = concentration[k] > concentration[main] ? k : main;
  const int64_t element = call.first_element + row * K;
  const T bound = log_gamma_variate(concentration[main], call, Stream::kGamma, element + main);
  log_gamma_row(call, element, K, concentration, bound - T(kNegligibleBoostNats), log_g);
  log_g[main] =
      bound;  // below about -1e9 rounding absorbs the nats, and it would be dropped itself
  for (int64_t k = K; k < padded; ++k) log_g[k] = -std::numeric_limits<T>::infinity();
  normalize_row(K, log_g, false, out, static_cast<T*>(args.log_total) + row);
}

// Rows [begin, end) of few classes, at most kRowChunk variates.
template <typename T>
void forward_few(const DirichletArgs& args, const PhiloxCall& call, int64_t begin, int64_t end) {
  const int64_t K = args.classes, padded = padded_row(K);
  const T infinity = std::numeric_limits<T>::infinity();
  const T* concentration = static_cast<const T*>(args.concentration) + begin * K;
  T* out = static_cast<T*>(args.z) + begin * K;
  T log_g[kRowChunk], of_row[kFewClasses], z[kFewClasses];
  log_gamma_row(call, call.first_element + begin * K, (end - begin) * K, concentration, -infinity,
                log_g);
  for (int64_t k = K; k < padded; ++k) of_row[k] = -infinity;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = (row - begin) * K;
    for (int64_t k = 0; k < K; ++k) of_row[k] = log_g[offset + k];
    normalize_row(K, of_row, true, z, static_cast<T*>(args.log_total) + row);
    for (int64_t k = 0; k < K; ++k) out[offset + k] = z[k];
  }
}

// log_g[i] of `count` entries of a row from z, -inf for an entry of 0.
template <typename T>
void recover_log_g(int64_t count, const T* z, T log_total, T* log_g) {
  for (int64_t i = 0; i < count; ++i) {
    log_g[i] = z[i] == T(0) ? -std::numeric_limits<T>::infinity() : fast_log(z[i]) + log_total;
  }
}

// Multiplies a row of dlog_g/da, in place, by the gradient with respect to log_g.
template <typename T>
void chain_row(const DirichletBackwardArgs& args, int64_t row) {
  const int64_t K = args.classes;
  const T* grad = static_cast<const T*>(args.grad_z) + row * K;
  const T* z = static_cast<const T*>(args.z) + row * K;
  T* w = static_cast<T*>(args.grad_concentration) + row * K;
  // Gradients are relative to that of the largest entry. Since z sums to 1, g_k - sum_j g_j z_j is
  // unchanged, and there is no cancellation for an entry close to 1. Entries of 0 contribute
  // nothing, whatever their gradient, which is infinite for a class with logit -inf.
  int64_t largest = 0;
  for (int64_t k = 1; k < K; ++k) largest = z[k] > z[largest] ? k : largest;
  const T anchor = grad[largest];
  T mean = T(0);
  for (int64_t k = 0; k < K; ++k) mean += keep_if(z[k] != T(0), z[k] * (grad[k] - anchor));
  for (int64_t k = 0; k < K; ++k) {
    const T through_z = z[k] * ((grad[k] - anchor) - mean);
    w[k] = keep_if(z[k] != T(0), through_z * w[k]);
  }
}

// Rows [begin, end): of few classes with at most kRowChunk variates together, or only one.
template <typename T>
void backward_together(const DirichletBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t K = args.classes;
  const T* a = static_cast<const T*>(args.concentration) + begin * K;
  const T* z = static_cast<const T*>(args.z) + begin * K;
  const T* log_total = static_cast<const T*>(args.log_total);
  T* w = static_cast<T*>(args.grad_concentration) + begin * K;
  T log_g[kRowChunk];
  if (end - begin == 1) {
    by_chunks(K, [&](int64_t first, int64_t count) {
      recover_log_g(count, z + first, log_total[begin], log_g);
      log_gamma_gradient_row(count, a + first, log_g, w + first);
    });
  } else {
    for (int64_t row = begin; row < end; ++row) {
      recover_log_g(K, z + (row - begin) * K, log_total[row], log_g + (row - begin) * K);
    }
    log_gamma_gradient_row((end - begin) * K, a, log_g, w);
  }
  for (int64_t row = begin; row < end; ++row) chain_row<T>(args, row);
}

// How many rows are processed together.
inline int64_t rows_together(int64_t classes) {
  return classes <= kFewClasses ? kRowChunk / classes : 1;
}

template <typename T>
void forward_rows(const DirichletArgs& args, int64_t begin, int64_t end, T* scratch) {
  const PhiloxCall call(args.rng_state, args.elements_per_row);
  const int64_t some = rows_together(args.classes);
  for (int64_t row = begin; row < end; row += some) {
    if (some == 1) {
      forward_row(args, call, row, scratch);
    } else {
      forward_few<T>(args, call, row, row + some < end ? row + some : end);
    }
  }
}

template <typename T>
void backward_rows(const DirichletBackwardArgs& args, int64_t begin, int64_t end) {
  const int64_t some = rows_together(args.classes);
  for (int64_t row = begin; row < end; row += some) {
    backward_together<T>(args, row, row + some < end ? row + some : end);
  }
}

}  // namespace

void dirichlet_rows(const DirichletArgs& args, int64_t begin, int64_t end, void* scratch) {
  args.dtype == Dtype::kFloat64 ? forward_rows(args, begin, end, static_cast<double*>(scratch))
                                : forward_rows(args, begin, end, static_cast<float*>(scratch));
}

void dirichlet_backward_rows(const DirichletBackwardArgs& args, int64_t begin, int64_t end) {
  args.dtype == Dtype::kFloat64 ? backward_rows<double>(args, begin, end)
                                : backward_rows<float>(args, begin, end);
}

SPROUT_KERNEL_NAMESPACE_END
