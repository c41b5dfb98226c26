// From the arguments of sample_mixup and sample_mixup_ to what its kernels read, once for both
// devices.
#pragma once

#include "check.h"
#include "sample_mixup_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct SampleMixupCall {
  Tensor rng_state, partner, lam;
  SampleMixupArgs args;
  Tensor labels, partner_labels, used_rng;  // of sample_mixup_
};
SPROUT_EXPORT SampleMixupCall prepare_sample_mixup(int64_t batch, const Tensor& rng_state,
                                                   double mixup_alpha, bool per_sample);
SPROUT_EXPORT SampleMixupCall prepare_sample_mixup_(const Tensor& rng, const Tensor& first_row,
                                                    const Tensor& labels, double mixup_alpha,
                                                    bool per_sample);

}  // namespace sprout_fast
