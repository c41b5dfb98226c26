// SPROUT's loss from C++: prints the loss and its gradient to beta, then the variates that
// log_gamma(beta, rng_state) draws, from the headers alone as in a kernel of one's own.
#include <sprout_fast/call_op.h>
#include <sprout_fast/common/gamma.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
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

  // The last two are for sprout_loss_backward, and the gradient to the logits, empty here.
  const auto [loss, grad_beta, row_stats, grad_logits] =
      sprout_fast::call_op<Tensor, Tensor, Tensor, Tensor>(
          "sprout_loss", logits, labels, partner_labels, lam, beta, rng_state, alpha, scale,
          label_mode, beta_grad, reduction, return_grad_beta, return_grad_logits);

  std::printf("%.9g\n", *static_cast<const float*>(loss.const_data_ptr()));
  const float* gradient = static_cast<const float*>(grad_beta.const_data_ptr());
  for (int k = 0; k < 3; ++k) std::printf("%.9g\n", gradient[k]);

  using namespace sprout_fast;
  const PhiloxCall random(static_cast<const int64_t*>(rng_state.const_data_ptr()), 3);
  const float* concentration = static_cast<const float*>(beta.const_data_ptr());
  for (int k = 0; k < 3; ++k) {
    std::printf("%.9g\n", log_gamma_variate(concentration[k], random, Stream::kGamma, k));
  }
}
