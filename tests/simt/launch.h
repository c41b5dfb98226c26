// Shared by launch_<op>.cpp; must be included after cuda_on_cpu.h.
#pragma once

#include "csrc/ops/cuda/dispatch.cuh"
#include "cuda_on_cpu.h"
#include "launches.h"

namespace simt {

inline dim3 or_else(const std::optional<std::array<unsigned, 3>>& asked, dim3 usual) {
  return asked ? dim3((*asked)[0], (*asked)[1], (*asked)[2]) : usual;
}

template <auto kernel, typename... Args>
void launch_as(const Shape& shape, Config config, const Args&... args) {
  config.grid = or_else(shape.grid, config.grid);
  config.block = or_else(shape.block, config.block);
  launch<kernel>(config, shape.seed, args...);
}

// Calls body(E{}) with the element type of `dtype`: any floating type, or float and double only.
// Planted mistakes are compiled for float32 only, which is fast.
template <typename Body>
void with_type(sprout_fast::Dtype dtype, Body body) {
#if defined(SIMT_ONLY_FLOAT)
  (void)dtype;
  body(float());
#else
  sprout_fast::with_device_type(dtype, body);
#endif
}
template <typename Body>
void with_wide_type(sprout_fast::Dtype dtype, Body body) {
#if !defined(SIMT_ONLY_FLOAT)
  if (dtype == sprout_fast::Dtype::kFloat64) return body(double());
#endif
  (void)dtype;
  body(float());
}

}  // namespace simt
