// log_gamma on CPU: runs of neighbouring variates (log_gamma_row.h).
#include "log_gamma_kernel.h"

#include "log_gamma_row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

template <typename T>
void forward(const LogGammaArgs& args, int64_t begin, int64_t end) {
  const PhiloxBlocks call(PhiloxCall(args.rng_state, args.elements_a_row));
  const T* concentration = static_cast<const T*>(args.concentration);
  T* log_g = static_cast<T*>(args.log_g);
  T shapes[kGammaShapeArrays * kLogGammaRun];
  int32_t scratch[gamma_row_scratch(kLogGammaRun)];
  for (int64_t i = begin; i < end; i += kLogGammaRun) {
    const int64_t count = end - i < kLogGammaRun ? end - i : kLogGammaRun;
    const GammaRow<T> row = gamma_row(count, concentration + i, shapes, kLogGammaRun);
    log_gamma_row(call, call.first_element + i, count, row, -std::numeric_limits<T>::infinity(),
                  log_g + i, scratch);
  }
}

// As log_gamma_chain (ops/log_gamma.h).
template <typename T>
void backward(const LogGammaBackwardArgs& args, int64_t begin, int64_t end) {
  const T infinity = std::numeric_limits<T>::infinity();
  const T* grad = static_cast<const T*>(args.grad);
  const T* concentration = static_cast<const T*>(args.concentration);
  const T* log_g = static_cast<const T*>(args.log_g);
  T* out = static_cast<T*>(args.grad_concentration);
  T wanted[kLogGammaRun];
  for (int64_t i = begin; i < end; i += kLogGammaRun) {
    const int64_t count = end - i < kLogGammaRun ? end - i : kLogGammaRun;
    for (int64_t j = 0; j < count; ++j) wanted[j] = log_g[i + j];
    for (int64_t j = 0; j < count; ++j) wanted[j] = grad[i + j] == T(0) ? -infinity : wanted[j];
    log_gamma_gradient_row(count, concentration + i, wanted, -infinity, out + i);
    for (int64_t j = 0; j < count; ++j) out[i + j] *= grad[i + j];
  }
}

}  // namespace

void log_gamma_elements(const LogGammaArgs& args, int64_t begin, int64_t end) {
  args.dtype == Dtype::kFloat64 ? forward<double>(args, begin, end)
                                : forward<float>(args, begin, end);
}

void log_gamma_backward_elements(const LogGammaBackwardArgs& args, int64_t begin, int64_t end) {
  args.dtype == Dtype::kFloat64 ? backward<double>(args, begin, end)
                                : backward<float>(args, begin, end);
}

SPROUT_KERNEL_NAMESPACE_END
