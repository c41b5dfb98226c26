// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/log_gamma_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

void log_gamma(const LogGammaArgs& args, const Shape& shape) {
  with_wide_type(args.dtype, [&](auto t) {
    using T = decltype(t);
    launch_as<log_gamma_kernel<T>>(shape, {log_gamma_grid<T>(args.numel), kGammaThreads}, args);
  });
}

void log_gamma_backward(const LogGammaBackwardArgs& args, const Shape& shape) {
  with_wide_type(args.dtype, [&](auto t) {
    using T = decltype(t);
    launch_as<log_gamma_backward_kernel<T>>(
        shape, {log_gamma_backward_grid<T>(args.numel), kGammaThreads}, args);
  });
}

}  // namespace simt
