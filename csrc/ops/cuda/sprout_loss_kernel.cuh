// sprout_loss on CUDA. The variates are a function of (row, class), so nothing of the logits' size
// is stored: each kernel computes those it needs again.
//
//   sprout_loss_rows        reads the logits once, a group of threads a row: row_stats
//   sprout_loss_grad_beta   reads them once more, a thread a class, over a group of rows: partial
//   sums sprout_loss_grad_logits backward: reads them, writes their gradient the two *_finish add
//   the partial results in a fixed order
#pragma once

#include "../../common/device_types.h"
#include "../../common/gamma.h"
#include "../../common/reduce.h"
#include "../sprout_loss.h"
#include "grid.cuh"

namespace sprout_fast {

constexpr int kLossThreads = 256;

// One row's labels, checked: what is out of range makes the row NaN, and nothing is read for it.
template <typename T>
struct RowLabels {
  int64_t label, partner;
  T label_mass, partner_mass;
  bool valid;

  __device__ __forceinline__ RowLabels(const SproutLossArgs& args, int64_t row) {
    const T total = static_cast<T>(args.scale) * (T(1) - static_cast<T>(args.alpha));
    const T lam = args.lam == nullptr ? T(1) : static_cast<T>(args.lam[row * args.lam_stride]);
    label = args.labels[row];
    partner = args.lam == nullptr ? label : args.partner_labels[row];
    label_mass = total * lam;
    partner_mass = total * (T(1) - lam);
    valid = label >= 0 && label < args.classes && partner >= 0 && partner < args.classes &&
            lam >= T(0) && lam <= T(1);
  }

  // NaN for a concentration that is none, which makes the row NaN however it is used.
  __device__ __forceinline__ T concentration(const SproutLossArgs& args, int64_t k) const {
    T a = static_cast<T>(args.scale * args.alpha) * static_cast<T>(args.beta[k]);
    if (k == label) a += label_mass;
    if (k == partner) a += partner_mass;
    return a >= T(0) && a < std::numeric_limits<T>::infinity() ? a : device_nan<T>();
  }
};

// log of class k's gamma variate; -inf where it surely is negligible beside `largest`.
template <typename T>
__device__ __forceinline__ T log_variate(const SproutLossArgs& args, const PhiloxCall& call,
                                         int64_t row, int64_t k, T a, T largest) {
  return log_gamma_variate(a, call, Stream::kGamma, call.first_element + row * args.classes + k,
                           largest);
}

// exp(x - y) where y is at least x or both are -inf, in which case there is nothing: 0.
template <typename T>
__device__ __forceinline__ T scaled_exp(T x, T y) {
  return x == -std::numeric_limits<T>::infinity() && x == y ? T(0) : fast_exp(x - y);
}

// The larger of two numbers; a NaN on either side stays.
template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return b <= a || a != a ? a : b;
}

// Running sums over a row, each measured from its own running maximum.
template <typename T>
struct RowSums {
  T top;             // largest logit
  T sum;             // sum_k exp(logit_k - top)
  T top_g;           // largest log variate
  T sum_g, dot_g;    // sums of variate and variate (logit - anchor), times e^-top_g
  T mass, dot_mass;  // the same of the concentrations

  __device__ __forceinline__ static RowSums empty() {
    const T nothing = -std::numeric_limits<T>::infinity();
    return {nothing, T(0), nothing, T(0), T(0), T(0), T(0)};
  }

