// Python bindings of the harness: the argument structs, which tests/simt/harness.py fills with
// addresses, and one function per launch.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "launches.h"

namespace py = pybind11;
using namespace sprout_fast;

namespace {

// Binds a member: numbers directly, pointers as addresses, enums as numbers, arrays as lists.
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
    using Args = SampleMixupArgs;
    auto binding = record<Args>(m, "SampleMixupArgs");
    FIELD(rng_state), FIELD(partner), FIELD(lam), FIELD(batch), FIELD(lams), FIELD(per_sample);
    FIELD(mixup_alpha), FIELD(first_row), FIELD(labels), FIELD(partner_labels), FIELD(rng);
    FIELD(used_rng);
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
    FIELD(classes), FIELD(alpha), FIELD(scale), FIELD(label_mode), FIELD(beta_grad);
    FIELD(reduction), FIELD(wants_grad_beta), FIELD(wants_mean), FIELD(grad_loss);
    FIELD(grad_logits), FIELD(first_row);
  }
  {
    using Args = SproutFinishArgs;
    auto binding = record<Args>(m, "SproutFinishArgs");
    FIELD(classes), FIELD(beta), FIELD(row_stats), FIELD(loss), FIELD(batch), FIELD(rng);
    FIELD(first_row), FIELD(used_rng), FIELD(used_beta), FIELD(partial), FIELD(summed);
    FIELD(groups), FIELD(factor), FIELD(weight), FIELD(grad_sum), FIELD(steps), FIELD(velocity);
    FIELD(lr_factor);
    binding.def("set_step", [](Args& args, const std::vector<float>& step) {
      if (step.size() != 6) throw std::invalid_argument("a step has six numbers");
      args.step = {step[0], step[1], step[2], step[3], step[4], step[5]};
    });
  }
  {
    using Args = MeterStepArgs;
    auto binding = record<Args>(m, "MeterStepArgs");
    FIELD(dtype), FIELD(logits), FIELD(labels), FIELD(partner_labels), FIELD(lam);
    FIELD(lam_stride), FIELD(batch), FIELD(classes), FIELD(loss_dtype), FIELD(loss);
    FIELD(loss_sum), FIELD(hits), FIELD(bad_step), FIELD(step);
  }
  {
    using Args = LogGammaArgs;
    auto binding = record<Args>(m, "LogGammaArgs");
    FIELD(dtype), FIELD(concentration), FIELD(rng_state), FIELD(log_g), FIELD(numel);
    FIELD(elements_per_row);
  }
  {
    using Args = LogGammaBackwardArgs;
    auto binding = record<Args>(m, "LogGammaBackwardArgs");
    FIELD(dtype), FIELD(grad), FIELD(concentration), FIELD(log_g), FIELD(grad_concentration);
    FIELD(numel);
  }
  {
    using Args = DirichletArgs;
    auto binding = record<Args>(m, "DirichletArgs");
    FIELD(dtype), FIELD(concentration), FIELD(rng_state), FIELD(z), FIELD(log_total), FIELD(rows);
    FIELD(classes), FIELD(elements_per_row);
  }
  {
    using Args = DirichletBackwardArgs;
    auto binding = record<Args>(m, "DirichletBackwardArgs");
    FIELD(dtype), FIELD(grad_z), FIELD(concentration), FIELD(z), FIELD(log_total);
    FIELD(grad_concentration), FIELD(rows), FIELD(classes);
  }
  {
    using Args = GeneralizedCrossEntropyArgs;
    auto binding = record<Args>(m, "GeneralizedCrossEntropyArgs");
    FIELD(dtype), FIELD(target_dtype), FIELD(logits), FIELD(labels), FIELD(probabilities);
    FIELD(row_stats), FIELD(batch), FIELD(classes), FIELD(smoothing), FIELD(reduction);
    FIELD(grad_loss), FIELD(grad_logits), FIELD(grad_target);
  }
  {
    using Args = PgdStepArgs;
    auto binding = record<Args>(m, "PgdStepArgs");
    FIELD(dtype), FIELD(grad_dtype), FIELD(x_adv), FIELD(grad), FIELD(x), FIELD(numel), FIELD(dims);
    FIELD(size), FIELD(step), FIELD(eps), FIELD(lower), FIELD(upper);
    binding.def("set_strides", [](Args& args, int tensor, const std::vector<int64_t>& strides) {
      if (strides.size() > kMaxPgdDims) throw std::invalid_argument("too many strides");
      std::copy(strides.begin(), strides.end(), args.stride[tensor]);
    });
  }
