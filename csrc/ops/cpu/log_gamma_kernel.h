#pragma once

#include "../log_gamma.h"
#include "isa.h"

// Elements [begin, end).
SPROUT_DECLARE_KERNEL(log_gamma_elements, const LogGammaArgs& args, int64_t begin, int64_t end)
SPROUT_DECLARE_KERNEL(log_gamma_backward_elements, const LogGammaBackwardArgs& args, int64_t begin,
                      int64_t end)
