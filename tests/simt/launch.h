// What the launch_<op>.cpp share. After cuda_on_cpu.h.
#pragma once

#include "csrc/ops/cuda/dispatch.cuh"
#include "cuda_on_cpu.h"
#include "launches.h"

namespace simt {

inline dim3 or_else(const std::optional<std::array<unsigned, 3>>& asked, dim3 usual) {
  return asked ? dim3((*asked)[0], (*asked)[1], (*asked)[2]) : usual;
}

template <typename... Params, typename... Args>
void launch_as(const Shape& shape, void (*kernel)(Params...), dim3 grid, dim3 block,
               const Args&... args) {
  launch(kernel, or_else(shape.grid, grid), or_else(shape.block, block), shape.seed, args...);
}

// Planted mistakes are compiled for float32 alone, which is fast.
template <typename Body>
void with_type(sprout_fast::Dtype dtype, Body body) {
#if defined(SIMT_ONLY_FLOAT)
  (void)dtype;
  body(float());
#else
  sprout_fast::with_device_type(dtype, body);
#endif
}

}  // namespace simt
