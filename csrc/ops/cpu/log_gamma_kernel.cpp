// log_gamma on CPU: blocks of neighbouring variates (log_gamma_block.h).
#include "log_gamma_kernel.h"

#include "log_gamma_block.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

template <typename T>
void forward(const LogGammaArgs& args, int64_t begin, int64_t end) {
  const PhiloxCall call(args.rng_state, args.elements_a_row);
  const T* concentration = static_cast<const T*>(args.concentration);
  T* log_g = static_cast<T*>(args.log_g);
  constexpr T kNothingIsNegligible = -std::numeric_limits<T>::infinity();
  int64_t i = begin;
  for (; i + kGammaLanes <= end; i += kGammaLanes) {
    log_gamma_block(call, call.first_element + i, concentration + i, kNothingIsNegligible,
                    log_g + i);
  }
  if (i < end) {
    T padded[kGammaLanes] = {}, out[kGammaLanes];
    for (int64_t j = 0; j < end - i; ++j) padded[j] = concentration[i + j];
    log_gamma_block(call, call.first_element + i, padded, kNothingIsNegligible, out);
    for (int64_t j = 0; j < end - i; ++j) log_g[i + j] = out[j];
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