  __device__ __forceinline__ void add_logit(T logit) {
    const T new_top = larger(top, logit);
    sum = sum * scaled_exp(top, new_top) + scaled_exp(logit, new_top);
    top = new_top;
  }
  __device__ __forceinline__ void add_variate(T log_g, T from_anchor) {
    const T new_top_g = larger(top_g, log_g);
    const T keep = scaled_exp(top_g, new_top_g), weight = scaled_exp(log_g, new_top_g);
    sum_g = sum_g * keep + weight;
    // A class with z = 0 adds nothing, whatever its logit: 0 x inf counts as 0.
    dot_g = dot_g * keep + (weight == T(0) ? T(0) : weight * from_anchor);
    top_g = new_top_g;
  }
  __device__ __forceinline__ void add_concentration(T a, T from_anchor) {
    mass += a;
    dot_mass += a == T(0) ? T(0) : a * from_anchor;
  }
  __device__ __forceinline__ void combine(const RowSums& o) {
    const T new_top = larger(top, o.top);
    sum = sum * scaled_exp(top, new_top) + o.sum * scaled_exp(o.top, new_top);
    top = new_top;
    const T new_top_g = larger(top_g, o.top_g);
    const T keep = scaled_exp(top_g, new_top_g), other = scaled_exp(o.top_g, new_top_g);
    sum_g = sum_g * keep + o.sum_g * other;
    dot_g = dot_g * keep + o.dot_g * other;
    top_g = new_top_g;
    mass += o.mass;
    dot_mass += o.dot_mass;
  }
  __device__ __forceinline__ RowSums shuffled(int mask) const {
    RowSums o;
    o.top = __shfl_xor_sync(0xffffffffu, top, mask);
    o.sum = __shfl_xor_sync(0xffffffffu, sum, mask);
    o.top_g = __shfl_xor_sync(0xffffffffu, top_g, mask);
    o.sum_g = __shfl_xor_sync(0xffffffffu, sum_g, mask);
    o.dot_g = __shfl_xor_sync(0xffffffffu, dot_g, mask);
    o.mass = __shfl_xor_sync(0xffffffffu, mass, mask);
    o.dot_mass = __shfl_xor_sync(0xffffffffu, dot_mass, mask);
    return o;
  }
};

// kWarps x 32 threads a row (threadIdx.x), blockDim.y rows a block; more than one row a block only
// with one warp a row.
constexpr int kWarpRows = 4;
inline bool sprout_loss_takes_a_warp_a_row(const SproutLossArgs& args) {
  return args.classes <= 256;
}
inline dim3 sprout_loss_rows_block(const SproutLossArgs& args) {
  return sprout_loss_takes_a_warp_a_row(args) ? dim3(32, kWarpRows) : dim3(kLossThreads);
}
inline dim3 sprout_loss_rows_grid(const SproutLossArgs& args) {
  constexpr int64_t kMaxBlocks = int64_t{1} << 20;
  const int64_t rows = sprout_loss_takes_a_warp_a_row(args) ? kWarpRows : 1;
  return grid_of(std::min(ceil_div(args.batch, rows), kMaxBlocks));
}
template <typename Logit, typename T, int kWarps>
__global__ void __launch_bounds__(kLossThreads)
    sprout_loss_rows_kernel(const __grid_constant__ SproutLossArgs args) {
  __shared__ RowSums<T> shared[kWarps];
  __shared__ T shared_largest;
  const PhiloxCall call(args.rng_state, args.classes);
  const T infinity = std::numeric_limits<T>::infinity();
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.y;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y; row < args.batch;
       row += step) {
    const RowLabels<T> labels(args, row);
    const Logit* logits = static_cast<const Logit*>(args.logits) + row * args.classes;
    RowSums<T> sums = RowSums<T>::empty();
    T anchor = T(0);
    if (labels.valid) {
      // The labels' own variates show which of the others cannot matter. Two lanes draw them.
      T largest = -infinity;
      if (threadIdx.x < 2 && args.labels_from == LabelsFrom::kDirichlet) {
        const int64_t k = threadIdx.x == 0 ? labels.label : labels.partner;
        largest = log_variate(args, call, row, k, labels.concentration(args, k), -infinity);
      }
      if (threadIdx.x < 32) {
        const T other = __shfl_xor_sync(0xffffffffu, largest, 1);
        largest = other > largest ? other : largest;
        largest = __shfl_sync(0xffffffffu, largest, 0);
      }
      if constexpr (kWarps > 1) {
        if (threadIdx.x == 0) shared_largest = largest;
        __syncthreads();
        largest = shared_largest;
      }
      // Logits are measured from the label's, so that large ones do not cancel in the loss.
      anchor = load_as<T>(logits[labels.label]);
      if (!(anchor > -infinity && anchor < infinity)) anchor = T(0);
      for (int64_t k = threadIdx.x; k < args.classes; k += 32 * kWarps) {
        const T logit = load_as<T>(logits[k]);
        const T a = labels.concentration(args, k);
        sums.add_logit(logit);
        if (args.wants_mean) sums.add_concentration(a, logit - anchor);
        if (args.labels_from == LabelsFrom::kDirichlet) {
          sums.add_variate(log_variate(args, call, row, k, a, largest), logit - anchor);
        }
      }
    }
    sums = block_reduce<kWarps>(sums, shared);
    if (threadIdx.x == 0) {
      T* stats = static_cast<T*>(args.row_stats) + row * kRowStats;
      // Sums of nothing (no class with a finite logit, all concentrations 0) make the row NaN.
      const T nan = device_nan<T>();
      const T log_sum = labels.valid && sums.sum != T(0) ? std::log(sums.sum) : nan;
      const T from_anchor = log_sum + (sums.top - anchor);
      stats[kTop] = sums.top;
      stats[kLogSum] = log_sum;
      stats[kTopG] = stats[kLogSumG] = stats[kMeanLoss] = stats[kMass] = T(0);
      if (args.wants_mean) {
        stats[kMass] = labels.valid ? sums.mass : nan;
        stats[kLoss] = stats[kMeanLoss] = from_anchor - sums.dot_mass / sums.mass;
      }
      if (args.labels_from == LabelsFrom::kDirichlet) {
        stats[kTopG] = sums.top_g;
        stats[kLogSumG] = labels.valid && sums.sum_g != T(0) ? std::log(sums.sum_g) : nan;
        stats[kLoss] = from_anchor - sums.dot_g / sums.sum_g;
      }
    }
  }
}

