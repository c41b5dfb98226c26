// dirichlet on CPU: runs the kernel of the best instruction set over threads.
#include "../dirichlet_call.h"

#include <algorithm>
#include <tuple>

#include "../entry.h"
#include "aligned_array.h"
#include "dirichlet_kernel.h"
#include "parallel.h"

namespace sprout_fast {
namespace {

// Rows per task: a few thousand variates.
int64_t grain(int64_t classes) { return std::max<int64_t>(1, 4096 / classes); }

std::tuple<Tensor, Tensor> dirichlet_cpu(const DirichletCall& call) {
  const DirichletArgs& args = call.args;
  const auto kernel = SPROUT_BEST_KERNEL(dirichlet_rows);
  parallel_in_turn(args.rows, grain(args.classes), [&] {
    // Doubles have room for either dtype.
    return [&, scratch = aligned_zeros<double>(dirichlet_scratch(args.classes))](
               int64_t begin, int64_t end) { kernel(args, begin, end, scratch.get()); };
  });
  return {call.z, call.log_total};
}

Tensor dirichlet_backward_cpu(const DirichletBackwardCall& call) {
  const auto kernel = SPROUT_BEST_KERNEL(dirichlet_backward_rows);
  parallel_in_turn(call.args.rows, grain(call.args.classes), [&] {
    return [&](int64_t begin, int64_t end) { kernel(call.args, begin, end); };
  });
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("dirichlet", SPROUT_ENTRY(prepare_dirichlet, dirichlet_cpu));
  m.impl("dirichlet_backward", SPROUT_ENTRY(prepare_dirichlet_backward, dirichlet_backward_cpu));
}

}  // namespace sprout_fast
