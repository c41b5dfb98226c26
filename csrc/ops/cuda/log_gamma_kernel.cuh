// log_gamma on CUDA: one packet of consecutive elements per thread.
#pragma once

#include "../log_gamma_args.h"
#include "gamma_packet.cuh"
#include "row.cuh"

namespace sprout_fast {

constexpr int kGammaThreads = 128;

// One packet more than the elements fill, in case they do not begin at a Philox group.
template <typename T>
dim3 log_gamma_grid(int64_t numel) {
  return grid_of(ceil_div(ceil_div(numel, kPacket<T>) + 1, kGammaThreads));
}
template <typename T>
__global__ void __launch_bounds__(kGammaThreads)
    log_gamma_kernel(const __grid_constant__ LogGammaArgs args) {
  constexpr int N = kPacket<T>;
  const PhiloxCall call(args.rng_state, args.elements_per_row);
  const RowPackets<N> packets(call.first_element, args.numel);
  const int64_t packet = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (packet >= packets.count) return;
  const int64_t k = packets.begin(packet);
  T a[N], log_g[N];
  load_packet(static_cast<const T*>(args.concentration), k, 0, args.numel, T(0), a);
  log_gamma_packet(a, call, call.first_element + k, -std::numeric_limits<T>::infinity(), log_g);
  store_packet(log_g, k, 0, args.numel, static_cast<T*>(args.log_g));
}

template <typename T>
dim3 log_gamma_backward_grid(int64_t numel) {
  return grid_of(ceil_div(ceil_div(numel, kPacket<T>), kGammaThreads));
}
template <typename T>
__global__ void __launch_bounds__(kGammaThreads)
    log_gamma_backward_kernel(const __grid_constant__ LogGammaBackwardArgs args) {
  constexpr int N = kPacket<T>;
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (k >= args.numel) return;
  T grad[N], a[N], log_g[N];
  load_packet(static_cast<const T*>(args.grad), k, 0, args.numel, T(0), grad);
  load_packet(static_cast<const T*>(args.concentration), k, 0, args.numel, T(0), a);
  load_packet(static_cast<const T*>(args.log_g), k, 0, args.numel, T(0), log_g);
#pragma unroll 1
  for (int j = 0; j < N; ++j) {  // keep a single copy of the series in the code
    put(grad, j, log_gamma_chain(pick(grad, j), pick(a, j), pick(log_g, j)));
  }
  store_packet(grad, k, 0, args.numel, static_cast<T*>(args.grad_concentration));
}

}  // namespace sprout_fast
