// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/sprout_loss_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

namespace {

// Calls body(Logit{}, T{}), where T is the type of arithmetic and of row_stats.
template <typename Body>
void with_logits(const SproutLossArgs& args, Body body) {
  with_type(args.dtype,
            [&](auto logit) { body(logit, typename Accumulate<decltype(logit)>::type()); });
}

}  // namespace

SproutLossPlan sprout_loss_plan(const SproutLossArgs& args, int64_t max_shared_bytes) {
  SproutLossPlan plan;
  with_logits(args, [&](auto logit, auto t) {
    const auto rows = plan_sprout_loss_rows<decltype(logit), decltype(t)>(args, max_shared_bytes);
    plan.kept_groups = rows.keeps ? rows.grid.x : 0;
    plan.segments = rows.grid.y;
    plan.groups = plan_sprout_loss_grad<decltype(logit), decltype(t)>(args).groups;
  });
  return plan;
}

void sprout_loss_rows(const SproutLossArgs& args, void* segments, void* partial,
                      int64_t max_shared_bytes, const Shape& shape) {
  with_logits(args, [&](auto logit, auto t) {
    using Logit = decltype(logit);
    using T = decltype(t);
    const RowsPlan plan = plan_sprout_loss_rows<Logit, T>(args, max_shared_bytes);
    launch_as<sprout_loss_rows_kernel<Logit, T>>(shape, {plan.grid, plan.block, plan.shared_bytes},
                                                 args, static_cast<RowSums<T>*>(segments),
                                                 static_cast<T*>(partial));
  });
}

void sprout_loss_segments(const SproutLossArgs& args, const void* segments, int64_t count,
                          const Shape& shape) {
  with_logits(args, [&](auto logit, auto t) {
    using T = decltype(t);
    launch_as<sprout_loss_segments_kernel<decltype(logit), T>>(
        shape, {sprout_loss_segments_grid(args), kSegmentsThreads}, args,
        static_cast<const RowSums<T>*>(segments), count);
  });
}

void sprout_loss_grad(const SproutLossArgs& args, void* partial, const Shape& shape) {
  with_logits(args, [&](auto logit, auto t) {
    using Logit = decltype(logit);
    using T = decltype(t);
    const GradPlan plan = plan_sprout_loss_grad<Logit, T>(args);
    const auto launch_it = [&](auto sums_beta) {
      launch_as<sprout_loss_grad_kernel<Logit, T, decltype(sums_beta)::value>>(
          shape, {plan.grid, plan.block}, args, plan.rows, plan.classes, static_cast<T*>(partial));
    };
    partial != nullptr ? launch_it(std::true_type()) : launch_it(std::false_type());
  });
}

void sprout_loss_grad_beta(const SproutLossArgs& args, const void* partial, int64_t groups,
                           double factor, float* grad_beta, const Shape& shape) {
  with_logits(args, [&](auto, auto t) {
    using T = decltype(t);
    launch_as<sprout_loss_grad_beta_kernel<T>>(
        shape, {sprout_loss_grad_beta_grid(args), dim3(kGradBetaClasses, kGradBetaTeams)},
        static_cast<const T*>(partial), groups, args.classes, static_cast<T>(factor), grad_beta);
  });
}

void sprout_loss_finish(Dtype dtype, const SproutFinishArgs& args, const Shape& shape) {
  with_wide_type(dtype, [&](auto t) {
    launch_as<sprout_loss_finish_kernel<decltype(t)>>(shape, {1, kFinishThreads}, args);
  });
}

bool sprout_loss_finish_sums_groups(int64_t groups, int64_t classes) {
  return finish_sums_groups(groups, classes);
}

}  // namespace simt