template <typename T>
__device__ __forceinline__ T row_weight(const SproutLossArgs& args, int64_t row) {
  const T* grad_loss = static_cast<const T*>(args.grad_loss);
  if (grad_loss == nullptr) return T(1);  // forward: of the summed loss
  if (args.reduction == Reduction::kNone) return grad_loss[row];
  if (args.reduction == Reduction::kMean) return grad_loss[0] / static_cast<T>(args.batch);
  return grad_loss[0];
}

// Rows to a partial sum of beta's gradient: the partial sums take an eighth of the logits' memory
// at most, and there are enough blocks for a GPU from 64 rows on.
inline int64_t sprout_loss_row_groups(int64_t batch) {
  return std::clamp<int64_t>(batch / 8, 1, 256);
}

// Grid: x over classes, y over groups of rows; partial [gridDim.y, K].
inline dim3 sprout_loss_grad_beta_grid(const SproutLossArgs& args) {
  return grid_of(ceil_div(args.classes, kLossThreads), sprout_loss_row_groups(args.batch));
}
template <typename Logit, typename T>
__global__ void __launch_bounds__(kLossThreads)
    sprout_loss_grad_beta_kernel(const __grid_constant__ SproutLossArgs args, T* partial) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= args.classes) return;
  const PhiloxCall call(args.rng_state, args.classes);
  const int64_t begin = args.batch * blockIdx.y / gridDim.y;
  const int64_t end = args.batch * (blockIdx.y + 1) / gridDim.y;
  T sum = T(0);
  for (int64_t row = begin; row < end; ++row) {
    const RowLabels<T> labels(args, row);
    const T* stats = static_cast<const T*>(args.row_stats) + row * kRowStats;
    T gradient = device_nan<T>();
    if (labels.valid) {
      const T logit = load_as<T>(static_cast<const Logit*>(args.logits)[row * args.classes + k]);
      const T cost = stats[kLogSum] - (logit - stats[kTop]);
      const T a = labels.concentration(args, k);
      if (args.beta_grad == BetaGrad::kExpected) {
        gradient = (cost - stats[kMeanLoss]) / stats[kMass];
      } else {
        const T log_g = log_variate(args, call, row, k, a, stats[kTopG]);
        const T log_z = (log_g - stats[kTopG]) - stats[kLogSumG];
        gradient = T(0);
        if (!(log_z < T(-kNegligibleNats))) {
          const T w = static_cast<T>(log_gamma_gradient(a, log_g));
          gradient = fast_exp(log_z) * (cost - stats[kLoss]) * w;
        }
      }
    }
    sum += row_weight<T>(args, row) * gradient;
  }
  partial[blockIdx.y * args.classes + k] = sum * static_cast<T>(args.scale * args.alpha);
}

