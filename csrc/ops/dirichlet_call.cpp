// Schema and argument checks of dirichlet.
#include "dirichlet_call.h"

#include <torch/csrc/stable/library.h>

#include "concentration.h"

namespace sprout_fast {
namespace {

int64_t check_classes(const char* op, const Tensor& concentration) {
  check_concentration(op, concentration);
  const int64_t last = concentration.dim() - 1;
  SPROUT_CHECK(last >= 0 && concentration.size(last) >= 1, op,
               "concentration must be [..., K] with K at least 1, got ", describe(concentration));
  return concentration.size(last);
}

}  // namespace

DirichletCall prepare_dirichlet(const Tensor& concentration, const Tensor& rng_state) {
  constexpr const char* op = "dirichlet";
  const int64_t classes = check_classes(op, concentration);
  check_rng_state(op, rng_state, concentration);
  std::vector<int64_t> shape = shape_of(concentration);
  const ScalarType dtype = concentration.scalar_type();
  Tensor z = empty(shape, dtype, concentration);
  shape.pop_back();
  DirichletCall call{
      dense(concentration), dense(rng_state), std::move(z), empty(shape, dtype, concentration), {}};
  if (concentration.is_cpu()) check_concentration_values(op, call.concentration);
  call.args = {to_dtype(dtype),
               call.concentration.const_data_ptr(),
               call.rng_state.const_data_ptr<int64_t>(),
               call.z.mutable_data_ptr(),
               call.log_total.mutable_data_ptr(),
               call.log_total.numel(),
               classes,
               elements_per_row(concentration)};
  return call;
}

DirichletBackwardCall prepare_dirichlet_backward(const Tensor& grad_z, const Tensor& concentration,
                                                 const Tensor& z, const Tensor& log_total) {
  constexpr const char* op = "dirichlet_backward";
  const int64_t classes = check_classes(op, concentration);
  const ScalarType dtype = concentration.scalar_type();
  std::vector<int64_t> shape = shape_of(concentration);
  check_tensor(op, "grad_z", grad_z, dtype, shape, "of concentration's dtype and shape",
               concentration);
  check_tensor(op, "z", z, dtype, shape, "what dirichlet returned", concentration);
  Tensor grad_concentration = empty(shape, dtype, concentration);
  shape.pop_back();
  check_tensor(op, "log_total", log_total, dtype, shape, "what dirichlet returned", concentration);
  DirichletBackwardCall call{dense(grad_z),    dense(concentration),          dense(z),
                             dense(log_total), std::move(grad_concentration), {}};
  call.args = {to_dtype(dtype),
               call.grad_z.const_data_ptr(),
               call.concentration.const_data_ptr(),
               call.z.const_data_ptr(),
               call.log_total.const_data_ptr(),
               call.grad_concentration.mutable_data_ptr(),
               log_total.numel(),
               classes};
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def("dirichlet(Tensor concentration, Tensor rng_state) -> (Tensor z, Tensor log_total)");
  m.def(
      "dirichlet_backward(Tensor grad_z, Tensor concentration, Tensor z, Tensor log_total) "
      "-> Tensor");
}

}  // namespace sprout_fast
