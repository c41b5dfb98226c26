// Schema and argument checks of log_gamma.
#include "log_gamma_call.h"

#include <torch/csrc/stable/library.h>

#include "concentration.h"

namespace sprout_fast {

LogGammaCall prepare_log_gamma(const Tensor& concentration, const Tensor& rng_state) {
  constexpr const char* op = "log_gamma";
  check_concentration(op, concentration);
  check_rng_state(op, rng_state, concentration);
  LogGammaCall call{dense(concentration),
                    dense(rng_state),
                    empty(shape_of(concentration), concentration.scalar_type(), concentration),
                    {}};
  if (concentration.is_cpu()) check_concentration_values(op, call.concentration);
  call.args = {to_dtype(concentration.scalar_type()),
               call.concentration.const_data_ptr(),
               call.rng_state.const_data_ptr<int64_t>(),
               call.log_g.mutable_data_ptr(),
               concentration.numel(),
               elements_per_row(concentration)};
  return call;
}

LogGammaBackwardCall prepare_log_gamma_backward(const Tensor& grad, const Tensor& concentration,
                                                const Tensor& log_g) {
  constexpr const char* op = "log_gamma_backward";
  check_concentration(op, concentration);
  const std::vector<int64_t> shape = shape_of(concentration);
  const ScalarType dtype = concentration.scalar_type();
  check_tensor(op, "grad", grad, dtype, shape, "of concentration's dtype and shape", concentration);
  check_tensor(op, "log_g", log_g, dtype, shape, "what log_gamma returned", concentration);
  LogGammaBackwardCall call{
      dense(grad), dense(concentration), dense(log_g), empty(shape, dtype, concentration), {}};
  call.args = {to_dtype(dtype),
               call.grad.const_data_ptr(),
               call.concentration.const_data_ptr(),
               call.log_g.const_data_ptr(),
               call.grad_concentration.mutable_data_ptr(),
               concentration.numel()};
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def("log_gamma(Tensor concentration, Tensor rng_state) -> Tensor");
  m.def("log_gamma_backward(Tensor grad, Tensor concentration, Tensor log_g) -> Tensor");
}

}  // namespace sprout_fast
