// From the rows' losses to the loss.
#pragma once

#include "../loss.h"

namespace sprout_fast {

// Row i's loss is row_stats[i, column], of `columns` columns.
template <typename T, typename Call>
Tensor reduce_losses_as(const Call& call, int64_t column, int64_t columns) {
  const auto& args = call.args;
  const T* values = static_cast<const T*>(args.row_stats) + column;
  const bool each = args.reduction == Reduction::kNone;
  Tensor loss = empty(loss_shape(args.reduction, args.batch), call.accumulate_dtype, call.logits);
  T* out = static_cast<T*>(loss.mutable_data_ptr());
  double total = 0;
  for (int64_t row = 0; row < args.batch; ++row) {
    const T value = values[row * columns];
    if (each) out[row] = value;
    total += value;
  }
  // An empty batch has no mean: 0 / 0 is NaN, as in torch.
  if (args.reduction == Reduction::kMean) total /= static_cast<double>(args.batch);
  if (!each) out[0] = static_cast<T>(total);
  return loss;
}

template <typename Call>
Tensor reduce_losses(const Call& call, int64_t column, int64_t columns) {
  return call.accumulate_dtype == ScalarType::Double
             ? reduce_losses_as<double>(call, column, columns)
             : reduce_losses_as<float>(call, column, columns);
}

}  // namespace sprout_fast
