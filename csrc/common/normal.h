// Uniform and normal random numbers from Philox words.
#pragma once

#include "elementary.h"

namespace sprout_fast {

// U = (w + 1/2) / 2^32, rounded; 1 for the largest few w.
template <typename T>
SPROUT_HOST_DEVICE T uniform_as(uint32_t w) {
  return static_cast<T>(w) * T(2.3283064365386963e-10) + T(1.1641532182693481e-10);
}

// log U for U = (w + 1/2) / 2^32, accurate at both ends: U is never 0 or 1, and near 1 it is
// computed from 1 - U, which float could not recover from U.
SPROUT_HOST_DEVICE float log_uniform(uint32_t w) {
  const int32_t upper_half = static_cast<int32_t>(w) >> 31;       // all ones if U > 1/2
  const int32_t distance = static_cast<int32_t>(w) ^ upper_half;  // to the nearer end
  const float v = static_cast<float>(distance) * 2.3283064365386963e-10f + 1.1641532182693481e-10f;
  const float u = upper_half != 0 ? 1.0f - v : v;
  const int32_t bits = float_to_bits(u);
  const int32_t e = (bits - 0x3f3504f3) >> 23;  // as in log_parts
  const float f = e == 0 ? -v : bits_to_float(bits - e * (1 << 23)) - 1.0f;
  const float k = static_cast<float>(e);
  return k * 0.693359375f + (log1p_reduced(f) - k * 2.12194440e-4f);
}

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
template <typename T>
SPROUT_HOST_DEVICE T normal_radius(uint32_t word) {
  return std::sqrt(T(-2) * log_uniform_as<T>(word));
}
template <typename T>
SPROUT_HOST_DEVICE void normal_pair(uint32_t radius_word, uint32_t angle_word, T* first,
                                    T* second) {
  T sine, cosine;
  sincos_turns(angle_word, &sine, &cosine);
  const T radius = normal_radius<T>(radius_word);
  *first = radius * cosine;
  *second = radius * sine;
}

}  // namespace sprout_fast
