// meter_step_ on CUDA: a row per warp.
#pragma once

#include <limits>

#include "../meter_step_args.h"
#include "row.cuh"

namespace sprout_fast {

constexpr int kMeterRows = 8;  // per block
inline dim3 meter_step_grid(const MeterStepArgs& args) {
  return grid_of(std::max<int64_t>(1, ceil_div(args.batch, kMeterRows)));
}

// The largest value so far and its class. A NaN counts as the largest; of equal ones, the first.
template <typename T>
struct Predicted {
  T value;
  int64_t index;

  __device__ __forceinline__ void combine(const Predicted& o) {
    const bool nan = value != value, other_nan = o.value != o.value;
    const bool equal = value == o.value || (nan && other_nan);
    const bool other = equal ? o.index < index : other_nan || (!nan && o.value > value);
    if (other) *this = o;
  }
};

template <typename Logit, typename T>
__global__ void __launch_bounds__(32 * kMeterRows)
    meter_step_kernel(const __grid_constant__ MeterStepArgs args) {
  constexpr int N = kPacket<Logit>;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMeterRows + threadIdx.y;
  const int64_t K = args.classes;
  if (row == 0 && threadIdx.x == 0) meter_loss(args);
  if (row >= args.batch) return;
  const T nothing = -std::numeric_limits<T>::infinity();
  const RowPackets<N> packets(row * K, K);
  Predicted<T> predicted{nothing, K};
  for (int64_t p = threadIdx.x; p < packets.count; p += 32) {
    const int64_t k = packets.begin(p);
    T logit[N];
    load_packet(static_cast<const Logit*>(args.logits) + row * K, k, 0, K, nothing, logit);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (k + j >= 0 && k + j < K) predicted.combine({logit[j], k + j});
    }
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    predicted.combine({__shfl_xor_sync(0xffffffffu, predicted.value, mask),
                       __shfl_xor_sync(0xffffffffu, predicted.index, mask)});
  }
  if (threadIdx.x != 0) return;
  const auto hit = static_cast<unsigned long long>(meter_hit(args, row, predicted.index));
  if (hit != 0) atomicAdd(reinterpret_cast<unsigned long long*>(args.hits), hit);
}

}  // namespace sprout_fast
