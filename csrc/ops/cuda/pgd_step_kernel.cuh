// pgd_step_ on CUDA, in one pass: dense tensors with 128-bit accesses, others element by element.
#pragma once

#include "../../common/device_types.h"
#include "../pgd_step_args.h"
#include "grid.cuh"

namespace sprout_fast {

constexpr int kPgdThreads = 256;

template <typename T, typename Grad>
constexpr int kPgdElements = kPacketElements<T, Grad>;  // per thread

template <typename T, typename Grad, typename Wide>
__device__ __forceinline__ void pgd_step_thread(const PgdStepArgs& args, int64_t first) {
  constexpr int N = kPgdElements<T, Grad>;
  const T step = static_cast<T>(args.step), eps = rounded_down<T>(args.eps);
  const T lower = static_cast<T>(args.lower), upper = static_cast<T>(args.upper);
  T* x_adv = static_cast<T*>(args.x_adv);
  const Grad* grad = static_cast<const Grad*>(args.grad);
  const T* x = static_cast<const T*>(args.x);
  if (args.is_flat()) {
    T moved[N], center[N];
    Wide gradient[N];
    load_packet(x_adv, first, 0, args.numel, T(0), moved);
    load_packet(grad, first, 0, args.numel, Wide(0), gradient);
    load_packet(x, first, 0, args.numel, T(0), center);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      moved[j] = linf_step(moved[j], gradient[j], center[j], step, eps, lower, upper);
    }
    store_packet(moved, first, 0, args.numel, x_adv);
    return;
  }
  for (int j = 0; j < N && first + j < args.numel; ++j) {
    int64_t offset0 = 0, offset1 = 0, offset2 = 0, rest = first + j;
    for (int d = args.dims - 1; d >= 0; --d) {
      const int64_t index = rest % args.size[d];
      rest /= args.size[d];
      offset0 += index * args.stride[0][d];
      offset1 += index * args.stride[1][d];
      offset2 += index * args.stride[2][d];
    }
    x_adv[offset0] = linf_step(x_adv[offset0], load_as<Wide>(grad[offset1]), x[offset2], step, eps,
                               lower, upper);
  }
}

template <typename T, typename Grad>
inline dim3 pgd_step_grid(const PgdStepArgs& args) {
  return grid_of(ceil_div(args.numel, kPgdElements<T, Grad> * kPgdThreads));
}
// Wide is the type, float or double, that holds a Grad exactly.
template <typename T, typename Grad, typename Wide>
__global__ void __launch_bounds__(kPgdThreads)
    pgd_step_kernel(const __grid_constant__ PgdStepArgs args) {
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kPgdElements<T, Grad>;
  if (first < args.numel) pgd_step_thread<T, Grad, Wide>(args, first);
}

}  // namespace sprout_fast
