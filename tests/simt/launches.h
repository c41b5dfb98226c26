// Launches of the kernels for bindings.cpp, without CUDA or torch.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "csrc/ops/dirichlet_args.h"
#include "csrc/ops/gaussian_mixup_args.h"
#include "csrc/ops/generalized_cross_entropy_args.h"
#include "csrc/ops/log_gamma_args.h"
#include "csrc/ops/meter_step_args.h"
#include "csrc/ops/pgd_step_args.h"
#include "csrc/ops/sample_mixup_args.h"
#include "csrc/ops/sprout_loss_args.h"

namespace simt {

// Launch of a kernel: as its .cu file does it, or with another grid or block.
struct Shape {
  uint64_t seed = 0;  // for the order of threads and blocks
  std::optional<std::array<unsigned, 3>> grid, block;
};

std::set<std::string>& launched();

// 32-byte sectors of global memory that requests touched, and the least that hold their bytes. A
// request is an access by the threads of a warp: those that execute the same code equally often.
struct Sectors {
  int64_t touched = 0, needed = 0;
};
struct Traffic {
  Sectors loads, stores;
};
// Counts the traffic of launches from the first call to the second, in builds that check memory.
void start_traffic();
Traffic take_traffic();

void sample_mixup(const sprout_fast::SampleMixupArgs& args, const Shape& shape);

void gaussian_mixup(const sprout_fast::GaussianMixupArgs& args, const Shape& shape);
// Blocks (x, y) of a launch on a device with this many multiprocessors.
std::array<unsigned, 2> gaussian_mixup_blocks(const sprout_fast::GaussianMixupArgs& args,
                                              int multiprocessors);
void gaussian_mixup_backward(const sprout_fast::GaussianMixupBackwardArgs& args,
                             const Shape& shape);

void log_gamma(const sprout_fast::LogGammaArgs& args, const Shape& shape);
void log_gamma_backward(const sprout_fast::LogGammaBackwardArgs& args, const Shape& shape);

void dirichlet(const sprout_fast::DirichletArgs& args, const Shape& shape);
void dirichlet_backward(const sprout_fast::DirichletBackwardArgs& args, const Shape& shape);

void meter_step(const sprout_fast::MeterStepArgs& args, const Shape& shape);

void pgd_step(const sprout_fast::PgdStepArgs& args, const Shape& shape);

void generalized_cross_entropy(const sprout_fast::GeneralizedCrossEntropyArgs& args,
                               const Shape& shape);
void generalized_cross_entropy_backward(const sprout_fast::GeneralizedCrossEntropyArgs& args,
                                        const Shape& shape);

// Row i's loss is values[i * stride], float or double.
void reduce_losses(sprout_fast::Dtype dtype, const void* values, int64_t stride, int64_t batch,
                   sprout_fast::Reduction reduction, void* loss, const Shape& shape);

// Launch of sprout_loss if a block may use this much shared memory.
struct SproutLossPlan {
  int64_t kept_groups;  // groups of rows whose gradients of beta forward sums, 0 if it does not
  int64_t segments;     // per row in the forward pass
  int64_t groups;       // groups of rows in sprout_loss_grad_kernel
};
SproutLossPlan sprout_loss_plan(const sprout_fast::SproutLossArgs& args, int64_t max_shared_bytes);
// segments [B, plan.segments, kRowStats], null for one segment; partial [plan.kept_groups, K], null
// for no group.
void sprout_loss_rows(const sprout_fast::SproutLossArgs& args, void* segments, void* partial,
                      int64_t max_shared_bytes, const Shape& shape);
void sprout_loss_segments(const sprout_fast::SproutLossArgs& args, const void* segments,
                          int64_t count, const Shape& shape);
// partial [plan.groups, K], or null.
void sprout_loss_grad(const sprout_fast::SproutLossArgs& args, void* partial, const Shape& shape);
void sprout_loss_grad_beta(const sprout_fast::SproutLossArgs& args, const void* partial,
                           int64_t groups, double factor, float* grad_beta, const Shape& shape);
// dtype: of row_stats and of the loss, float or double.
void sprout_loss_finish(sprout_fast::Dtype dtype, const sprout_fast::SproutFinishArgs& args,
                        const Shape& shape);
bool sprout_loss_finish_sums_groups(int64_t groups, int64_t classes);

}  // namespace simt
