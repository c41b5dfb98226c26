// Arguments of gaussian_mixup's kernels, the same on every device.
#pragma once

#include <cstdint>

#include "../common/dtype.h"

namespace sprout_fast {

constexpr int64_t kMaxChannels = 16;

// out = (lam x_i + (1 - lam) x_partner + noise - mean) / std as one affine map per channel.
struct GaussianMixupArgs {
  Dtype image_dtype, out_dtype;
  const void* images;  // [B, C, H, W] with these strides, in elements
  int64_t stride[4];
  const int64_t* partner;    // [B], or null for no Mixup
  const float* lam;          // [B] or [1]; null if partner is
  int64_t lam_stride;        // 1 or 0
  const int64_t* rng_state;  // (seed, offset, first_row)
  void* out;                 // [B, H, W, C] dense
  int64_t batch, channels, height, width;
  bool noise;          // whether any sigma is positive
  bool paired;         // noise="paired" instead of "marginal"
  double pixel_scale;  // 1/255 for uint8, else 1
  double sigma[kMaxChannels];
  double mean[kMaxChannels];
  double inv_std[kMaxChannels];
};

// grad_images[i] = lam_i g_i / std + sum over j with partner_j = i of (1 - lam_j) g_j / std.
struct GaussianMixupBackwardArgs {
  Dtype grad_dtype, image_dtype;
  const void* grad;     // [B, H, W, C] dense, or
  bool grad_is_planar;  // [B, C, H, W] dense (on CPU only)
  const int64_t* partner;
  const float* lam;
  int64_t lam_stride;
  void* grad_images;  // [B, H, W, C] dense
  int64_t batch, channels, pixels;
  double inv_std[kMaxChannels];
};

}  // namespace sprout_fast
