// Log gamma variates of consecutive elements in one thread.
#pragma once

#include "../../common/device_types.h"
#include "../../common/gamma.h"

namespace sprout_fast {

// log_gamma_variate of N elements from `element`, a multiple of 4: a group of four shares the
// Philox block of its boosts, a pair that of its attempts. Elements with a = 0 cost nothing.
// Those with a < 1 whose boost is not above `least_boost` become -inf.
template <typename T, int N>
__device__ __forceinline__ void log_gamma_packet(const T (&a)[N], const PhiloxCall& call,
                                                 int64_t element, T least_boost, T (&log_g)[N]) {
  const T infinity = std::numeric_limits<T>::infinity();
  uint32_t pending = 0;  // bit j: element j needs a variate
#pragma unroll
  for (int group = 0; group < N; group += 4) {
    bool boosted = false;
#pragma unroll
    for (int j = group; j < group + 4; ++j) boosted = boosted || (a[j] > T(0) && a[j] < T(1));
    Philox4 words{0, 0, 0, 0};
    if (boosted) words = gamma_boost_words(call, Stream::kGamma, element + group);
    const uint32_t word[4] = {words.w0, words.w1, words.w2, words.w3};
#pragma unroll
    for (int j = group; j < group + 4; ++j) {
      const T boost = a[j] < T(1) ? log_uniform_as<T>(word[j - group]) / a[j] : T(0);
      const bool valid = a[j] > T(0) && a[j] < infinity;
      const bool wanted = valid && (a[j] >= T(1) || boost > least_boost);
      log_g[j] = wanted ? boost : (valid || a[j] == T(0) ? -infinity : device_nan<T>());
      pending |= wanted ? 1u << j : 0u;
    }
  }
  // One attempt per iteration, for the next pair of this thread, so that no lane waits for the
  // rejections of another.
  uint32_t draw = 0;
  while (pending != 0) {
    const int pair = (__ffs(static_cast<int>(pending)) - 1) & ~1;
    const Philox4 words = call.words(Stream::kGamma, element + pair, draw);
    T normal[2];
    normal_pair(words.w0, words.w1, &normal[0], &normal[1]);
    ++draw;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = pair + i;
      if ((pending >> j & 1u) == 0) continue;
      const GammaShape<T> shape = gamma_shape(pick(a, j));
      const GammaProposal<T> proposal = gamma_proposal(shape, normal[i]);
      const uint32_t word = i == 0 ? words.w2 : words.w3;
      const bool accepted = log_uniform_as<T>(word) < proposal.log_acceptance;
      if (!accepted && draw < kMaxGammaDraws) continue;
      put(log_g, j, pick(log_g, j) + (accepted ? proposal.log_g : shape.log_d));
      pending &= ~(1u << j);
    }
    if ((pending >> pair & 3u) == 0) draw = 0;
  }
}

}  // namespace sprout_fast
