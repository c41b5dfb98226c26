// The kernels' launches as bindings.cpp sees them: no CUDA, no torch.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "csrc/ops/draw_mixup.h"
#include "csrc/ops/gaussian_mixup.h"
#include "csrc/ops/sprout_loss.h"

namespace simt {

// How a kernel is launched: as its .cu file does it, or with another grid or block.
struct Shape {
  uint64_t seed = 0;  // of the order of threads and blocks
  std::optional<std::array<unsigned, 3>> grid, block;
};

void draw_mixup(const sprout_fast::DrawMixupArgs& args, const Shape& shape);

void gaussian_mixup(const sprout_fast::GaussianMixupArgs& args, const Shape& shape);
void gaussian_mixup_backward(const sprout_fast::GaussianMixupBackwardArgs& args,
                             const Shape& shape);

void sprout_loss_rows(const sprout_fast::SproutLossArgs& args, const Shape& shape);
void sprout_loss_finish(const sprout_fast::SproutLossArgs& args, void* loss, const Shape& shape);
void sprout_loss_grad_logits(const sprout_fast::SproutLossArgs& args, const Shape& shape);
int64_t grad_beta_groups(int64_t batch);
// partial [groups, K] of the type of row_stats.
void sprout_loss_grad_beta(const sprout_fast::SproutLossArgs& args, void* partial,
                           const Shape& shape);
void sprout_loss_grad_beta_finish(const sprout_fast::SproutLossArgs& args, const void* partial,
                                  int64_t groups, double factor, float* grad_beta,
                                  const Shape& shape);

}  // namespace simt
