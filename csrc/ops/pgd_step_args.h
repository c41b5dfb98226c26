// Arguments of pgd_step_'s kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"
#include "../common/linf.h"

namespace sprout_fast {

constexpr int kMaxPgdDims = 12;

// The tensors as nested loops, outermost first. Dimensions are sorted by the strides of x_adv, and
// merged if they are contiguous in all three tensors: dense tensors of one layout become one
// dimension.
struct PgdStepArgs {
  Dtype dtype, grad_dtype;  // float32 or float64 for x_adv and x; any floating dtype for grad
  void* x_adv;
  const void* grad;
  const void* x;
  int64_t numel;
  int32_t dims;
  int64_t size[kMaxPgdDims];
  int64_t stride[3][kMaxPgdDims];  // of x_adv, grad, x, in elements
  double step, eps, lower, upper;

  // Whether the tensors are dense and of one layout.
  SPROUT_HOST_DEVICE bool is_flat() const {
    return dims == 1 && stride[0][0] == 1 && stride[1][0] == 1 && stride[2][0] == 1;
  }
};

}  // namespace sprout_fast
