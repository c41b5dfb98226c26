// From the rows' losses to the loss: the launch of reduce_losses_kernel.
#pragma once

#include "../loss.h"
#include "launch.h"
#include "reduction_kernel.cuh"

namespace sprout_fast {

// Row i's loss is row_stats[i, column], of `columns` columns.
template <typename T, typename Call>
Tensor reduce_losses_as(const Call& call, int64_t column, int64_t columns, cudaStream_t stream) {
  const auto& args = call.args;
  Tensor loss = empty(loss_shape(args.reduction, args.batch), call.accumulate_dtype, call.logits);
  reduce_losses_kernel<T><<<1, kReductionThreads, 0, stream>>>(
      static_cast<const T*>(args.row_stats) + column, columns, args.batch, args.reduction,
      static_cast<T*>(loss.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return loss;
}

template <typename Call>
Tensor reduce_losses(const Call& call, int64_t column, int64_t columns, cudaStream_t stream) {
  return call.accumulate_dtype == ScalarType::Double
             ? reduce_losses_as<double>(call, column, columns, stream)
             : reduce_losses_as<float>(call, column, columns, stream);
}

}  // namespace sprout_fast
