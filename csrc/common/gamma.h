// Standard gamma variates in log space.
#pragma once

#include <limits>

#include "normal.h"
#include "philox.h"

namespace sprout_fast {

// The method is that of Marsaglia and Tsang, "A simple method for generating gamma variables" (ACM
// TOMS 26, 2000), for concentrations a >= 1. For a < 1 the variate is boosted, G_a = G_{a+1}
// U^(1/a), in log space, because most variates underflow float32 at a = 1e-3. The Philox block of
// an attempt serves a pair of neighbors and is addressed by the even one: words 0 and 1 give both
// normals, words 2 and 3 decide acceptance. The U of the boosts come from a separate draw, whose
// four words serve a group of four elements and which is addressed by the first of them.

// Each attempt is rejected with probability < 0.05, so all 32 fail once in 1e41 variates.
constexpr uint32_t kMaxGammaDraws = 32;
constexpr uint32_t kGammaBoostDraw = kMaxGammaDraws;

// The block whose word (element & 3) gives the element's boost.
SPROUT_HOST_DEVICE Philox4 gamma_boost_words(const PhiloxCall& call, Stream stream,
                                             int64_t element) {
  return call.words(stream, element - (element & 3), kGammaBoostDraw);
}

// The boost log U / a of an element with a < 1.
template <typename T>
SPROUT_HOST_DEVICE T gamma_boost(T a, const PhiloxCall& call, Stream stream, int64_t element) {
  const Philox4 words = gamma_boost_words(call, stream, element);
  const uint32_t low = (element & 1) == 0 ? words.w0 : words.w1;
  const uint32_t high = (element & 1) == 0 ? words.w2 : words.w3;
  return log_uniform_as<T>((element & 2) == 0 ? low : high) / a;
}

// In a Dirichlet sample, variates more than this many nats below the row's largest get z = 0.
// Dropping variates T nats below it loses about (T + 1) e^-T of the expected gradient for any
// concentration, here 2e-16, and saves most of the work of most rows.
constexpr float kNegligibleNats = 40.0f;

// log G_a <= boost + kBoostHeadroom except for one variate in 1e22, since G_{a+1} < e^4. So
// variates whose boost is kNegligibleBoostNats below the largest are negligible.
constexpr float kBoostHeadroom = 4.0f, kNegligibleBoostNats = kNegligibleNats + kBoostHeadroom;

// What an attempt needs to know of the concentration.
template <typename T>
struct GammaShape {
  T d, c, log_d;  // for a, or for a + 1 if a < 1
};

template <typename T>
SPROUT_HOST_DEVICE GammaShape<T> gamma_shape(T a) {
  const T d = (a < T(1) ? a + T(1) : a) - T(1.0 / 3.0);
  return {d, T(1) / std::sqrt(T(9) * d), fast_log(d)};
}

// A proposal for log G, to be accepted with probability e^log_acceptance.
template <typename T>
struct GammaProposal {
  T log_g, log_acceptance;
};

template <typename T>
SPROUT_HOST_DEVICE GammaProposal<T> gamma_proposal(const GammaShape<T>& shape, T normal) {
  const T t = shape.c * normal;
  const bool positive = t > T(-1);
  const T s = positive ? t : T(0);
  const T log_v = T(3) * fast_log1p(s);  // v = (1 + c x)^3
  const T v_minus_1 = s * (T(3) + s * (T(3) + s));
  const T log_acceptance = T(0.5) * normal * normal + shape.d * (log_v - v_minus_1);
  return {shape.log_d + log_v, positive ? log_acceptance : -std::numeric_limits<T>::infinity()};
}

// log G_a for a >= 1 and log G_{a+1} for a < 1; log d, near the mode, after kMaxGammaDraws
// rejections.
template <typename T>
SPROUT_HOST_DEVICE T log_gamma_unboosted(T a, const PhiloxCall& call, Stream stream,
                                         int64_t element) {
  const GammaShape<T> shape = gamma_shape(a);
  const bool odd = (element & 1) != 0;
  for (uint32_t draw = 0; draw < kMaxGammaDraws; ++draw) {
    const Philox4 words = call.words(stream, element - (element & 1), draw);
    T even_normal, odd_normal;
    normal_pair(words.w0, words.w1, &even_normal, &odd_normal);
    const GammaProposal<T> proposal = gamma_proposal(shape, odd ? odd_normal : even_normal);
    if (log_uniform_as<T>(odd ? words.w3 : words.w2) < proposal.log_acceptance) {
      return proposal.log_g;
    }
  }
  return shape.log_d;
}

// The logarithm of a standard gamma variate: -inf for a = 0, NaN for a negative, infinite or NaN
// concentration.
template <typename T>
SPROUT_HOST_DEVICE T log_gamma_variate(T a, const PhiloxCall& call, Stream stream,
                                       int64_t element) {
  const T infinity = std::numeric_limits<T>::infinity();
  if (!(a > T(0) && a < infinity)) {
    return a == T(0) ? -infinity : std::numeric_limits<T>::quiet_NaN();
  }
  const T boost = a < T(1) ? gamma_boost(a, call, stream, element) : T(0);
  return log_gamma_unboosted(a, call, stream, element) + boost;
}

}  // namespace sprout_fast
