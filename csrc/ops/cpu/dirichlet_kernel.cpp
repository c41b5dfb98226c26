// dirichlet on CPU, one row at a time.
#include "dirichlet_kernel.h"

#include <cmath>

#include "log_gamma_row.h"
#include "row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

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
  const GammaRow<T> concentrations{concentration, nullptr, nullptr, nullptr, nullptr};
  log_gamma_row(call, element, K, concentrations, bound - T(kNegligibleNats), log_g);
  log_g[main] =
      bound;  // below about -1e9 rounding absorbs the nats, and it would be dropped itself
  for (int64_t k = K; k < padded; ++k) log_g[k] = -std::numeric_limits<T>::infinity();
  const T top = row_maximum(log_g, padded);
  // All concentrations 0 define no distribution: -inf - -inf makes the row NaN.
  const T log_sum =
      std::log(row_sum<T>(padded, [&](int64_t k) { return fast_exp(log_g[k] - top); }));
  static_cast<T*>(args.log_total)[row] = top + log_sum;
  for (int64_t k = 0; k < K; ++k) {
    const T log_z = (log_g[k] - top) - log_sum;
    out[k] = log_z < T(-kNegligibleNats) ? T(0) : fast_exp(log_z);
  }
}

template <typename T>
void backward_row(const DirichletBackwardArgs& args, int64_t row) {
  const int64_t K = args.classes;
  const T* grad = static_cast<const T*>(args.grad_z) + row * K;
  const T* a = static_cast<const T*>(args.concentration) + row * K;
  const T* z = static_cast<const T*>(args.z) + row * K;
  T* out = static_cast<T*>(args.grad_concentration) + row * K;
  // Gradients are relative to that of the largest entry. Since z sums to 1, g_k - sum_j g_j z_j is
  // unchanged, and there is no cancellation for an entry close to 1. Entries of 0 contribute
  // nothing, whatever their gradient, which is infinite for a class with logit -inf.
  int64_t largest = 0;
  for (int64_t k = 1; k < K; ++k) largest = z[k] > z[largest] ? k : largest;
  const T anchor = grad[largest];
  T mean = T(0);
  for (int64_t k = 0; k < K; ++k) mean += keep_if(z[k] != T(0), z[k] * (grad[k] - anchor));
  const T log_total = static_cast<const T*>(args.log_total)[row];
  by_chunks(K, [&](int64_t k0, int64_t count) {
    T log_g[kRowChunk];
    for (int64_t i = 0; i < count; ++i) {
      log_g[i] =
          z[k0 + i] == T(0) ? -std::numeric_limits<T>::infinity() : fast_log(z[k0 + i]) + log_total;
    }
    T* w = out + k0;
    log_gamma_gradient_row(count, a + k0, log_g, w);
    for (int64_t i = 0; i < count; ++i) {
      const T through_z = z[k0 + i] * ((grad[k0 + i] - anchor) - mean);
      w[i] = keep_if(z[k0 + i] != T(0), through_z * w[i]);
    }
  });
}

}  // namespace

void dirichlet_rows(const DirichletArgs& args, int64_t begin, int64_t end, void* scratch) {
  const PhiloxCall call(args.rng_state, args.elements_per_row);
  for (int64_t row = begin; row < end; ++row) {
    args.dtype == Dtype::kFloat64 ? forward_row(args, call, row, static_cast<double*>(scratch))
                                  : forward_row(args, call, row, static_cast<float*>(scratch));
  }
}

void dirichlet_backward_rows(const DirichletBackwardArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    args.dtype == Dtype::kFloat64 ? backward_row<double>(args, row)
                                  : backward_row<float>(args, row);
  }
}

SPROUT_KERNEL_NAMESPACE_END
