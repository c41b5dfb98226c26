// exp, log, sin and cos as straight-line code, so that the compiler vectorizes loops over them on
// CPU and host and device agree to the last few bits. Only the float versions that kernels need in
// bulk are written out; double uses the standard library. Functions that are templates of the
// floating-point type also serve vectors of floats (Lane, csrc/ops/cpu/vector.h).
//
// The polynomials are minimax fits by csrc/generate/elementary.py, which prints their errors.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "macros.h"

namespace sprout_fast {

SPROUT_HOST_DEVICE float bits_to_float(int32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

SPROUT_HOST_DEVICE int32_t float_to_bits(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The value of another type with the same bits.
template <typename To, typename From>
SPROUT_HOST_DEVICE To same_bits(From value) {
  To result;
  static_assert(sizeof result == sizeof value);
  memcpy(&result, &value, sizeof result);
  return result;
}

// What goes with float, or with a vector of floats, of the same size: signed and unsigned integers,
// and functions that operators do not cover.
template <typename Float>
struct Lane;
template <>
struct Lane<float> {
  using Int = int32_t;
  using Word = uint32_t;
  static SPROUT_HOST_DEVICE float from(int32_t i) { return static_cast<float>(i); }
  static SPROUT_HOST_DEVICE float sqrt(float x) { return std::sqrt(x); }
};

// log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1]. Relative error of the fit: 8e-10.
SPROUT_HOST_DEVICE float log1p_reduced(float f) {
  float p = 0.06915368139743805f;
  p = p * f + -0.11789807677268982f;
  p = p * f + 0.11872976273298264f;
  p = p * f + -0.1238434836268425f;
  p = p * f + 0.14218658208847046f;
  p = p * f + -0.16669251024723053f;
  p = p * f + 0.20002226531505585f;
  p = p * f + -0.24999986588954926f;
  p = p * f + 0.3333331048488617f;
  const float f2 = f * f;
  return f + (f2 * f * p - 0.5f * f2);
}

// log x = high + low. `high` is a multiple of the leading bits of log 2 and exact; |low| < 0.35.
struct LogParts {
  float high, low;
};
SPROUT_HOST_DEVICE LogParts log_parts(float x) {
  const int32_t bits = float_to_bits(x);
  const int32_t e = (bits - 0x3f3504f3) >> 23;  // x = m 2^e, m in [sqrt(1/2), sqrt(2))
  const float m = bits_to_float(bits - e * (1 << 23));
  const float k = static_cast<float>(e);
  // log 2 in two parts, the first of so few bits that its product with k is exact.
  return {k * 0.693359375f, log1p_reduced(m - 1.0f) - k * 2.12194440e-4f};
}

// log x for positive normal x. Any other x gives a finite, meaningless number.
SPROUT_HOST_DEVICE float fast_log(float x) {
  const LogParts parts = log_parts(x);
  return parts.high + parts.low;
}
SPROUT_HOST_DEVICE double fast_log(double x) { return std::log(x); }

// log(1 + t) for t > -1, with the relative accuracy of log even for small t.
SPROUT_HOST_DEVICE float fast_log1p(float t) {
  const float u = 1.0f + t;
  const int32_t bits = float_to_bits(u);
  const int32_t e = (bits - 0x3f3504f3) >> 23;  // as in log_parts
  const float m = bits_to_float(bits - e * (1 << 23));
  const float by_power = bits_to_float((127 - e) * (1 << 23));  // 2^-e
  const float f = (m - 1.0f) + (t - (u - 1.0f)) * by_power;     // with what the rounding of u lost
  const float k = static_cast<float>(e);
  return k * 0.693359375f + (log1p_reduced(f) - k * 2.12194440e-4f);
}
SPROUT_HOST_DEVICE double fast_log1p(double t) { return std::log1p(t); }

// exp x for x < 88; 0 below -87.7, where float's normal numbers end; NaN for NaN.
SPROUT_HOST_DEVICE float fast_exp_below_88(float x) {
  const float clamped = x < -88.1f ? -88.1f : x;
  const float shifted =
      clamped * 1.44269504088896f + 12582912.0f;  // 1.5 2^23: rounds to an integer
  const int32_t n = float_to_bits(shifted) - 0x4B400000;
  const float k = shifted - 12582912.0f;
  const float r = (clamped - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 0.00019917816098313779f;
  p = p * r + 0.0013946074759587646f;
  p = p * r + 0.008333265781402588f;
  p = p * r + 0.041666269302368164f;
  p = p * r + 0.1666666716337204f;
  p = p * r + 0.5f;
  p = (p * r) * r + r + 1.0f;
  // 2^n, or 0 for n = -127. Unsigned, because n is arbitrary for a NaN.
  return p * bits_to_float(static_cast<int32_t>(static_cast<uint32_t>(n + 127) << 23));
}
SPROUT_HOST_DEVICE double fast_exp_below_88(double x) { return std::exp(x); }

// exp x, capped at 2.4e38, its value at 88.37.
SPROUT_HOST_DEVICE float fast_exp(float x) { return fast_exp_below_88(x > 88.37f ? 88.37f : x); }
SPROUT_HOST_DEVICE double fast_exp(double x) { return std::exp(x); }

// (sin, cos) of 2 pi w / 2^32.
template <typename Float>
SPROUT_HOST_DEVICE void sincos_turns(typename Lane<Float>::Word w, Float* sine, Float* cosine) {
  using Int = typename Lane<Float>::Int;
  // The multiple of a quarter turn that is nearest is in the upper two bits of w + 1/8 turn; the
  // rest, within 1/8 turn of 0, is the lower 30 bits of w as a signed number, here times 4.
  const typename Lane<Float>::Word y = w + 0x20000000u, twice_y = y + y;
  const Float t = Lane<Float>::from((Int)(w << 2)) * 3.657295199817824e-10f;  // 2 pi / 2^34
  const Float s = t * t;
  const Float a =
      (s * -1.9517297914717346e-04f + 8.332177996635437e-03f) * s - 1.6666655242443085e-01f;
  const Float sin_t = t * s * a + t;
  const Float b =
      (s * 2.443845005473122e-05f - 1.388736767694354e-03f) * s + 4.166664555668831e-02f;
  const Float cos_t = (s * b - 0.5f) * s + 1.0f;
  const Float sin_q = (Int)twice_y < 0 ? cos_t : sin_t;  // an odd number of quarter turns
  const Float cos_q = (Int)twice_y < 0 ? sin_t : cos_t;
  // Set the signs by their bits.
  *sine = same_bits<Float>(same_bits<Int>(sin_q) ^ (Int)(y & 0x80000000u));
  *cosine = same_bits<Float>(same_bits<Int>(cos_q) ^ (Int)((y ^ twice_y) & 0x80000000u));
}
SPROUT_HOST_DEVICE void sincos_turns(uint32_t w, double* sine, double* cosine) {
#if defined(__CUDA_ARCH__)
  sincospi(static_cast<double>(w) * 0x1p-31, sine, cosine);  // sin and cos use local memory
#else
  const double t = static_cast<double>(w) * 1.4629180792671596e-9;
  *sine = std::sin(t);
  *cosine = std::cos(t);
#endif
}

}  // namespace sprout_fast
