// What pgd_step_'s checks hand to its kernels, on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/linf.h"

namespace sprout_fast {

constexpr int kMaxPgdDims = 12;

// The tensors as nests of loops, outermost first: dimensions in the order of x_adv's strides, those
// that are one run in all three tensors merged. Dense tensors of one layout become one dimension.
struct PgdStepArgs {
  Dtype dtype, grad_dtype;  // of x_adv and x: float32 or float64; of grad: any floating
  void* x_adv;
  const void* grad;
  const void* x;
  int64_t numel;
  int32_t dims;
  int64_t size[kMaxPgdDims];
  int64_t stride[3][kMaxPgdDims];  // of x_adv, grad, x, in elements
  double step, eps, lower, upper;

  // One dense run.
  SPROUT_HOST_DEVICE bool is_flat() const {
    return dims == 1 && stride[0][0] == 1 && stride[1][0] == 1 && stride[2][0] == 1;
  }
};

}  // namespace sprout_fast
