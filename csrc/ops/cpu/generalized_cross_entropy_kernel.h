#pragma once

#include "../generalized_cross_entropy_args.h"
#include "isa.h"

namespace sprout_fast {

// Scratch per thread, in elements of the accumulation type: a row of logits and one of weights,
// each padded to whole vectors.
inline int64_t generalized_cross_entropy_scratch(int64_t classes) {
  return 2 * ((classes + 15) / 16 * 16);
}

}  // namespace sprout_fast

// Rows [begin, end): fills row_stats, and grad_logits if requested. `scratch` is of the type of
// row_stats.
SPROUT_DECLARE_KERNEL(generalized_cross_entropy_rows, const GeneralizedCrossEntropyArgs& args,
                      int64_t begin, int64_t end, void* scratch)
// Rows [begin, end): fills grad_logits, and grad_target if requested.
SPROUT_DECLARE_KERNEL(generalized_cross_entropy_backward_rows,
                      const GeneralizedCrossEntropyArgs& args, int64_t begin, int64_t end,
                      void* scratch)
