#pragma once

#include "../log_gamma_args.h"
#include "isa.h"

namespace sprout_fast {

// What threads' shares are multiples of: whole chunks (log_gamma_row.h), so that the last bits of a
// gradient, whose series end when all of a vector's have converged, are the same for any number of
// threads.
constexpr int64_t kLogGammaRun = 1024;

}  // namespace sprout_fast

// Elements [begin, end), `begin` a multiple of kLogGammaRun.
SPROUT_DECLARE_KERNEL(log_gamma_elements, const LogGammaArgs& args, int64_t begin, int64_t end)
SPROUT_DECLARE_KERNEL(log_gamma_backward_elements, const LogGammaBackwardArgs& args, int64_t begin,
                      int64_t end)
