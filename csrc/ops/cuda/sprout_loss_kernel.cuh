// sprout_loss on CUDA. Variates are functions of (row, class), so nothing of the logits' size is
// stored between kernels: each recomputes those that it needs.
//
//   sprout_loss_rows_kernel      forward: reads the logits once; computes row statistics and, for
// rows
//                                that fit shared memory, their gradients of beta, added up by block
//   sprout_loss_segments_kernel  joins the statistics of rows that several blocks share
//   sprout_loss_grad_kernel      backward: reads the logits once; their gradient and, added up by
//                                block, that of beta. Also forward's second read, for beta's
//                                gradient of rows that do not fit
//   sprout_loss_grad_beta_kernel adds up beta's gradient over blocks
//   sprout_loss_finish_kernel    a training step's last launch: the loss, beta's step, the states
#pragma once

#include "../../common/gamma_gradient.h"
#include "../../common/reduce.h"
#include "../sprout_loss_args.h"
#include "gamma_packet.cuh"
#include "reduction_kernel.cuh"
#include "row.cuh"

namespace sprout_fast {

// The labels of a row, checked: an out-of-range value makes the row NaN without reading it.
template <typename T>
struct RowLabels {
  int64_t label, partner;
  T label_mass, partner_mass;
  bool valid;

  __device__ __forceinline__ RowLabels(const SproutLossArgs& args, int64_t row) : valid(false) {
    if (row >= args.batch) return;
    const T total = static_cast<T>(args.scale) * (T(1) - static_cast<T>(args.alpha));
    const T lam = args.lam == nullptr ? T(1) : static_cast<T>(args.lam[row * args.lam_stride]);
    label = args.labels[row];
    partner = args.lam == nullptr ? label : args.partner_labels[row];
    label_mass = total * lam;
    partner_mass = total * (T(1) - lam);
    valid = label >= 0 && label < args.classes && partner >= 0 && partner < args.classes &&
            lam >= T(0) && lam <= T(1);
  }

  // The concentration of class k with this beta. NaN if it is negative or not finite, which makes
  // the row NaN however it is used.
  __device__ __forceinline__ T concentration(const SproutLossArgs& args, int64_t k, T beta) const {
    T a = static_cast<T>(args.scale * args.alpha) * beta;
    if (k == label) a += label_mass;
    if (k == partner) a += partner_mass;
    return a >= T(0) && a < std::numeric_limits<T>::infinity() ? a : device_nan<T>();
  }
  // The same for classes [k, k + N), 0 for those not in [begin, end).
  template <int N>
  __device__ __forceinline__ void concentrations(const SproutLossArgs& args, int64_t k,
                                                 int64_t begin, int64_t end, T (&a)[N]) const {
    load_packet(args.beta, k, begin, end, T(0), a);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      a[j] = k + j >= begin && k + j < end ? concentration(args, k + j, a[j]) : T(0);
    }
  }
};

// Running maximum; NaN if any number is.
template <typename T>
struct Largest {
  T value;
  __device__ __forceinline__ void combine(const Largest& o) { value = larger(value, o.value); }
  __device__ __forceinline__ Largest shuffled(int mask) const {
    return {__shfl_xor_sync(0xffffffffu, value, mask)};
  }
};

// Running sums over a row, each relative to its running maximum.
template <typename T>
struct RowSums {
  T top;             // largest logit
  T sum;             // sum_k exp(logit_k - top)
  T top_g;           // largest log variate
  T sum_g, dot_g;    // sums of variates and of variate * (logit - anchor), times e^-top_g
  T mass, dot_mass;  // the same for concentrations

  __device__ __forceinline__ static RowSums empty() {
    const T nothing = -std::numeric_limits<T>::infinity();
    return {nothing, T(0), nothing, T(0), T(0), T(0), T(0)};
  }

