// One element of a step of projected gradient descent in the l-infinity ball.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "macros.h"

namespace sprout_fast {

template <typename To, typename From>
SPROUT_HOST_DEVICE To same_bits(From value) {
  To result;
  static_assert(sizeof result == sizeof value);
  memcpy(&result, &value, sizeof result);
  return result;
}

template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The largest number of T that is at most `value`, which is finite and at least 0.
template <typename T>
SPROUT_HOST_DEVICE T rounded_down(double value) {
  const T nearest = static_cast<T>(value);
  const BitsOf<T> above = static_cast<double>(nearest) > value ? 1 : 0;
  return same_bits<T>(same_bits<BitsOf<T>>(nearest) - above);
}

// clip(x_adv + step sign(gradient), x - eps, x + eps), then clip to [lower, upper]. The ball's
// bounds are the outermost numbers of T within eps of x: where rounding x -+ eps fell outside, they
// are one number further in. So the result is within eps exactly, unless x itself is outside of
// [lower, upper], which has the last word. The sign of 0 and of NaN is 0. NaN in x_adv or x stays
// NaN. All in T: double would cost a float kernel twice the time.
template <typename T, typename Gradient>
SPROUT_HOST_DEVICE T linf_step(T x_adv, Gradient gradient, T x, T step, T eps, T lower, T upper) {
  using Bits = BitsOf<T>;
  constexpr int kSignShift = 8 * sizeof(T) - 1;
  const T moved = x_adv + (gradient > 0.0f ? step : (gradient < 0.0f ? -step : T(0)));
  // Mirrored where it moved downwards, so that one bound remains.
  const Bits mirror = moved < x ? same_bits<Bits>(T(-0.0)) : 0;
  const T center = same_bits<T>(same_bits<Bits>(x) ^ mirror);
  const T image = same_bits<T>(same_bits<Bits>(moved) ^ mirror);
  // center + eps = bound + error exactly (Knuth's TwoSum).
  T bound = center + eps;
  const T part = bound - center;
  const T error = (center - (bound - part)) + (eps - part);
  // One number down where it is outside: towards 0 the bits shrink. A bound of 0 has no error.
  const Bits bits = same_bits<Bits>(bound);
  bound = same_bits<T>(bits - (error < T(0) ? (bits >> kSignShift) | 1 : 0));
  const T clipped = image > bound ? bound : image;
  T result = same_bits<T>(same_bits<Bits>(clipped) ^ mirror);
  result = result < lower ? lower : result;
  result = result > upper ? upper : result;
  return x == x ? result : x;
}

}  // namespace sprout_fast
