// Random numbers of Mixup: the coefficient lam ~ Beta(a, a) and the shift to the partner.
#pragma once

#include "gamma.h"

namespace sprout_fast {

// Coefficient number `index` of a call, sigmoid(log G_1 - log G_2): in log space, because gamma
// variates often underflow float32 at a = 0.2.
SPROUT_HOST_DEVICE float mixup_lam(float a, const PhiloxCall& call, int64_t index) {
  const float first = log_gamma_variate(a, call, Stream::kMixup, 2 * index);
  const float second = log_gamma_variate(a, call, Stream::kMixup, 2 * index + 1);
  return 1.0f / (1.0f + std::exp(second - first));
}

// The shift r of partner = (i + r) mod batch, uniform in 1..batch-1, so that no image is mixed with
// itself (0 for a batch of one). Its draw number is one that the bounded gamma sampler never
// reaches. The bias of the multiply-shift is below batch / 2^32.
SPROUT_HOST_DEVICE int64_t mixup_shift(int64_t batch, const PhiloxCall& call) {
  if (batch < 2) return 0;
  const Philox4 words = call.words(Stream::kMixup, 0, 0xFFFFFFFFu);
  return 1 + static_cast<int64_t>(
                 (static_cast<uint64_t>(words.w0) * static_cast<uint64_t>(batch - 1)) >> 32);
}

}  // namespace sprout_fast
