// Calls sprout_fast's ops from C++ through torch's dispatcher, with its stable ABI: a program
// compiled once runs with every later torch.
//
//   const auto [log_g] = sprout_fast::call_op<Tensor>("log_gamma", concentration, rng_state);
//
// Results and arguments must have exactly the types of the op's schema: torch::stable::Tensor,
// std::optional<torch::stable::Tensor>, int64_t, double, bool, std::string, std::vector. In Python,
// torch.ops.sprout_fast.log_gamma.default prints a schema.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>

namespace sprout_fast {

// Throws std::runtime_error for arguments that the op rejects.
template <typename... Results, typename... Args>
std::tuple<Results...> call_op(const std::string& name, const Args&... args) {
  // The results replace the arguments on the stack.
  std::array<StableIValue, std::max(sizeof...(Results), sizeof...(Args))> stack{
      torch::stable::detail::from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher(("sprout_fast::" + name).c_str(), "", stack.data(), TORCH_ABI_VERSION));
  // Braces, so that the results are converted once each, from left to right.
  size_t i = 0;
  return std::tuple<Results...>{torch::stable::detail::to<Results>(stack[i++])...};
}

}  // namespace sprout_fast
