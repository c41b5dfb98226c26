// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/sprout_loss_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

namespace {

// body(Logit{}, T{}), T the type of arithmetic and of row_stats.
template <typename Body>
void with_logits(const SproutLossArgs& args, Body body) {
  with_type(args.dtype,
            [&](auto logit) { body(logit, typename Accumulate<decltype(logit)>::type()); });
}

}  // namespace

void sprout_loss_rows(const SproutLossArgs& args, const Shape& shape) {
  with_logits(args, [&](auto logit, auto t) {
    using Logit = decltype(logit);
    using T = decltype(t);
    const dim3 grid = sprout_loss_rows_grid(args), block = sprout_loss_rows_block(args);
    if (sprout_loss_takes_a_warp_a_row(args)) {
      launch_as(shape, sprout_loss_rows_kernel<Logit, T, 1>, grid, block, args);
    } else {
      launch_as(shape, sprout_loss_rows_kernel<Logit, T, kLossThreads / 32>, grid, block, args);
    }
  });
}

void sprout_loss_finish(const SproutLossArgs& args, void* loss, const Shape& shape) {
  with_logits(args, [&](auto, auto t) {
    using T = decltype(t);
    launch_as(shape, sprout_loss_finish_kernel<T>, 1, kLossThreads, args, static_cast<T*>(loss));
  });
}

void sprout_loss_grad_logits(const SproutLossArgs& args, const Shape& shape) {
  with_logits(args, [&](auto logit, auto t) {
    launch_as(shape, sprout_loss_grad_logits_kernel<decltype(logit), decltype(t)>,
              sprout_loss_grad_logits_grid(args), kLossThreads, args);
  });
}

int64_t grad_beta_groups(int64_t batch) { return sprout_loss_row_groups(batch); }

void sprout_loss_grad_beta(const SproutLossArgs& args, void* partial, const Shape& shape) {
  with_logits(args, [&](auto logit, auto t) {
    using T = decltype(t);
    launch_as(shape, sprout_loss_grad_beta_kernel<decltype(logit), T>,
              sprout_loss_grad_beta_grid(args), kLossThreads, args, static_cast<T*>(partial));
  });
}

void sprout_loss_grad_beta_finish(const SproutLossArgs& args, const void* partial, int64_t groups,
                                  double factor, float* grad_beta, const Shape& shape) {
  with_logits(args, [&](auto, auto t) {
    using T = decltype(t);
    launch_as(shape, sprout_loss_grad_beta_finish_kernel<T>, sprout_loss_grad_beta_grid(args).x,
              kLossThreads, static_cast<const T*>(partial), groups, args.classes,
              static_cast<T>(factor), grad_beta);
  });
}

}  // namespace simt