#undef FIELD
  {
    auto plan = record<simt::SproutLossPlan>(m, "SproutLossPlan");
    field(plan, "kept_groups", &simt::SproutLossPlan::kept_groups);
    field(plan, "segments", &simt::SproutLossPlan::segments);
    field(plan, "groups", &simt::SproutLossPlan::groups);
  }
  m.attr("ROW_STATS") = static_cast<int>(kRowStats);
  m.attr("CROSS_ENTROPY_STATS") = static_cast<int>(CrossEntropyStat::kCount);
  m.attr("LOSS_STAT") = static_cast<int>(kLoss);
  m.attr("CROSS_ENTROPY_LOSS_STAT") = static_cast<int>(CrossEntropyStat::kLoss);

  m.def("take_launched", [] { return std::exchange(simt::launched(), {}); });
  m.def("start_traffic", &simt::start_traffic);
  m.def("take_traffic", [] {
    const simt::Traffic traffic = simt::take_traffic();
    return py::dict(
        py::arg("loads") = py::make_tuple(traffic.loads.touched, traffic.loads.needed),
        py::arg("stores") = py::make_tuple(traffic.stores.touched, traffic.stores.needed));
  });
  m.def("sample_mixup", &simt::sample_mixup);
  m.def("gaussian_mixup", &simt::gaussian_mixup);
  m.def("gaussian_mixup_blocks", &simt::gaussian_mixup_blocks);
  m.def("gaussian_mixup_backward", &simt::gaussian_mixup_backward);
  m.def("log_gamma", &simt::log_gamma);
  m.def("log_gamma_backward", &simt::log_gamma_backward);
  m.def("dirichlet", &simt::dirichlet);
  m.def("dirichlet_backward", &simt::dirichlet_backward);
  m.def("pgd_step", &simt::pgd_step);
  m.def("meter_step", &simt::meter_step);
  m.def("generalized_cross_entropy", &simt::generalized_cross_entropy);
  m.def("generalized_cross_entropy_backward", &simt::generalized_cross_entropy_backward);
  m.def("reduce_losses", [](int dtype, uintptr_t values, int64_t stride, int64_t batch,
                            int reduction, uintptr_t loss, const simt::Shape& shape) {
    simt::reduce_losses(static_cast<Dtype>(dtype), pointer(values), stride, batch,
                        static_cast<Reduction>(reduction), pointer(loss), shape);
  });
  m.def("sprout_loss_plan", &simt::sprout_loss_plan);
  m.def("sprout_loss_rows", [](const SproutLossArgs& args, uintptr_t segments, uintptr_t partial,
                               int64_t max_shared_bytes, const simt::Shape& shape) {
    simt::sprout_loss_rows(args, pointer(segments), pointer(partial), max_shared_bytes, shape);
  });
  m.def("sprout_loss_segments", [](const SproutLossArgs& args, uintptr_t segments, int64_t count,
                                   const simt::Shape& shape) {
    simt::sprout_loss_segments(args, pointer(segments), count, shape);
  });
  m.def("sprout_loss_grad",
        [](const SproutLossArgs& args, uintptr_t partial, const simt::Shape& shape) {
          simt::sprout_loss_grad(args, pointer(partial), shape);
        });
  m.def("sprout_loss_grad_beta", [](const SproutLossArgs& args, uintptr_t partial, int64_t groups,
                                    double factor, uintptr_t grad_beta, const simt::Shape& shape) {
    simt::sprout_loss_grad_beta(args, pointer(partial), groups, factor,
                                static_cast<float*>(pointer(grad_beta)), shape);
  });
  m.def("sprout_loss_finish",
        [](int dtype, const SproutFinishArgs& args, const simt::Shape& shape) {
          simt::sprout_loss_finish(static_cast<Dtype>(dtype), args, shape);
        });
  m.def("sprout_loss_finish_sums_groups", &simt::sprout_loss_finish_sums_groups);
}
