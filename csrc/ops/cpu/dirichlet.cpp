// dirichlet on CPU: from checked tensors to the kernel of the processor's instruction set.
#include "../dirichlet_call.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "dirichlet_kernel.h"
#include "parallel.h"

namespace sprout_fast {
namespace {

// Rows that are worth a thread: some thousand variates.
int64_t grain(int64_t classes) { return std::max<int64_t>(1, 4096 / classes); }

std::tuple<Tensor, Tensor> dirichlet_cpu(const Tensor& concentration, const Tensor& rng_state) {
  const DirichletCall call = prepare_dirichlet(concentration, rng_state);
  const DirichletArgs& args = call.args;
  const auto kernel = SPROUT_BEST_KERNEL(dirichlet_rows);
  parallel_in_turn(args.rows, grain(args.classes), [&] {
    // Doubles: room for either dtype.
    return [&, scratch = std::vector<double>(dirichlet_scratch(args.classes))](
               int64_t begin, int64_t end) mutable { kernel(args, begin, end, scratch.data()); };
  });
  return {call.z, call.log_total};
}

Tensor dirichlet_backward_cpu(const Tensor& grad_z, const Tensor& concentration, const Tensor& z,
                              const Tensor& log_total) {
  const DirichletBackwardCall call =
      prepare_dirichlet_backward(grad_z, concentration, z, log_total);
  const auto kernel = SPROUT_BEST_KERNEL(dirichlet_backward_rows);
  parallel_in_turn(call.args.rows, grain(call.args.classes), [&] {
    return [&](int64_t begin, int64_t end) { kernel(call.args, begin, end); };
  });
  return call.grad_concentration;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("dirichlet", TORCH_BOX(&dirichlet_cpu));
  m.impl("dirichlet_backward", TORCH_BOX(&dirichlet_backward_cpu));
}

}  // namespace sprout_fast
