#pragma once

#include "../sprout_loss_args.h"
#include "isa.h"

namespace sprout_fast {

// Rounded up to whole vectors, with the overhang filled with classes that do not count.
inline int64_t padded_classes(int64_t classes) { return (classes + 31) / 32 * 32; }

// What is the same for every row, in elements of the accumulation type: scale alpha beta_k, its
// GammaRow's four arrays (each of padded_classes, 0 in the first one's overhang), and their sum.
inline int64_t sprout_loss_base(int64_t classes) { return 5 * padded_classes(classes) + 1; }

// A thread's scratch, in elements of the accumulation type.
inline int64_t sprout_loss_scratch(const SproutLossArgs& args) {
  const bool forward_gives_gradient = args.grad_logits != nullptr && args.grad_loss == nullptr;
  return (forward_gives_gradient ? 4 : 3) * padded_classes(args.classes);
}

}  // namespace sprout_fast

// Fills what stands behind `base`'s first array. All pointers are to float, or to double for
// float64 logits.
SPROUT_DECLARE_KERNEL(sprout_loss_prepare, const SproutLossArgs& args, void* base)
// Rows [begin, end): fills row_stats and, where asked for, adds the rows' gradients of the summed
// loss to grad_beta [K].
SPROUT_DECLARE_KERNEL(sprout_loss_rows, const SproutLossArgs& args, int64_t begin, int64_t end,
                      const void* base, void* scratch, void* grad_beta)
// Rows [begin, end): fills grad_logits and adds to grad_beta where it is not null.
SPROUT_DECLARE_KERNEL(sprout_loss_backward_rows, const SproutLossArgs& args, int64_t begin,
                      int64_t end, const void* base, void* scratch, void* grad_beta)