  template <int N>
  __device__ __forceinline__ void add_logits(const T (&logit)[N]) {
    T new_top = top;
#pragma unroll
    for (int j = 0; j < N; ++j) new_top = larger(new_top, logit[j]);
    sum *= exp_below(top, new_top);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += exp_below(logit[j], new_top);
    top = new_top;
  }
  // A class with z = 0 contributes nothing, whatever its logit: 0 * inf counts as 0.
  template <int N>
  __device__ __forceinline__ void add_variates(const T (&log_g)[N], const T (&logit)[N], T anchor) {
    T new_top = top_g;
#pragma unroll
    for (int j = 0; j < N; ++j) new_top = larger(new_top, log_g[j]);
    const T keep = exp_below(top_g, new_top);
    sum_g *= keep;
    dot_g *= keep;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const T weight = exp_below(log_g[j], new_top);
      sum_g += weight;
      dot_g += weight == T(0) ? T(0) : weight * (logit[j] - anchor);
    }
    top_g = new_top;
  }
  template <int N>
  __device__ __forceinline__ void add_concentrations(const T (&a)[N], const T (&logit)[N],
                                                     T anchor) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      mass += a[j];
      dot_mass += a[j] == T(0) ? T(0) : a[j] * (logit[j] - anchor);
    }
  }
  __device__ __forceinline__ void combine(const RowSums& o) {
    const T new_top = larger(top, o.top);
    sum = sum * exp_below(top, new_top) + o.sum * exp_below(o.top, new_top);
    top = new_top;
    const T new_top_g = larger(top_g, o.top_g);
    const T keep = exp_below(top_g, new_top_g), other = exp_below(o.top_g, new_top_g);
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

// Logits are relative to that of the label, so that large ones do not cancel in the loss.
template <typename Logit, typename T>
__device__ __forceinline__ T row_anchor(const SproutLossArgs& args, int64_t row,
                                        const RowLabels<T>& labels) {
  const Logit* logits = static_cast<const Logit*>(args.logits) + row * args.classes;
  const T anchor = load_as<T>(logits[labels.label]);
  const T infinity = std::numeric_limits<T>::infinity();
  return anchor > -infinity && anchor < infinity ? anchor : T(0);
}

// The row_stats of a row (sprout_loss_args.h), in registers.
template <typename T>
struct RowStats {
  T value[kRowStats];
  T log_sum, log_sum_g;

  __device__ __forceinline__ RowStats(const SproutLossArgs& args, bool valid,
                                      const RowSums<T>& sums, T anchor) {
    // Empty sums (no class with a finite logit, all concentrations 0) make the row NaN.
    const T nan = device_nan<T>();
    value[kSum] = valid && sums.sum != T(0) ? sums.sum : nan;
    log_sum = std::log(value[kSum]);
    const T from_anchor = log_sum + (sums.top - anchor);
    value[kTop] = sums.top;
    value[kTopG] = value[kSumG] = value[kMeanLoss] = value[kMass] = log_sum_g = T(0);
    if (args.wants_mean) {
      value[kMass] = valid ? sums.mass : nan;
      value[kLoss] = value[kMeanLoss] = from_anchor - sums.dot_mass / sums.mass;
    }
    if (args.label_mode == LabelMode::kSample) {
      value[kTopG] = sums.top_g;
      value[kSumG] = valid && sums.sum_g != T(0) ? sums.sum_g : nan;
      log_sum_g = std::log(value[kSumG]);
      value[kLoss] = from_anchor - sums.dot_g / sums.sum_g;
    }
  }
  __device__ __forceinline__ RowStats(const SproutLossArgs& args, int64_t row) {
#pragma unroll
    for (int i = 0; i < kRowStats; ++i) {
      value[i] = static_cast<const T*>(args.row_stats)[row * kRowStats + i];
    }
    log_sum = std::log(value[kSum]);
    log_sum_g = std::log(value[kSumG]);
  }
  __device__ __forceinline__ void store(const SproutLossArgs& args, int64_t row) const {
#pragma unroll
    for (int i = 0; i < kRowStats; ++i) {
      static_cast<T*>(args.row_stats)[row * kRowStats + i] = value[i];
    }
  }

  __device__ __forceinline__ T cost(T logit) const { return log_sum - (logit - value[kTop]); }
  __device__ __forceinline__ T softmax(T logit) const {
    return fast_exp(logit - value[kTop]) / value[kSum];
  }
  __device__ __forceinline__ T z(T log_g) const {
    return fast_exp(log_g - value[kTopG]) / value[kSumG];
  }
  // dL/da of a class: of the expectation (docs/method.md), or z (c - L) dlog G/da.
  __device__ __forceinline__ T expected_gradient(T logit) const {
    return (cost(logit) - value[kMeanLoss]) / value[kMass];
  }
  __device__ __forceinline__ T implicit_gradient(T logit, T a, T log_g) const {
    if ((log_g - value[kTopG]) - log_sum_g < -unseen_nats<T>())
      return T(0);  // false for NaN, which propagates
    return z(log_g) * (cost(logit) - value[kLoss]) * log_gamma_gradient(a, log_g);
  }
};

constexpr int kLossThreads = 512;
// Upper bound of the static shared memory of sprout_loss_rows_kernel.
constexpr int64_t kLossOwnBytes = 2048;

// Launch of the forward pass. Grid: x over groups of block.y rows, y over segments of a row.
struct RowsPlan {
  dim3 grid, block;
  // Whether each block keeps its rows in `shared_bytes` of shared memory and sums their gradients
  // of beta. At least two rows, so that the sums are at most half as many numbers as the logits.
  bool keeps;
  int64_t shared_bytes;
};
template <typename Logit, typename T>
RowsPlan plan_sprout_loss_rows(const SproutLossArgs& args, int64_t max_shared_bytes) {
  constexpr int64_t kLanes = 256, kPacketsALane = 8;
  const int64_t packets = packets_per_row(args.classes, kPacket<Logit>);
  RowsPlan plan{{}, row_block(packets, kLanes, 128), false, 0};
  const unsigned least = std::max(plan.block.y, 2u);
  const int64_t bytes = least * packets * kPacket<Logit> * 2 * static_cast<int64_t>(sizeof(T));
  if (args.wants_grad_beta && bytes <= max_shared_bytes) {
    plan.block.y = least;
    plan.keeps = true;
    plan.shared_bytes = bytes;
  }
  plan.grid = grid_of(ceil_div(args.batch, plan.block.y),
                      plan.keeps ? 1 : ceil_div(packets, plan.block.x * kPacketsALane));
  return plan;
}

// segments is [B, gridDim.y] if gridDim.y > 1; partial is [gridDim.x, K] if rows are kept, else
// null. The second launch bound is one block per multiprocessor: without it ptxas makes room for
// two, and spills.
template <typename Logit, typename T>
__global__ void __launch_bounds__(kLossThreads, 1)
    sprout_loss_rows_kernel(const __grid_constant__ SproutLossArgs args, RowSums<T>* segments,
                            T* partial) {
  constexpr int N = kPacket<Logit>;
  SPROUT_DYNAMIC_SHARED(memory);
  __shared__ RowSums<T> shared[kLossThreads / 32];
  __shared__ Largest<T> shared_largest[kLossThreads / 32];
  static_assert(sizeof shared + sizeof shared_largest <= kLossOwnBytes,
                "the plan assumes at most kLossOwnBytes");
  const int64_t K = args.classes;
  const PhiloxCall call(args.rng_state, K, args.first_row);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * blockDim.y;
  const int64_t row = first_row + threadIdx.y;
  const int64_t element = call.first_element + row * K;
  const RowPackets<N> packets(element, K);
  // Threads of an invalid row, or beyond the last one, only take part in reductions and barriers.
  const RowLabels<T> labels(args, row);
  const bool draws = labels.valid && args.label_mode == LabelMode::kSample;

  // The labels' variates bound which of the others are negligible.
  Largest<T> largest{-std::numeric_limits<T>::infinity()};
  for (int i = threadIdx.x; draws && i < 2; i += blockDim.x) {
    const int64_t k = i == 0 ? labels.label : labels.partner;
    const T a = labels.concentration(args, k, static_cast<T>(args.beta[k]));
    largest.combine({log_gamma_variate(a, call, Stream::kGamma, element + k)});
  }
  largest = row_reduce(largest, shared_largest);

  // Rows kept in shared memory: logits and log variates, each in whole packets.
  const int64_t kept = packets_per_row(K, N) * N;
  T* kept_logits = reinterpret_cast<T*>(memory) + threadIdx.y * 2 * kept;
  T* kept_log_g = kept_logits + kept;
  const T nothing = -std::numeric_limits<T>::infinity();
  const T anchor = labels.valid ? row_anchor<Logit>(args, row, labels) : T(0);
  const int64_t count = labels.valid ? packets.count : 0;
  RowSums<T> sums = RowSums<T>::empty();
  for (int64_t p = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x; p < count;
       p += static_cast<int64_t>(gridDim.y) * blockDim.x) {
    const int64_t k = packets.begin(p);
    T logit[N], a[N], log_g[N];
    load_packet(static_cast<const Logit*>(args.logits) + row * K, k, 0, K, nothing, logit);
    labels.concentrations(args, k, 0, K, a);
    sums.add_logits(logit);
    if (args.wants_mean) sums.add_concentrations(a, logit, anchor);
    if (partial != nullptr) keep_packet(logit, kept_logits + p * N);
    if (draws) {
      log_gamma_packet(a, call, element + k, largest.value - unseen_boost_nats<T>(args), log_g);
      sums.add_variates(log_g, logit, anchor);
      if (partial != nullptr) keep_packet(log_g, kept_log_g + p * N);
    }
  }
  sums = row_reduce(sums, shared);
  if (gridDim.y > 1) {
    if (threadIdx.x == 0 && row < args.batch) segments[row * gridDim.y + blockIdx.y] = sums;
    return;
  }
  const RowStats<T> stats(args, labels.valid, sums, anchor);
  if (threadIdx.x == 0 && row < args.batch) stats.store(args, row);
  if (partial == nullptr) return;

  // The gradient of beta, in place of the logits: first of each row, then their sum.
  __syncthreads();  // before threads read values kept by others
  for (int64_t k = threadIdx.x; row < args.batch && k < K; k += blockDim.x) {
    T gradient = device_nan<T>();
    if (labels.valid) {
      const T logit = kept_logits[k + packets.skip];
      if (args.beta_grad == BetaGrad::kExpected) {
        gradient = stats.expected_gradient(logit);
      } else {
        const T log_g = kept_log_g[k + packets.skip];
        const T a = labels.concentration(args, k, static_cast<T>(args.beta[k]));
        gradient = stats.implicit_gradient(logit, a, log_g);
      }
    }
    kept_logits[k + packets.skip] = gradient;
  }
  __syncthreads();  // before the gradients of rows are summed
  const int64_t rows = std::min(static_cast<int64_t>(blockDim.y), args.batch - first_row);
  for (int64_t k = threadIdx.y * blockDim.x + threadIdx.x; k < K; k += blockDim.x * blockDim.y) {
    T sum = T(0);
    for (int64_t i = 0; i < rows; ++i) {
      const RowPackets<N> other(call.first_element + (first_row + i) * K, K);
      sum += reinterpret_cast<const T*>(memory)[i * 2 * kept + k + other.skip];
    }
    partial[blockIdx.x * K + k] = sum * static_cast<T>(args.scale * args.alpha);
  }
}

// One row per thread; segments is [B, count].
template <typename Logit, typename T>
__global__ void sprout_loss_segments_kernel(const __grid_constant__ SproutLossArgs args,
                                            const RowSums<T>* segments, int64_t count) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= args.batch) return;
  const RowLabels<T> labels(args, row);
  RowSums<T> sums = segments[row * count];
  for (int64_t i = 1; i < count; ++i) sums.combine(segments[row * count + i]);
  const T anchor = labels.valid ? row_anchor<Logit>(args, row, labels) : T(0);
  RowStats<T>(args, labels.valid, sums, anchor).store(args, row);
}
constexpr int kSegmentsThreads = 64;
inline dim3 sprout_loss_segments_grid(const SproutLossArgs& args) {
  return grid_of(ceil_div(args.batch, kSegmentsThreads));
}

