// Checks of draw_mixup's arguments, made once for both devices (draw_mixup.cpp).
#pragma once

#include "check.h"
#include "draw_mixup.h"

namespace sprout_fast {

// The tensors that the pointers in `args` point into.
struct DrawMixupCall {
  Tensor rng_state, partner, lam;
  DrawMixupArgs args;
};
SPROUT_EXPORT DrawMixupCall prepare_draw_mixup(const Tensor& rng_state, int64_t batch, double a,
                                               bool per_sample);

}  // namespace sprout_fast
