// From a Dtype to the element type on the device.
#pragma once

#include "../../common/device_types.h"
#include "../../common/dtype.h"

namespace sprout_fast {

// Calls body(E{}) with the floating element type of `dtype`.
template <typename Body>
void with_device_type(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::kFloat16: return body(__half());
    case Dtype::kBFloat16: return body(__nv_bfloat16());
    case Dtype::kFloat64: return body(double());
    default: return body(float());
  }
}

// A kernel as a type, so that a generic function can be given one to launch.
template <auto kValue>
struct Constant {
  static constexpr auto value = kValue;
};

// The type of arithmetic on elements of type E.
template <typename E>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};

}  // namespace sprout_fast
