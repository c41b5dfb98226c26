// meter_step_ on CPU: runs the kernel of the best instruction set over threads.
#include "../meter_step_call.h"

#include <algorithm>
#include <atomic>

#include "../entry.h"
#include "aligned_array.h"
#include "meter_step_kernel.h"

namespace sprout_fast {
namespace {

void meter_step_cpu(const MeterStepCall& call) {
  const MeterStepArgs& args = call.args;
  const auto kernel = SPROUT_BEST_KERNEL(meter_step_rows);
  const int64_t grain = std::max<int64_t>(1, 16384 / args.classes);
  std::atomic<int64_t> hits{0};
  torch::stable::parallel_for(0, args.batch, grain, [&](int64_t begin, int64_t end) {
    const auto scratch = aligned_zeros<double>(meter_step_scratch(args.classes));
    int64_t own = 0;
    kernel(args, begin, end, scratch.get(), &own);
    hits += own;
  });
  *args.hits += hits;
  meter_loss(args);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("meter_step_", SPROUT_ENTRY(prepare_meter_step, meter_step_cpu));
}

}  // namespace sprout_fast