template <typename T>
__device__ __forceinline__ T row_weight(const SproutLossArgs& args, int64_t row) {
  const T* grad_loss = static_cast<const T*>(args.grad_loss);
  if (grad_loss == nullptr) return T(1);  // in the forward pass: for the summed loss
  if (args.reduction == Reduction::kNone) return grad_loss[row];
  if (args.reduction == Reduction::kMean) return grad_loss[0] / static_cast<T>(args.batch);
  return grad_loss[0];
}

constexpr int kGradThreads = 256;

// Each block processes a chunk of `classes` classes for one of `groups` groups of `rows` rows, with
// one packet of each row per thread. If packets begin at a different class in every row, the first
// and last packets of a chunk are shared with other blocks.
struct GradPlan {
  dim3 grid, block;
  int64_t rows, groups, classes;
};
template <typename Logit, typename T>
GradPlan plan_sprout_loss_grad(const SproutLossArgs& args) {
  constexpr int N = kPacket<Logit>;
  const int64_t packets = packets_per_row(args.classes, N);
  GradPlan plan{{}, row_block(packets, kGradThreads, kGradThreads), 0, 0, 0};
  // The partial sums of beta's gradient use at most a quarter of the logits' memory.
  constexpr int64_t kRows = sizeof(Logit) < sizeof(T) ? 8 : 4;
  plan.rows = args.wants_grad_beta ? std::max<int64_t>(plan.block.y, kRows) : plan.block.y;
  const int64_t whole = plan.block.x - (args.classes % N == 0 ? 0 : 1);
  plan.classes = packets <= plan.block.x ? args.classes : whole * N;
  plan.groups = ceil_div(args.batch, plan.rows);
  plan.grid = grid_of(plan.groups * ceil_div(args.classes, plan.classes));
  return plan;
}

