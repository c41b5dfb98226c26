#pragma once

#include "../log_gamma_args.h"
#include "isa.h"

namespace sprout_fast {

// Threads process multiples of this many elements, i.e. whole chunks (log_gamma_row.h): a series
// ends when all lanes of a vector have converged, so the last bits of a gradient depend on which
// elements share a vector.
constexpr int64_t kLogGammaRun = 1024;

}  // namespace sprout_fast

// Elements [begin, end), `begin` a multiple of kLogGammaRun.
SPROUT_DECLARE_KERNEL(log_gamma_elements, const LogGammaArgs& args, int64_t begin, int64_t end)
SPROUT_DECLARE_KERNEL(log_gamma_backward_elements, const LogGammaBackwardArgs& args, int64_t begin,
                      int64_t end)
