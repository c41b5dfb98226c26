// log_gamma on CPU: runs of consecutive variates (log_gamma_row.h).
#include "log_gamma_kernel.h"

#include "log_gamma_row.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

static_assert(kLogGammaRun % kRowChunk == 0, "chunks must begin where they do on one thread");

template <typename T>
void forward(const LogGammaArgs& args, int64_t begin, int64_t end) {
  const PhiloxCall call(args.rng_state, args.elements_per_row);
  const T* concentration = static_cast<const T*>(args.concentration) + begin;
  log_gamma_row(call, call.first_element + begin, end - begin, concentration,
                -std::numeric_limits<T>::infinity(), static_cast<T*>(args.log_g) + begin);
}

// The same as log_gamma_chain (log_gamma_args.h).
template <typename T>
void backward(const LogGammaBackwardArgs& args, int64_t begin, int64_t end) {
  const T infinity = std::numeric_limits<T>::infinity();
  const T* grad = static_cast<const T*>(args.grad) + begin;
  const T* concentration = static_cast<const T*>(args.concentration) + begin;
  const T* log_g = static_cast<const T*>(args.log_g) + begin;
  T* out = static_cast<T*>(args.grad_concentration) + begin;
  by_chunks(end - begin, [&](int64_t first, int64_t count) {
    T wanted[kRowChunk];
    for (int64_t j = 0; j < count; ++j) wanted[j] = log_g[first + j];
    for (int64_t j = 0; j < count; ++j) wanted[j] = grad[first + j] == T(0) ? -infinity : wanted[j];
    log_gamma_gradient_row(count, concentration + first, wanted, out + first);
    for (int64_t j = 0; j < count; ++j) {
      out[first + j] = keep_if(wanted[j] != -infinity, grad[first + j] * out[first + j]);
    }
  });
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
