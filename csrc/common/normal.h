// Uniform and normal random numbers from Philox words.
#pragma once

#include <type_traits>

#include "elementary.h"

namespace sprout_fast {

// U = (w + 1/2) / 2^32, rounded; 1 for the largest few w.
template <typename T>
SPROUT_HOST_DEVICE T uniform_as(uint32_t w) {
  return static_cast<T>(w) * T(2.3283064365386963e-10) + T(1.1641532182693481e-10);
}

// -2 log U for U = (w + 1/2) / 2^32, accurate at both ends: U is never 0 or 1, and of a signed word
// near U = 1 conversion keeps the small number 1 - U, which float could not recover from U.
template <typename Float>
SPROUT_HOST_DEVICE Float minus_two_log_uniform(typename Lane<Float>::Word w) {
  using Int = typename Lane<Float>::Int;
  constexpr int32_t kMinusOne = static_cast<int32_t>(0xBF800000u);  // its bits
  // U = 2^k (1 - h/2) with h in [0, 1]. Above 1/2 k = 0 and h = s; below, U = -s/2.
  const Float s = Lane<Float>::from((Int)w) * -0x1p-31f - 0x1p-32f;
  const Int bits = same_bits<Int>(s);
  const Int low = bits < kMinusOne ? bits : Int() + kMinusOne;  // -1 also if s is positive
  const Float k = Lane<Float>::from((low >> 23) + 129);
  const Float below = same_bits<Float>((bits & 0x7FFFFF) | kMinusOne) + 2.0f;
  const Float h = bits < 0 ? below : s;
  // -2 log(1 - h/2) = h + h^2 p(h), p in pairs of terms, which wait for each other less (Estrin).
  const Float square = h * h;
  const Float p01 = h * 0.08340802788734436f + 0.24999761581420898f;
  const Float p23 = h * 0.016480563208460808f + 0.030460353940725327f;
  const Float p45 = h * 0.018885819241404533f - 0.005654486361891031f;
  const Float p67 = h * 0.0055255223996937275f - 0.012809081003069878f;
  const Float p = ((p67 * square + p45) * square + p23) * square + p01;
  return k * -1.3862943611198906f + (square * p + h);  // two nonnegative terms
}

SPROUT_HOST_DEVICE float log_uniform(uint32_t w) { return -0.5f * minus_two_log_uniform<float>(w); }

SPROUT_HOST_DEVICE double log_uniform_double(uint32_t w) { return std::log(uniform_as<double>(w)); }

template <typename T>
SPROUT_HOST_DEVICE T log_uniform_as(uint32_t w) {
  if constexpr (sizeof(T) == 4) {
    return log_uniform(w);
  } else {
    return log_uniform_double(w);
  }
}

// Two independent standard normals from two words (Box and Muller, 1958), with tails to 6.8 sigma.
template <typename T, typename Word>
SPROUT_HOST_DEVICE T normal_radius(Word word) {
  if constexpr (std::is_same_v<T, double>) {
    return std::sqrt(-2.0 * log_uniform_double(word));
  } else {
    return Lane<T>::sqrt(minus_two_log_uniform<T>(word));
  }
}
template <typename T, typename Word>
SPROUT_HOST_DEVICE void normal_pair(Word radius_word, Word angle_word, T* first, T* second) {
  T sine, cosine;
  sincos_turns(angle_word, &sine, &cosine);
  const T radius = normal_radius<T>(radius_word);
  *first = radius * cosine;
  *second = radius * sine;
}

}  // namespace sprout_fast
