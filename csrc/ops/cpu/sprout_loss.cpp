// sprout_loss on CPU: runs the kernel of the best instruction set over threads.
#include "../sprout_loss_call.h"

#include <algorithm>
#include <memory>
#include <tuple>

#include "../../common/philox.h"
#include "../entry.h"
#include "aligned_array.h"
#include "parallel.h"
#include "reduce_losses.h"
#include "sprout_loss_kernel.h"

namespace sprout_fast {
namespace {

using RowsKernel = void (*)(const SproutLossArgs&, int64_t, int64_t, const void*, void*, void*);

// Runs `kernel` over all rows and returns the summed gradient of beta, [K], or null if it was not
// requested.
template <typename T>
std::unique_ptr<T[]> run_rows(const SproutLossCall& call, RowsKernel kernel) {
  const SproutLossArgs& args = call.args;
  const int64_t K = args.classes;
  const AlignedArray<T> base = aligned_zeros<T>(sprout_loss_base(K));
  const T factor = static_cast<T>(args.scale * args.alpha);
  for (int64_t k = 0; k < K; ++k) base[k] = factor * static_cast<T>(args.beta[k]);
  SPROUT_BEST_KERNEL(sprout_loss_prepare)(args, base.get());

  // Groups of rows, each with a partial sum of beta's gradient. They depend on the batch only, so
  // the order of summation is the same for any number of threads, and their sums use at most a
  // seventh of the logits' memory (tests/ops/test_memory.py checks the total).
  const bool wants_beta = args.wants_grad_beta, caches = wants_beta && K <= kCachedClasses;
  const int64_t logit_size = static_cast<int64_t>(call.logits.element_size());
  const int64_t seventh = args.batch * logit_size / (7 * static_cast<int64_t>(sizeof(T)));
  // No more than fill a chunk of variates each.
  const int64_t chunk = drawn_together(K);
  const int64_t chunks = std::max<int64_t>((args.batch * K + chunk - 1) / chunk, 1);
  const int64_t groups = wants_beta ? std::clamp<int64_t>(seventh, 1, std::min<int64_t>(chunks, 64))
                                    : std::min(chunks, std::max<int64_t>(args.batch, 1));
  std::unique_ptr<T[]> partial(wants_beta ? new T[groups * K] : nullptr);  // uninitialized
  // Groups per task: a few thousand variates.
  const int64_t grain = std::max<int64_t>(1, 4096 * groups / std::max<int64_t>(1, args.batch * K));
  parallel_in_turn(groups, grain, [&] {
    return [&, scratch = aligned_zeros<T>(sprout_loss_scratch(args)),
            cached = aligned_zeros<T>(caches ? K : 0)](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        // Each row adds to the sum of its group.
        T* of_group = wants_beta ? partial.get() + group * K : nullptr;
        T* gradient = caches ? cached.get() : of_group;
        std::fill_n(gradient, wants_beta ? K : 0, T(0));
        kernel(args, group * args.batch / groups, (group + 1) * args.batch / groups, base.get(),
               scratch.get(), gradient);
        if (caches) std::copy_n(gradient, K, of_group);
      }
    };
  });
  for (int64_t group = 1; group < groups && wants_beta; ++group) {
    for (int64_t k = 0; k < K; ++k) partial[k] += partial[group * K + k];
  }
  return partial;
}

// Runs `kernel` over all rows and returns the gradient of beta, float32 [K], or float32 [0] if it
// was not requested.
template <typename T>
Tensor grad_beta(const SproutLossCall& call, RowsKernel kernel, bool mean) {
  const std::unique_ptr<T[]> sum = run_rows<T>(call, kernel);
  const T factor = mean ? T(1) / static_cast<T>(call.args.batch) : T(1);
  const int64_t n = call.args.wants_grad_beta ? call.args.classes : 0;
  Tensor result = empty({n}, ScalarType::Float, call.beta);
  float* out = static_cast<float*>(result.mutable_data_ptr());
  for (int64_t k = 0; k < n; ++k) out[k] = static_cast<float>(sum[k] * factor);
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sprout_loss_cpu(const SproutLossCall& call) {
  const RowsKernel kernel = SPROUT_BEST_KERNEL(sprout_loss_rows);
  const bool mean = call.args.reduction == Reduction::kMean && call.args.batch > 0;
  Tensor by_beta = call.args.dtype == Dtype::kFloat64 ? grad_beta<double>(call, kernel, mean)
                                                      : grad_beta<float>(call, kernel, mean);
  return {reduce_losses(call, kLoss, kRowStats), by_beta, call.row_stats, call.grad_logits};
}

std::tuple<Tensor, Tensor> sprout_loss_backward_cpu(const SproutLossCall& call) {
  const RowsKernel kernel = SPROUT_BEST_KERNEL(sprout_loss_backward_rows);
  return {call.grad_logits, call.args.dtype == Dtype::kFloat64
                                ? grad_beta<double>(call, kernel, false)
                                : grad_beta<float>(call, kernel, false)};
}

// `gradient` is beta's, summed over the rows, or null.
template <typename T>
void finish(const SproutFinishArgs& args, const T* gradient) {
  bool finite = true;
  for (int64_t k = 0; k < args.classes; ++k) {
    const T own = gradient == nullptr ? T(0) : gradient[k] * static_cast<T>(args.factor);
    finite &= accumulate_gradient(args, k, static_cast<float>(own));
  }
  if (!args.steps) return;
  double total = 0;
  for (int64_t k = 0; k < args.classes; ++k) total += step_beta(args, k, finite);
  if (!finite || !(total > args.step.largest_total)) return;
  for (int64_t k = 0; k < args.classes; ++k) bound_beta(args, k, total);
}

template <typename T>
void run_and_finish(const SproutStepCall& call) {
  finish<T>(call.finish, run_rows<T>(*call.loss, SPROUT_BEST_KERNEL(sprout_loss_rows)).get());
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sprout_loss_cpu_(const SproutStepCall& call) {
  const SproutLossCall& rows = *call.loss;
  const bool wide = rows.args.dtype == Dtype::kFloat64;
  wide ? run_and_finish<double>(call) : run_and_finish<float>(call);
  PhiloxCall::advance(call.finish.rng, call.finish.first_row, call.finish.used_rng);
  return {reduce_losses(rows, kLoss, kRowStats), call.used_beta, call.used_rng, rows.row_stats,
          rows.grad_logits};
}

void sprout_loss_step_cpu_(const SproutStepCall& call) { finish<float>(call.finish, nullptr); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("sprout_loss", SPROUT_ENTRY(prepare_sprout_loss_forward, sprout_loss_cpu));
  m.impl("sprout_loss_backward",
         SPROUT_ENTRY(prepare_sprout_loss_backward, sprout_loss_backward_cpu));
  m.impl("sprout_loss_", SPROUT_ENTRY(&prepare_sprout_loss_, sprout_loss_cpu_));
  m.impl("sprout_loss_step_", SPROUT_ENTRY(&prepare_sprout_loss_step_, sprout_loss_step_cpu_));
}

}  // namespace sprout_fast