// kSumsBeta: whether the gradient of beta is requested, in `partial` [groups, K]. args.grad_logits
// is null if that of the logits is not. dL/dlogit_k = softmax_k - z_k, since z sums to 1.
template <typename Logit, typename T, bool kSumsBeta>
__global__ void __launch_bounds__(kGradThreads)
    sprout_loss_grad_kernel(const __grid_constant__ SproutLossArgs args, int64_t rows,
                            int64_t classes, T* partial) {
  constexpr int N = kPacket<Logit>;
  __shared__ T sums[kSumsBeta ? kGradThreads * N : 1];
  const int64_t K = args.classes;
  const PhiloxCall call(args.rng_state, K, args.first_row);
  const int64_t chunks = ceil_div(K, classes), group = blockIdx.x / chunks;
  const int64_t begin = (blockIdx.x - group * chunks) * classes, end = std::min(begin + classes, K);
  const int lanes = static_cast<int>(blockDim.x), team = static_cast<int>(threadIdx.y);
  const int thread = team * lanes + static_cast<int>(threadIdx.x);
  // Index of a team's sum for class k: consecutive classes of a thread are `lanes` apart, so that
  // the accesses of a warp do not conflict in a bank.
  const auto place = [&](int of_team, int64_t k) {
    const int from_begin = static_cast<int>(k - begin);
    return (of_team * N + from_begin % N) * lanes + from_begin / N;
  };
  if constexpr (kSumsBeta) {
    for (int j = 0; j < N; ++j) sums[j * kGradThreads + thread] = T(0);
  }
  const bool draws = args.label_mode == LabelMode::kSample &&
                     (args.grad_logits != nullptr || args.beta_grad == BetaGrad::kImplicit);
  const int64_t first_row = group * rows, last_row = std::min(first_row + rows, args.batch);
  for (int64_t team_row = first_row; team_row < last_row; team_row += blockDim.y) {
    if constexpr (kSumsBeta) __syncthreads();  // the thread of a class differs between rows
    const int64_t row = team_row + team;
    if (row >= last_row) continue;
    const int64_t element = call.first_element + row * K;
    const RowPackets<N> packets(element, K);
    const int64_t k = packets.begin((begin + packets.skip) / N + threadIdx.x);
    if (k >= end) continue;
    const RowLabels<T> labels(args, row);
    const RowStats<T> stats(args, row);
    const T weight = row_weight<T>(args, row);
    const T nan = device_nan<T>();
    T logit[N], a[N], log_g[N], gradient[N];
#pragma unroll
    for (int j = 0; j < N; ++j) log_g[j] = gradient[j] = nan;
    if (labels.valid) {
      load_packet(static_cast<const Logit*>(args.logits) + row * K, k, begin, end, T(0), logit);
      labels.concentrations(args, k, begin, end, a);
      const T least_boost = stats.value[kTopG] - unseen_boost_nats<T>(args);
      if (draws) log_gamma_packet(a, call, element + k, least_boost, log_g);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const T z =
            args.label_mode == LabelMode::kMean ? a[j] / stats.value[kMass] : stats.z(log_g[j]);
        gradient[j] = weight * (stats.softmax(logit[j]) - z);
      }
    }
    if (args.grad_logits != nullptr) {
      store_packet(gradient, k, begin, end, static_cast<Logit*>(args.grad_logits) + row * K);
    }
    if constexpr (kSumsBeta) {
#pragma unroll 1
      for (int j = 0; j < N; ++j) {  // keep a single copy of the series in the code
        if (k + j < begin || k + j >= end) continue;
        T of_row = nan;
        if (labels.valid && args.beta_grad == BetaGrad::kExpected) {
          of_row = stats.expected_gradient(pick(logit, j));
        } else if (labels.valid) {
          of_row = stats.implicit_gradient(pick(logit, j), pick(a, j), pick(log_g, j));
        }
        sums[place(team, k + j)] += weight * of_row;
      }
    }
  }
  if constexpr (kSumsBeta) {
    __syncthreads();  // before the sums of the teams are added
    for (int64_t k = begin + thread; k < end; k += kGradThreads) {
      T sum = T(0);
      for (int i = 0; i < static_cast<int>(blockDim.y); ++i) sum += sums[place(i, k)];
      partial[group * K + k] = sum * static_cast<T>(args.scale * args.alpha);
    }
  }
}

