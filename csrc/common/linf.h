// One element of a step of projected gradient descent in the l-infinity ball.
#pragma once

#include <cstdint>
#include <cstring>

#include "macros.h"

namespace sprout_fast {

// The number next to `v` in the direction of `up`; v finite.
SPROUT_HOST_DEVICE float next_number(float v, bool up) {
  int32_t bits;
  memcpy(&bits, &v, sizeof bits);
  // Away from zero the bits grow; from zero the smallest number of the direction's sign.
  const bool away = (v > 0.0f) == up;
  bits = v == 0.0f ? (up ? 1 : static_cast<int32_t>(0x80000001u)) : (away ? bits + 1 : bits - 1);
  memcpy(&v, &bits, sizeof v);
  return v;
}
SPROUT_HOST_DEVICE double next_number(double v, bool up) {
  int64_t bits;
  memcpy(&bits, &v, sizeof bits);
  const bool away = (v > 0.0) == up;
  bits = v == 0.0 ? (up ? 1 : static_cast<int64_t>(0x8000000000000001u))
                  : (away ? bits + 1 : bits - 1);
  memcpy(&v, &bits, sizeof v);
  return v;
}

// clip(x_adv + step sign(gradient), x - eps, x + eps), then clip to [lower, upper]. The ball's
// bounds are the outermost numbers of T within eps of x, the difference taken in double: where
// rounding x -+ eps to T fell outside, they are one number further in. So the result is within eps
// exactly, unless x itself is outside of [lower, upper], which has the last word. The sign of 0 and
// of NaN is 0. NaN in x_adv or x stays NaN.
template <typename T, typename Gradient>
SPROUT_HOST_DEVICE T linf_step(T x_adv, Gradient gradient, T x, T step, double eps, T lower,
                               T upper) {
  T moved = x_adv + (gradient > 0.0f ? step : (gradient < 0.0f ? -step : T(0)));
  const double exact = static_cast<double>(x);
  T low = static_cast<T>(exact - eps), high = static_cast<T>(exact + eps);
  low = exact - static_cast<double>(low) > eps ? next_number(low, true) : low;
  high = static_cast<double>(high) - exact > eps ? next_number(high, false) : high;
  moved = moved < low ? low : moved;
  moved = moved > high ? high : moved;
  moved = moved < lower ? lower : moved;
  moved = moved > upper ? upper : moved;
  return x == x ? moved : x;
}

}  // namespace sprout_fast
