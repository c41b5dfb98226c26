// log_gamma on CPU: runs of neighbouring variates (log_gamma_row.h).
#include "log_gamma_kernel.h"

#include "log_gamma_row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

template <typename T>
void forward(const LogGammaArgs& args, int64_t begin, int64_t end) {
  const PhiloxCall call(args.rng_state, args.elements_a_row);
  const T* concentration = static_cast<const T*>(args.concentration);
  T* log_g = static_cast<T*>(args.log_g);
  constexpr T kNothingIsNegligible = -std::numeric_limits<T>::infinity();
  constexpr int64_t kRun = 1024;
  int32_t pending[kRun];
  for (int64_t i = begin; i < end; i += kRun) {
    const int64_t count = end - i < kRun ? end - i : kRun;
    log_gamma_row(call, call.first_element + i, count, concentration + i, kNothingIsNegligible,
                  log_g + i, pending);
  }
}

template <typename T>
void backward(const LogGammaBackwardArgs& args, int64_t begin, int64_t end) {
  const T* grad = static_cast<const T*>(args.grad);
  const T* concentration = static_cast<const T*>(args.concentration);
  const T* log_g = static_cast<const T*>(args.log_g);
  T* out = static_cast<T*>(args.grad_concentration);
  for (int64_t i = begin; i < end; ++i) {
    out[i] = log_gamma_chain(grad[i], concentration[i], log_g[i]);
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
