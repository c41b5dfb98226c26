// From the arguments of sample_mixup to what its kernels read, once for both devices.
#pragma once

#include "check.h"
#include "sample_mixup_args.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct SampleMixupCall {
  Tensor rng_state, partner, lam;
  SampleMixupArgs args;
};
SPROUT_EXPORT SampleMixupCall prepare_sample_mixup(int64_t batch, const Tensor& rng_state,
                                                   double mixup_alpha, bool per_sample);

}  // namespace sprout_fast