// grad_beta[k] = factor * sum over groups of partial [groups, K].
constexpr int kGradBetaClasses = 32, kGradBetaTeams = 8;
inline dim3 sprout_loss_grad_beta_grid(const SproutLossArgs& args) {
  return grid_of(ceil_div(args.classes, kGradBetaClasses));
}
template <typename T>
__global__ void __launch_bounds__(kGradBetaClasses* kGradBetaTeams)
    sprout_loss_grad_beta_kernel(const T* partial, int64_t groups, int64_t classes, T factor,
                                 float* grad_beta) {
  __shared__ T sums[kGradBetaTeams][kGradBetaClasses];
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kGradBetaClasses + threadIdx.x;
  T sum = T(0);
  for (int64_t group = threadIdx.y; k < classes && group < groups; group += kGradBetaTeams) {
    sum += partial[group * classes + k];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || k >= classes) return;
  for (int team = 1; team < kGradBetaTeams; ++team) sum += sums[team][threadIdx.x];
  grad_beta[k] = static_cast<float>(factor * sum);
}

constexpr int kFinishThreads = 512;
// Whether the finish kernel's one block adds up the groups, of which a thread reads one after the
// other; otherwise sprout_loss_grad_beta_kernel does it first.
inline bool finish_sums_groups(int64_t groups, int64_t classes) {
  return groups <= 32 && groups * classes <= 8192;
}

