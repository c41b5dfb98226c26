// Python's way to the harness: the POD argument structs, filled by tests/simt/harness.py with
// addresses, and one function a launch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "launches.h"

namespace py = pybind11;
using namespace sprout_fast;

namespace {

// Binds one member: numbers as they are, pointers as addresses, enums as their numbers, arrays from
// lists.
template <typename Struct, typename Member>
void field(py::class_<Struct>& binding, const char* name, Member Struct::* member) {
  if constexpr (std::is_pointer_v<Member>) {
    binding.def_property(
        name, [member](const Struct& s) { return reinterpret_cast<uintptr_t>(s.*member); },
        [member](Struct& s, uintptr_t address) { s.*member = reinterpret_cast<Member>(address); });
  } else if constexpr (std::is_enum_v<Member>) {
    binding.def_property(
        name, [member](const Struct& s) { return static_cast<int>(s.*member); },
        [member](Struct& s, int value) { s.*member = static_cast<Member>(value); });
  } else if constexpr (std::is_array_v<Member>) {
    using Element = std::remove_extent_t<Member>;
    binding.def_property(
        name,
        [member](const Struct& s) {
          return std::vector<Element>(std::begin(s.*member), std::end(s.*member));
        },
        [member](Struct& s, const std::vector<Element>& values) {
          if (values.size() > std::extent_v<Member>) throw std::invalid_argument("too many values");
          std::copy(values.begin(), values.end(), std::begin(s.*member));
        });
  } else {
    binding.def_readwrite(name, member);
  }
}

// module_local: the tests load several builds of this module into one process.
template <typename Struct>
py::class_<Struct> record(py::module_& m, const char* name) {
  return py::class_<Struct>(m, name, py::module_local()).def(py::init([] { return Struct{}; }));
}

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

PYBIND11_MODULE(_simt, m) {
  auto shape = record<simt::Shape>(m, "Shape");
  field(shape, "seed", &simt::Shape::seed);
  field(shape, "grid", &simt::Shape::grid);
  field(shape, "block", &simt::Shape::block);

#define FIELD(name) field(binding, #name, &Args::name)
  {
    using Args = DrawMixupArgs;
    auto binding = record<Args>(m, "DrawMixupArgs");
    FIELD(rng_state), FIELD(partner), FIELD(lam), FIELD(batch), FIELD(lams), FIELD(per_sample);
    FIELD(a);
  }
  {
    using Args = GaussianMixupArgs;
    auto binding = record<Args>(m, "GaussianMixupArgs");
    FIELD(image_dtype), FIELD(out_dtype), FIELD(images), FIELD(stride), FIELD(partner), FIELD(lam);
    FIELD(lam_stride), FIELD(rng_state), FIELD(out), FIELD(batch), FIELD(channels), FIELD(height);
    FIELD(width), FIELD(noise), FIELD(paired), FIELD(pixel_scale), FIELD(sigma), FIELD(mean);
    FIELD(inv_std);
  }
  {
    using Args = GaussianMixupBackwardArgs;
    auto binding = record<Args>(m, "GaussianMixupBackwardArgs");
    FIELD(grad_dtype), FIELD(image_dtype), FIELD(grad), FIELD(partner), FIELD(lam);
    FIELD(lam_stride), FIELD(grad_images), FIELD(batch), FIELD(channels), FIELD(pixels);
    FIELD(inv_std);
  }
  {
    using Args = SproutLossArgs;
    auto binding = record<Args>(m, "SproutLossArgs");
    FIELD(dtype), FIELD(logits), FIELD(labels), FIELD(partner_labels), FIELD(lam);
    FIELD(lam_stride), FIELD(beta), FIELD(rng_state), FIELD(row_stats), FIELD(batch);
    FIELD(classes), FIELD(alpha), FIELD(scale), FIELD(labels_from), FIELD(beta_grad);
    FIELD(reduction), FIELD(wants_grad_beta), FIELD(wants_mean), FIELD(grad_loss);
    FIELD(grad_logits);
  }
#undef FIELD
  m.attr("ROW_STATS") = static_cast<int>(kRowStats);

  m.def("draw_mixup", &simt::draw_mixup);
  m.def("gaussian_mixup", &simt::gaussian_mixup);
  m.def("gaussian_mixup_backward", &simt::gaussian_mixup_backward);
  m.def("sprout_loss_rows", &simt::sprout_loss_rows);
  m.def("sprout_loss_finish",
        [](const SproutLossArgs& args, uintptr_t loss, const simt::Shape& shape) {
          simt::sprout_loss_finish(args, pointer(loss), shape);
        });
  m.def("sprout_loss_grad_logits", &simt::sprout_loss_grad_logits);
  m.def("grad_beta_groups", &simt::grad_beta_groups);
  m.def("sprout_loss_grad_beta",
        [](const SproutLossArgs& args, uintptr_t partial, const simt::Shape& shape) {
          simt::sprout_loss_grad_beta(args, pointer(partial), shape);
        });
  m.def("sprout_loss_grad_beta_finish",
        [](const SproutLossArgs& args, uintptr_t partial, int64_t groups, double factor,
           uintptr_t grad_beta, const simt::Shape& shape) {
          simt::sprout_loss_grad_beta_finish(args, pointer(partial), groups, factor,
                                             static_cast<float*>(pointer(grad_beta)), shape);
        });
}
