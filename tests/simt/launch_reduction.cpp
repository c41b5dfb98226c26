// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/reduction_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void reduce_losses(Dtype dtype, const void* values, int64_t stride, int64_t batch,
                   Reduction reduction, void* loss, const Shape& shape) {
  with_wide_type(dtype, [&](auto t) {
    using T = decltype(t);
    launch_as<reduce_losses_kernel<T>>(shape, {1, kReductionThreads}, static_cast<const T*>(values),
                                       stride, batch, reduction, static_cast<T*>(loss));
  });
}

}  // namespace simt
