// From the arguments of gaussian_mixup to what its kernels read, once for both devices.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "gaussian_mixup_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct GaussianMixupCall {
  std::optional<Tensor> partner, lam;
  Tensor rng_state, out;
  GaussianMixupArgs args;
};
SPROUT_EXPORT GaussianMixupCall prepare_gaussian_mixup(
    const Tensor& images, const std::optional<Tensor>& partner, const std::optional<Tensor>& lam,
    const Tensor& rng_state, const std::vector<double>& sigma, const std::vector<double>& mean,
    const std::vector<double>& std, const std::string& noise, ScalarType dtype);

struct GaussianMixupBackwardCall {
  Tensor grad, grad_images;
  std::optional<Tensor> partner, lam;
  GaussianMixupBackwardArgs args;
};
SPROUT_EXPORT GaussianMixupBackwardCall prepare_gaussian_mixup_backward(
    const Tensor& grad, const std::optional<Tensor>& partner, const std::optional<Tensor>& lam,
    const std::vector<double>& std, ScalarType dtype);

}  // namespace sprout_fast
