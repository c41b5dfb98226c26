// One element of a PGD step in an l-infinity ball.
#pragma once

#include <cstdint>
#include <type_traits>

#include "elementary.h"

namespace sprout_fast {

template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// The largest number of type T that is at most `value`, which must be finite and nonnegative.
template <typename T>
SPROUT_HOST_DEVICE T rounded_down(double value) {
  const T nearest = static_cast<T>(value);
  const BitsOf<T> above = static_cast<double>(nearest) > value ? 1 : 0;
  return same_bits<T>(same_bits<BitsOf<T>>(nearest) - above);
}

// clip(x_adv + step sign(gradient), x - eps, x + eps), then clip to [lower, upper]. The bounds of
// the ball are the outermost numbers of type T within eps of x: if x -+ eps was rounded outwards,
// the bound is the next number inwards. The result is therefore within eps exactly, unless x itself
// is outside [lower, upper], which takes precedence. The sign of 0 and of NaN is 0; NaN in x_adv or
// x stays NaN. All arithmetic is in T: double would double the time of a float kernel.
template <typename T, typename Gradient>
SPROUT_HOST_DEVICE T linf_step(T x_adv, Gradient gradient, T x, T step, T eps, T lower, T upper) {
  using Bits = BitsOf<T>;
  constexpr int kSignShift = 8 * sizeof(T) - 1;
  const T moved = x_adv + (gradient > 0.0f ? step : (gradient < 0.0f ? -step : T(0)));
  // Mirrored if it moved downwards, so that only the upper bound has to be computed.
  const Bits mirror = moved < x ? same_bits<Bits>(T(-0.0)) : 0;
  const T center = same_bits<T>(same_bits<Bits>(x) ^ mirror);
  const T image = same_bits<T>(same_bits<Bits>(moved) ^ mirror);
  // center + eps = bound + error exactly (Knuth's TwoSum).
  T bound = center + eps;
  const T part = bound - center;
  const T error = (center - (bound - part)) + (eps - part);
  // Move to the next number down if it is outside: the bits decrease towards 0. A bound of 0 is
  // exact.
  const Bits bits = same_bits<Bits>(bound);
  bound = same_bits<T>(bits - (error < T(0) ? (bits >> kSignShift) | 1 : 0));
  const T clipped = image > bound ? bound : image;
  T result = same_bits<T>(same_bits<Bits>(clipped) ^ mirror);
  result = result < lower ? lower : result;
  result = result > upper ? upper : result;
  return x == x ? result : x;
}

}  // namespace sprout_fast
