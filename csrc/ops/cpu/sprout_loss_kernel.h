#pragma once

#include "../sprout_loss_args.h"
#include "isa.h"

namespace sprout_fast {

// Padded to whole vectors; the padding holds classes that do not contribute.
inline int64_t padded_classes(int64_t classes) {
  return classes <= 16 ? 16 : (classes + 31) / 32 * 32;
}

// Rows of at most this many classes are drawn as if they were one, labels included, and none is
// left out: alone, each would fill a part of the vectors only.
constexpr int64_t kFewClasses = 32;

// Rows draw their variates together up to this many of them.
inline int64_t drawn_together(int64_t classes) { return classes <= kFewClasses ? 1024 : 4096; }

// Up to this many classes a row's worth of numbers is kept to be used again, from the cache.
constexpr int64_t kCachedClasses = 8192;

// Length of the data shared by all rows, in elements of the accumulation type: scale alpha beta_k
// and the four arrays of its GammaRow (each of padded_classes; the first is 0 in its padding), as
// many as a block may read beyond the end of a row, up to kCachedClasses psi(a + 1), the sum of the
// first, and how many classes are wanted of a row on average.
inline int64_t sprout_loss_base(int64_t classes) {
  return (classes <= kCachedClasses ? 6 : 5) * padded_classes(classes) + 64 + 2;
}

// Scratch per thread, in elements of the accumulation type.
inline int64_t sprout_loss_scratch(const SproutLossArgs& args) {
  const bool forward_gives_gradient = args.grad_logits != nullptr && args.grad_loss == nullptr;
  return (forward_gives_gradient ? 4 : 3) * padded_classes(args.classes);
}

}  // namespace sprout_fast

// Fills `base` after its first array. All pointers are to float, or to double for float64 logits.
SPROUT_DECLARE_KERNEL(sprout_loss_prepare, const SproutLossArgs& args, void* base)
// Rows [begin, end): fills row_stats and, if requested, adds the gradient of the summed loss to
// grad_beta [K].
SPROUT_DECLARE_KERNEL(sprout_loss_rows, const SproutLossArgs& args, int64_t begin, int64_t end,
                      const void* base, void* scratch, void* grad_beta)
// Rows [begin, end): fills grad_logits and adds to grad_beta if it is not null.
SPROUT_DECLARE_KERNEL(sprout_loss_backward_rows, const SproutLossArgs& args, int64_t begin,
                      int64_t end, const void* base, void* scratch, void* grad_beta)
