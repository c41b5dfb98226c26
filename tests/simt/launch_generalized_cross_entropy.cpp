// clang-format off
#include "cuda_on_cpu.h"
#include "csrc/ops/cuda/generalized_cross_entropy_kernel.cuh"
// clang-format on
#include "launch.h"

namespace simt {

using namespace sprout_fast;

namespace {

// Calls body(Logit{}, Target{}, T{}), where Target is int64_t for labels and T the type of
// arithmetic.
template <typename Body>
void with_types(const GeneralizedCrossEntropyArgs& args, Body body) {
  with_type(args.dtype, [&](auto logit) {
    using T = typename Accumulate<decltype(logit)>::type;
    if (args.labels != nullptr) {
      body(logit, int64_t(), T());
    } else {
      with_type(args.target_dtype, [&](auto target) { body(logit, target, T()); });
    }
  });
}

}  // namespace

void generalized_cross_entropy(const GeneralizedCrossEntropyArgs& args, const Shape& shape) {
  with_types(args, [&](auto logit, auto target, auto t) {
    launch_as<generalized_cross_entropy_kernel<decltype(logit), decltype(target), decltype(t)>>(
        shape, {cross_entropy_grid(args), cross_entropy_block(args)}, args);
  });
}

void generalized_cross_entropy_backward(const GeneralizedCrossEntropyArgs& args,
                                        const Shape& shape) {
  with_types(args, [&](auto logit, auto target, auto t) {
    launch_as<
        generalized_cross_entropy_backward_kernel<decltype(logit), decltype(target), decltype(t)>>(
        shape, {cross_entropy_backward_grid(args), cross_entropy_backward_block(args)}, args);
  });
}

}  // namespace simt