// grad_beta[k] = factor x sum over groups, in their order.
template <typename T>
__global__ void sprout_loss_grad_beta_finish_kernel(const T* partial, int64_t groups,
                                                    int64_t classes, T factor, float* grad_beta) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= classes) return;
  T sum = T(0);
  for (int64_t group = 0; group < groups; ++group) sum += partial[group * classes + k];
  grad_beta[k] = static_cast<float>(factor * sum);
}

// A plain number, for block_reduce.
template <typename T>
struct Sum {
  T value;
  __device__ __forceinline__ void combine(const Sum& o) { value += o.value; }
  __device__ __forceinline__ Sum shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, value, mask)};
  }
};

// One block: the rows' losses, or their sum or mean.
template <typename T>
__global__ void __launch_bounds__(kLossThreads)
    sprout_loss_finish_kernel(const __grid_constant__ SproutLossArgs args, T* loss) {
  __shared__ Sum<T> shared[kLossThreads / 32];
  Sum<T> sum{T(0)};
  for (int64_t row = threadIdx.x; row < args.batch; row += kLossThreads) {
    const T value = static_cast<const T*>(args.row_stats)[row * kRowStats + kLoss];
    if (args.reduction == Reduction::kNone) loss[row] = value;
    sum.value += value;
  }
  sum = block_reduce<kLossThreads / 32>(sum, shared);
  if (threadIdx.x == 0 && args.reduction != Reduction::kNone) {
    // An empty batch has no mean: 0 / 0 is NaN, as in torch.
    loss[0] =
        args.reduction == Reduction::kMean ? sum.value / static_cast<T>(args.batch) : sum.value;
  }
}

// Grid: x over classes, y over rows. dL/dlogit_k = softmax_k - z_k, since the z add up to 1.
inline dim3 sprout_loss_grad_logits_grid(const SproutLossArgs& args) {
  return grid_of(ceil_div(args.classes, kLossThreads), args.batch);
}
template <typename Logit, typename T>
__global__ void __launch_bounds__(kLossThreads)
    sprout_loss_grad_logits_kernel(const __grid_constant__ SproutLossArgs args) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k >= args.classes) return;
  const PhiloxCall call(args.rng_state, args.classes);
  for (int64_t row = blockIdx.y; row < args.batch; row += gridDim.y) {
    const RowLabels<T> labels(args, row);
    T gradient = device_nan<T>();
    if (labels.valid) {
      const T* stats = static_cast<const T*>(args.row_stats) + row * kRowStats;
      const T a = labels.concentration(args, k);
      T z;
      if (args.labels_from == LabelsFrom::kMean) {
        z = a / stats[kMass];
      } else {
        const T log_g = log_variate(args, call, row, k, a, stats[kTopG]);
        z = fast_exp((log_g - stats[kTopG]) - stats[kLogSumG]);
      }
      const T logit = load_as<T>(static_cast<const Logit*>(args.logits)[row * args.classes + k]);
      gradient = row_weight<T>(args, row) * (fast_exp((logit - stats[kTop]) - stats[kLogSum]) - z);
    }
    store_as(gradient, static_cast<Logit*>(args.grad_logits) + row * args.classes + k);
  }
}

}  // namespace sprout_fast
