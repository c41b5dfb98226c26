// Schema and argument checks of gaussian_mixup.
#include "gaussian_mixup_call.h"

#include <torch/csrc/stable/library.h>

#include <cmath>

namespace sprout_fast {
namespace {

using torch::headeronly::MemoryFormat;

void check_channels_of(const char* op, const char* name, const std::vector<double>& values,
                       int64_t channels, bool positive) {
  const int64_t n = static_cast<int64_t>(values.size());
  SPROUT_CHECK(n == 1 || n == channels, op, name, " must be one number or one per channel (",
               channels, "), got ", n, " numbers");
  for (double v : values) {
    SPROUT_CHECK(std::isfinite(v) && (!positive || v > 0), op, name, " must be finite",
                 positive ? " and above 0" : "", ", got ", v);
  }
}

double of_channel(const std::vector<double>& values, int64_t c) {
  return values.size() == 1 ? values[0] : values[static_cast<size_t>(c)];
}

void check_image_batch(const char* op, const char* name, const Tensor& t) {
  SPROUT_CHECK(t.defined() && t.dim() == 4, op, name, " must be [B, C, H, W], got ", describe(t));
  SPROUT_CHECK(t.size(1) >= 1 && t.size(1) <= kMaxChannels, op, name, " must have 1 to ",
               kMaxChannels, " channels, got ", describe(t));
}

// Checks partner int64 [B] and lam float32 [B] or [1]: both or neither are given.
void check_partner_and_lam(const char* op, const std::optional<Tensor>& partner,
                           const std::optional<Tensor>& lam, const Tensor& images) {
  const int64_t batch = images.size(0);
  SPROUT_CHECK(partner.has_value() == lam.has_value(), op,
               "partner and lam must be given together or not at all, got only ",
               partner ? "partner" : "lam");
  if (!partner) return;
  check_tensor(op, "partner", *partner, ScalarType::Long, {batch}, "int64 [B]", images);
  check_lam(op, *lam, batch, images);
}

Tensor empty_channels_last(const std::vector<int64_t>& shape, ScalarType dtype,
                           const Tensor& like) {
  return torch::stable::empty(shape, dtype, std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

}  // namespace

GaussianMixupCall prepare_gaussian_mixup(const Tensor& images, const std::optional<Tensor>& partner,
                                         const std::optional<Tensor>& lam, const Tensor& rng_state,
                                         const std::vector<double>& sigma,
                                         const std::vector<double>& mean,
                                         const std::vector<double>& std, const std::string& noise,
                                         ScalarType dtype) {
  constexpr const char* op = "gaussian_mixup";
  check_image_batch(op, "images", images);
  const ScalarType image_dtype = images.scalar_type();
  SPROUT_CHECK(image_dtype == ScalarType::Byte || is_floating(image_dtype), op,
               "images must be uint8, float16, bfloat16, float32 or float64, got ",
               describe(images));
  SPROUT_CHECK(is_floating(dtype), op, "dtype must be float32, bfloat16, float16 or float64, got ",
               dtype_name(dtype));
  check_partner_and_lam(op, partner, lam, images);
  check_rng_state(op, rng_state, images);
  const int64_t channels = images.size(1);
  check_channels_of(op, "sigma", sigma, channels, false);
  for (double s : sigma) SPROUT_CHECK(s >= 0, op, "sigma must be at least 0, got ", s);
  check_channels_of(op, "mean", mean, channels, false);
  check_channels_of(op, "std", std, channels, true);
  SPROUT_CHECK(noise == "marginal" || noise == "paired", op,
               "noise must be 'marginal' or 'paired', got '", noise, "'");

  GaussianMixupCall call{
      dense(partner),
      dense(lam),
      dense(rng_state),
      empty_channels_last({images.size(0), channels, images.size(2), images.size(3)}, dtype,
                          images),
      {}};
  if (images.is_cpu() && partner) {
    check_index_values(op, "partner", *call.partner, images.size(0));
    check_lam_values(op, *call.lam);
  }
  GaussianMixupArgs& args = call.args;
  args.image_dtype = to_dtype(image_dtype);
  args.out_dtype = to_dtype(dtype);
  args.images = images.const_data_ptr();
  for (int i = 0; i < 4; ++i) args.stride[i] = images.stride(i);
  args.partner = data_or_null<int64_t>(call.partner);
  args.lam = data_or_null<float>(call.lam);
  args.lam_stride = lam && lam->size(0) != 1 ? 1 : 0;
  args.rng_state = call.rng_state.const_data_ptr<int64_t>();
  args.out = call.out.mutable_data_ptr();
  args.batch = images.size(0);
  args.channels = channels;
  args.height = images.size(2);
  args.width = images.size(3);
  args.paired = noise == "paired";
  args.pixel_scale = image_dtype == ScalarType::Byte ? 1.0 / 255.0 : 1.0;
  args.noise = false;
  for (int64_t c = 0; c < channels; ++c) {
    args.sigma[c] = of_channel(sigma, c);
    args.mean[c] = of_channel(mean, c);
    args.inv_std[c] = 1.0 / of_channel(std, c);
    args.noise = args.noise || args.sigma[c] > 0;
  }
  return call;
}

GaussianMixupBackwardCall prepare_gaussian_mixup_backward(const Tensor& grad,
                                                          const std::optional<Tensor>& partner,
                                                          const std::optional<Tensor>& lam,
                                                          const std::vector<double>& std,
                                                          ScalarType dtype) {
  constexpr const char* op = "gaussian_mixup_backward";
  check_image_batch(op, "grad", grad);
  SPROUT_CHECK(is_floating(grad.scalar_type()), op, "grad must be floating, got ", describe(grad));
  SPROUT_CHECK(is_floating(dtype), op, "dtype must be floating, got ", dtype_name(dtype));
  check_partner_and_lam(op, partner, lam, grad);
  check_channels_of(op, "std", std, grad.size(1), true);
  const std::vector<int64_t> shape = {grad.size(0), grad.size(1), grad.size(2), grad.size(3)};
  // The layout of a network's gradient that is not channels-last. A copy would cost more than the
  // kernel.
  const bool planar = grad.is_cpu() && grad.size(1) > 1 && grad.is_contiguous();
  GaussianMixupBackwardCall call{
      planar ? grad : torch::stable::contiguous(grad, MemoryFormat::ChannelsLast),
      empty_channels_last(shape, dtype, grad),
      dense(partner),
      dense(lam),
      {}};
  if (grad.is_cpu() && partner) {
    check_index_values(op, "partner", *call.partner, grad.size(0));
    check_lam_values(op, *call.lam);
  }
  GaussianMixupBackwardArgs& args = call.args;
  args.grad_dtype = to_dtype(grad.scalar_type());
  args.image_dtype = to_dtype(dtype);
  args.grad = call.grad.const_data_ptr();
  args.grad_is_planar = planar;
  args.partner = data_or_null<int64_t>(call.partner);
  args.lam = data_or_null<float>(call.lam);
  args.lam_stride = lam && lam->size(0) != 1 ? 1 : 0;
  args.grad_images = call.grad_images.mutable_data_ptr();
  args.batch = shape[0];
  args.channels = shape[1];
  args.pixels = shape[2] * shape[3];
  for (int64_t c = 0; c < shape[1]; ++c) args.inv_std[c] = 1.0 / of_channel(std, c);
  return call;
}

STABLE_TORCH_LIBRARY_FRAGMENT(sprout_fast, m) {
  m.def(
      "gaussian_mixup(Tensor images, Tensor? partner, Tensor? lam, Tensor rng_state, "
      "float[] sigma, float[] mean, float[] std, str noise, ScalarType dtype) -> Tensor");
  m.def(
      "gaussian_mixup_backward(Tensor grad, Tensor? partner, Tensor? lam, float[] std, "
      "ScalarType dtype) -> Tensor");
}

}  // namespace sprout_fast
