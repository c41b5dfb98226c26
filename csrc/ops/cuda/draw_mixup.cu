// Launch of draw_mixup.
#include "../draw_mixup_args.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "draw_mixup_kernel.cuh"
#include "launch.h"

namespace sprout_fast {
namespace {

std::tuple<Tensor, Tensor> draw_mixup_cuda(const Tensor& rng_state, int64_t batch, double a,
                                           bool per_sample) {
  const torch::stable::accelerator::DeviceGuard guard(rng_state.get_device_index());
  const DrawMixupCall call = prepare_draw_mixup(rng_state, batch, a, per_sample);
  if (draw_mixup_entries(call.args) > 0) {
    draw_mixup_kernel<<<draw_mixup_grid(call.args), kDrawMixupThreads, 0,
                        current_stream(rng_state)>>>(call.args);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return {call.partner, call.lam};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CUDA, m) {
  m.impl("draw_mixup", TORCH_BOX(&draw_mixup_cuda));
}

}  // namespace sprout_fast