// Sums over the threads of the finish kernel.
template <typename T>
struct FinishSums {
  T loss;
  int not_finite;  // gradients
  __device__ __forceinline__ void combine(const FinishSums& o) {
    loss += o.loss;
    not_finite += o.not_finite;
  }
  __device__ __forceinline__ FinishSums shuffled(int mask) const {
    FinishSums o;
    o.loss = __shfl_xor_sync(0xffffffffu, loss, mask);
    o.not_finite = __shfl_xor_sync(0xffffffffu, not_finite, mask);
    return o;
  }
};

// One block. A thread has the same classes in each of its loops.
template <typename T>
__global__ void __launch_bounds__(kFinishThreads)
    sprout_loss_finish_kernel(const __grid_constant__ SproutFinishArgs args) {
  __shared__ FinishSums<T> shared[kFinishThreads / 32];
  __shared__ RunningSum<double> shared_total[kFinishThreads / 32];
  const int64_t K = args.classes;
  FinishSums<T> found{T(0), 0};
  for (int64_t k = threadIdx.x; k < K; k += kFinishThreads) {
    float gradient = args.summed == nullptr ? 0.0f : args.summed[k];
    if (args.partial != nullptr) {
      T sum = T(0);
      for (int64_t group = 0; group < args.groups; ++group) {
        sum += static_cast<const T*>(args.partial)[group * K + k];
      }
      gradient = static_cast<float>(static_cast<T>(args.factor) * sum);
    }
    if (!accumulate_gradient(args, k, gradient)) ++found.not_finite;
  }
  if (args.loss != nullptr) {
    for (int64_t row = threadIdx.x; row < args.batch; row += kFinishThreads) {
      found.loss += static_cast<const T*>(args.row_stats)[row * kRowStats + kLoss];
    }
  }
  found = row_reduce(found, shared);
  if (threadIdx.x == 0 && args.loss != nullptr) {
    *static_cast<T*>(args.loss) = found.loss / static_cast<T>(args.batch);
    PhiloxCall::advance(args.rng, args.first_row, args.used_rng);
  }
  if (!args.steps) return;
  RunningSum<double> total{0.0};
  for (int64_t k = threadIdx.x; k < K; k += kFinishThreads) {
    total.value += step_beta(args, k, found.not_finite == 0);
  }
  if (found.not_finite != 0 || args.step.largest_total == std::numeric_limits<float>::infinity()) {
    return;
  }
  total = row_reduce(total, shared_total);
  if (!(total.value > args.step.largest_total)) return;
  for (int64_t k = threadIdx.x; k < K; k += kFinishThreads) bound_beta(args, k, total.value);
}

}  // namespace sprout_fast
