// Gamma variates on CPU, a block of neighbouring elements at a time, as loops that the compiler turns
// into vector instructions. Included by kernels, inside their instruction set's namespace.
#pragma once

#include <limits>

#include "../../common/gamma.h"
#include "isa.h"

SPROUT_KERNEL_NAMESPACE_BEGIN
namespace {

constexpr int64_t kGammaLanes = 16;

// log G of kGammaLanes elements from `element` on. Lanes whose variate is surely negligible beside `largest` get
// -inf, and a block of nothing else costs no more than its boosts.
template <typename T>
void log_gamma_block(const PhiloxCall& call, int64_t element, const T* concentration, T largest,
                     T* log_g) {
  uint32_t w0[kGammaLanes], w1[kGammaLanes], w2[kGammaLanes];
  T boost[kGammaLanes];
  int32_t wanted = 0;
  for (int64_t i = 0; i < kGammaLanes; ++i) {
    const Philox4 w = call.words(Stream::kGamma, element + i, 0);
    w0[i] = w.w0;
    w1[i] = w.w1;
    w2[i] = w.w2;
    const T a = concentration[i];
    const T log_u = log_uniform_as<T>(w.w3);
    boost[i] = a < T(1) ? log_u / a : T(0);  // -inf at a = 0
    wanted |= boost[i] + T(kLogGammaHeadroom) >= largest - T(kNegligibleNats);
  }
  if (wanted == 0) {
    for (int64_t i = 0; i < kGammaLanes; ++i) log_g[i] = -std::numeric_limits<T>::infinity();
    return;
  }
  int32_t rejected[kGammaLanes];
  int32_t any_rejected = 0;
  for (int64_t i = 0; i < kGammaLanes; ++i) {
    const T a = concentration[i];
    T variate;
    const bool accepted =
        gamma_attempt(a < T(1) ? a + T(1) : a, Philox4{w0[i], w1[i], w2[i], 0}, &variate);
    log_g[i] = variate;
    rejected[i] = accepted ? 0 : 1;
    any_rejected |= rejected[i];
  }
  if (any_rejected != 0) {
    for (int64_t i = 0; i < kGammaLanes; ++i) {
      if (rejected[i] == 0) continue;
      const T a = concentration[i];
      log_g[i] = gamma_retry(a < T(1) ? a + T(1) : a, call, Stream::kGamma, element + i);
    }
  }
  for (int64_t i = 0; i < kGammaLanes; ++i) {
    const bool negligible = boost[i] + T(kLogGammaHeadroom) < largest - T(kNegligibleNats);
    log_g[i] = negligible ? -std::numeric_limits<T>::infinity() : log_g[i] + boost[i];
  }
}

}  // namespace
SPROUT_KERNEL_NAMESPACE_END
