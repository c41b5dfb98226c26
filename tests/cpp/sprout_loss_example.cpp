// SPROUT's loss in C++, called through torch's dispatcher with its stable ABI: a program compiled
// here runs with every later torch. Prints the loss and its gradient with respect to beta.
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
Tensor tensor(ScalarType dtype, const std::vector<int64_t>& shape, const std::vector<T>& values) {
  Tensor t = torch::stable::empty(shape, dtype);
  std::copy(values.begin(), values.end(), static_cast<T*>(t.mutable_data_ptr()));
  return t;
}

// Calls an op with the arguments of its schema (csrc/ops/<op>_call.cpp), of exactly these types.
// Returns a stack whose first entries are the results.
template <typename... Args>
std::array<StableIValue, sizeof...(Args)> call(const char* op, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{torch::stable::detail::from(args)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(op, "", stack.data(), TORCH_ABI_VERSION));
  return stack;
}

Tensor result(StableIValue value) { return torch::stable::detail::to<Tensor>(value); }

int main() {
  const Tensor logits = tensor<float>(ScalarType::Float, {2, 3}, {1, -2, 0.5, 0, 3, -1});
  const Tensor labels = tensor<int64_t>(ScalarType::Long, {2}, {0, 2});
  const std::optional<Tensor> partner_labels = tensor<int64_t>(ScalarType::Long, {2}, {2, 0});
  const std::optional<Tensor> lam = tensor<float>(ScalarType::Float, {1}, {0.75});
  const Tensor beta = tensor<float>(ScalarType::Float, {3}, {0.5, 1, 2});
  const Tensor rng_state = tensor<int64_t>(ScalarType::Long, {3}, {7, 1, 0});
  const double alpha = 0.5, scale = 2;
  const std::string label_mode = "sample", beta_grad = "implicit", reduction = "mean";
  const bool return_grad_beta = true, return_grad_logits = false;

  const auto results =
      call("sprout_fast::sprout_loss", logits, labels, partner_labels, lam, beta, rng_state, alpha,
           scale, label_mode, beta_grad, reduction, return_grad_beta, return_grad_logits);
  const Tensor loss = result(results[0]), by_beta = result(results[1]);
  // For sprout_loss_backward, and the gradient of the logits, empty here. All results must be
  // converted, which releases them.
  const Tensor row_stats = result(results[2]), by_logits = result(results[3]);

  std::printf("%.9g\n", *static_cast<const float*>(loss.const_data_ptr()));
  const float* gradient = static_cast<const float*>(by_beta.const_data_ptr());
  for (int k = 0; k < 3; ++k) std::printf("%.9g\n", gradient[k]);
}
