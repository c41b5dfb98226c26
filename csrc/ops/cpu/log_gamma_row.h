// A row of gamma variates on CPU, in loops that the compiler turns into vector instructions.
// Included by kernels, inside their instruction set's namespace.
#pragma once

#include <limits>

#include "../../common/gamma.h"
#include "isa.h"
#include "philox_block.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

// Rows are worked on in whole blocks; a row's arrays have room up to the next multiple of this.
constexpr int64_t kGammaPadding = 32;

// log_g[k] = log of element (first + k)'s variate, for k in [0, count). Those surely negligible
// beside `largest` (a lower bound of the row's largest, or -inf) become -inf, at the cost of their
// boost. Concentrations must be finite and at least 0; `pending` [count] is scratch.
template <typename T>
void log_gamma_row(const PhiloxCall& call, int64_t first, int64_t count, const T* concentration,
                   T largest, T* log_g, int32_t* pending) {
  const T infinity = std::numeric_limits<T>::infinity();
  // 1. The boosts: four neighbours share a block, so that most of a row of small concentrations is
  // done with after a quarter of a block an element.
  const int64_t skip = first & 3;
  // Below 0, since from a = 1 on the boost is 0 and says nothing of the variate.
  const T bound = largest - T(kNegligibleNats) - T(kLogGammaHeadroom);
  const T threshold = bound < T(0) ? bound : T(-1);
  int64_t waiting = 0;
  for (int64_t k0 = -skip; k0 < count; k0 += 4 * kPhiloxLanes) {
    int64_t elements[kPhiloxLanes];
    uint32_t words[4][kPhiloxLanes];
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) elements[lane] = first + k0 + 4 * lane;
    philox_block(call, Stream::kGamma, elements, kGammaBoostDraw, words);
    uint32_t ordered[4 * kPhiloxLanes];
    for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
      for (int64_t j = 0; j < 4; ++j) ordered[4 * lane + j] = words[j][lane];
    }
    const int64_t begin = k0 < 0 ? -k0 : 0;
    const int64_t end = count - k0 < 4 * kPhiloxLanes ? count - k0 : 4 * kPhiloxLanes;
    T boost[4 * kPhiloxLanes];
    for (int64_t i = begin; i < end; ++i) {
      const T a = concentration[k0 + i];
      const T log_u = log_uniform_as<T>(ordered[i]);
      boost[i] = a < T(1) ? log_u / a : T(0);  // -inf at a = 0
    }
    for (int64_t i = begin; i < end; ++i) {
      // >=: under a = 1e-8 or so a boost swallows the headroom, and the largest variate's own
      // equals the threshold. -inf (a = 0) has no variate to wait for.
      const bool wanted = boost[i] >= threshold && boost[i] > -infinity;
      log_g[k0 + i] = wanted ? boost[i] : -infinity;
      pending[waiting] = static_cast<int32_t>(k0 + i);
      waiting += wanted ? 1 : 0;
    }
  }
  // 2. Rounds of attempts at those that matter; the rejected wait for the next round.
  for (uint32_t draw = 0; draw < kMaxGammaDraws && waiting > 0; ++draw) {
    int64_t rejected = 0;
    for (int64_t n = 0; n < waiting; n += kPhiloxLanes) {
      int32_t index[kPhiloxLanes];
      int64_t elements[kPhiloxLanes];
      T a[kPhiloxLanes], variate[kPhiloxLanes];
      int32_t accepted[kPhiloxLanes];
      uint32_t words[4][kPhiloxLanes];
      const int64_t lanes = waiting - n < kPhiloxLanes ? waiting - n : kPhiloxLanes;
      for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
        index[lane] = pending[lane < lanes ? n + lane : n];
        elements[lane] = first + index[lane];
        a[lane] = concentration[index[lane]];
      }
      philox_block(call, Stream::kGamma, elements, draw, words);
      for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
        const Philox4 w{words[0][lane], words[1][lane], words[2][lane], 0};
        const bool ok = gamma_attempt(a[lane] < T(1) ? a[lane] + T(1) : a[lane], w, &variate[lane]);
        accepted[lane] = ok ? 1 : 0;
      }
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const T done = log_g[index[lane]] + variate[lane];
        if (accepted[lane] != 0) {
          log_g[index[lane]] = done;
        } else {
          pending[rejected++] = index[lane];  // behind what has been read
        }
      }
    }
    waiting = rejected;
  }
  for (int64_t n = 0; n < waiting; ++n) {
    const T a = concentration[pending[n]];
    log_g[pending[n]] += gamma_mode(a < T(1) ? a + T(1) : a);
  }
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
