#pragma once

#include "../gaussian_mixup_args.h"
#include "isa.h"

namespace sprout_fast {

// Images are processed in chunks of this many pixels, so that the scratch of a chunk (pixels, the
// partner's pixels, noise: 4 KiB of float per channel and buffer) stays in cache.
constexpr int64_t kMixupChunkPixels = 1024;

inline int64_t mixup_chunks_per_image(int64_t pixels) {
  return (pixels + kMixupChunkPixels - 1) / kMixupChunkPixels;
}

}  // namespace sprout_fast

// Chunks [begin, end) of the batch, counted image by image.
SPROUT_DECLARE_KERNEL(gaussian_mixup_chunks, const GaussianMixupArgs& args, int64_t begin,
                      int64_t end)
// Images [begin, end) of the gradient.
SPROUT_DECLARE_KERNEL(gaussian_mixup_backward_images, const GaussianMixupBackwardArgs& args,
                      int64_t begin, int64_t end)
