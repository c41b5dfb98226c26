// sprout_loss on CPU: from checked tensors to the kernel of the processor's instruction set.
#include "../sprout_loss_call.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "parallel.h"
#include "sprout_loss_kernel.h"

namespace sprout_fast {
namespace {

using RowsKernel = void (*)(const SproutLossArgs&, int64_t, int64_t, const void*, void*, void*);

// Runs `kernel` over all rows and returns the summed gradient of beta, [K] (empty where nobody
// asked).
template <typename T>
std::vector<T> run_rows(const SproutLossCall& call, RowsKernel kernel) {
  const SproutLossArgs& args = call.args;
  const int64_t K = args.classes;
  std::vector<T> base(sprout_loss_base(K), T(0));
  const T factor = static_cast<T>(args.scale * args.alpha);
  for (int64_t k = 0; k < K; ++k) base[k] = factor * static_cast<T>(args.beta[k]);
  SPROUT_BEST_KERNEL(sprout_loss_prepare)(args, base.data());

  // Groups of rows with a partial sum of beta's gradient each: cut by the batch alone, so the sum's
  // order is the same for any number of threads; at most a seventh of the logits' memory
  // (tests/test_memory.py has the whole).
  const bool wants_beta = args.wants_grad_beta;
  const int64_t logit_size = static_cast<int64_t>(call.logits.element_size());
  const int64_t seventh = args.batch * logit_size / (7 * static_cast<int64_t>(sizeof(T)));
  const int64_t groups =
      wants_beta ? std::clamp<int64_t>(seventh, 1, 64) : std::max<int64_t>(args.batch, 1);
  std::vector<T> partial(wants_beta ? groups * K : 0, T(0));
  // Groups that are worth a thread: some thousand variates.
  const int64_t grain = std::max<int64_t>(1, 4096 * groups / std::max<int64_t>(1, args.batch * K));
  parallel_in_turn(groups, grain, [&] {
    return [&, scratch = std::vector<T>(sprout_loss_scratch(args))](int64_t begin,
                                                                    int64_t end) mutable {
      for (int64_t group = begin; group < end; ++group) {
        kernel(args, group * args.batch / groups, (group + 1) * args.batch / groups, base.data(),
               scratch.data(), wants_beta ? partial.data() + group * K : nullptr);
      }
    };
  });
  for (int64_t group = 1; group < groups && wants_beta; ++group) {
    for (int64_t k = 0; k < K; ++k) partial[k] += partial[group * K + k];
  }
  return partial;
}

// grad_beta float32 [K] = factor x the sum over rows, or float32 [0] where it was not asked for.
template <typename T>
Tensor finish_grad_beta(const SproutLossCall& call, const std::vector<T>& sum, T factor) {
  const int64_t n = call.args.wants_grad_beta ? call.args.classes : 0;
  Tensor grad_beta = empty({n}, ScalarType::Float, call.beta);
  float* out = static_cast<float*>(grad_beta.mutable_data_ptr());
  for (int64_t k = 0; k < n; ++k) out[k] = static_cast<float>(sum[k] * factor);
  return grad_beta;
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const SproutLossCall& call) {
  const SproutLossArgs& args = call.args;
  const std::vector<T> sum = run_rows<T>(call, SPROUT_BEST_KERNEL(sprout_loss_rows));
  const T* stats = static_cast<const T*>(args.row_stats);
  const bool each = args.reduction == Reduction::kNone;
  Tensor loss = empty(loss_shape(args.reduction, args.batch), call.accumulate_dtype, call.logits);
  T* out = static_cast<T*>(loss.mutable_data_ptr());
  double total = 0;
  for (int64_t row = 0; row < args.batch; ++row) {
    const T value = stats[row * kRowStats + kLoss];
    if (each) out[row] = value;
    total += value;
  }
  const bool mean = args.reduction == Reduction::kMean;
  // An empty batch has no mean: 0 / 0 is NaN, as in torch.
  if (!each) out[0] = static_cast<T>(mean ? total / static_cast<double>(args.batch) : total);
  const T factor = mean && args.batch > 0 ? T(1) / static_cast<T>(args.batch) : T(1);
  return {loss, finish_grad_beta(call, sum, factor), call.row_stats, *call.grad_logits};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> sprout_loss_cpu(
    const Tensor& logits, const Tensor& labels, const std::optional<Tensor>& partner_labels,
    const std::optional<Tensor>& lam, const Tensor& beta, const Tensor& rng_state, double alpha,
    double scale, const std::string& label_mode, const std::string& beta_grad,
    const std::string& reduction, bool return_grad_beta, bool return_grad_logits) {
  const SproutLossCall call =
      prepare_sprout_loss(logits, labels, partner_labels, lam, beta, rng_state, alpha, scale,
                          label_mode, beta_grad, reduction, return_grad_beta, return_grad_logits);
  return call.args.dtype == Dtype::kFloat64 ? forward<double>(call) : forward<float>(call);
}

std::tuple<Tensor, Tensor> sprout_loss_backward_cpu(
    const Tensor& grad_loss, const Tensor& logits, const Tensor& labels,
    const std::optional<Tensor>& partner_labels, const std::optional<Tensor>& lam,
    const Tensor& beta, const Tensor& rng_state, const Tensor& row_stats, double alpha,
    double scale, const std::string& label_mode, const std::string& beta_grad,
    const std::string& reduction) {
  const SproutLossCall call =
      prepare_sprout_loss_backward(grad_loss, logits, labels, partner_labels, lam, beta, rng_state,
                                   row_stats, alpha, scale, label_mode, beta_grad, reduction);
  const RowsKernel kernel = SPROUT_BEST_KERNEL(sprout_loss_backward_rows);
  const Tensor grad_beta = call.args.dtype == Dtype::kFloat64
                               ? finish_grad_beta(call, run_rows<double>(call, kernel), 1.0)
                               : finish_grad_beta(call, run_rows<float>(call, kernel), 1.0f);
  return {*call.grad_logits, grad_beta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sprout_fast, CPU, m) {
  m.impl("sprout_loss", TORCH_BOX(&sprout_loss_cpu));
  m.impl("sprout_loss_backward", TORCH_BOX(&sprout_loss_backward_cpu));
}

}  // namespace sprout_fast
