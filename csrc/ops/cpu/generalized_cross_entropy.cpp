// generalized_cross_entropy on CPU: runs the kernel of the best instruction set over threads.
#include "../generalized_cross_entropy_call.h"

#include <algorithm>
#include <tuple>

#include "../entry.h"
#include "aligned_array.h"
#include "generalized_cross_entropy_kernel.h"
#include "reduce_losses.h"

namespace sprout_fast {
namespace {

using Args = GeneralizedCrossEntropyArgs;

void run_rows(const Args& args, void (*kernel)(const Args&, int64_t, int64_t, void*)) {
  // Rows per task: a few thousand exponentials.
  const int64_t grain = std::max<int64_t>(1, 8192 / args.classes);
  torch::stable::parallel_for(0, args.batch, grain, [&](int64_t begin, int64_t end) {
    // Doubles have room for either type.
    const auto scratch = aligned_zeros<double>(generalized_cross_entropy_scratch(args.classes));
    kernel(args, begin, end, scratch.get());
  });
}

std::tuple<Tensor, Tensor, Tensor> generalized_cross_entropy_cpu(
    const GeneralizedCrossEntropyCall& call) {
  run_rows(call.args, SPROUT_BEST_KERNEL(generalized_cross_entropy_rows));
  return {reduce_losses(call, CrossEntropyStat::kLoss, CrossEntropyStat::kCount), call.row_stats,
          call.grad_logits};
}

std::tuple<Tensor, Tensor> generalized_cross_entropy_backward_cpu(
    const GeneralizedCrossEntropyCall& call) {
  run_rows(call.args, SPROUT_BEST_KERNEL(generalized_cross_entropy_backward_rows));
  return {call.grad_logits, *call.grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("generalized_cross_entropy",
         SPROUT_ENTRY(prepare_generalized_cross_entropy, generalized_cross_entropy_cpu));
  m.impl("generalized_cross_entropy_backward",
         SPROUT_ENTRY(prepare_generalized_cross_entropy_backward,
                      generalized_cross_entropy_backward_cpu));
}

}  // namespace sprout_fast
