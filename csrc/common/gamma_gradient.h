// The implicit reparameterization gradient of log gamma variates.
#pragma once

#include <limits>

#include "elementary.h"
#include "gamma_series.h"

namespace sprout_fast {

// The implicit gradient W(a, log g) = d log G / d a at the variate g, that is
//   W = -(dF(g; a)/da) / (g f(g; a)),
// with F and f the CDF and the density of the gamma distribution (Figurnov, Mohamed, Mnih,
// "Implicit Reparameterization Gradients", NeurIPS 2018). Differentiating F_a = -W g f in g gives
//   g dW/dg + (a - g) W = psi(a) - log g,
// and three solutions of this equation, each free of cancellation in its region, cover the plane:
//   1. large a, g within a factor e^2 of a: W = (1/a) sum_k V_k(u) a^-k with u = log(g/a), by
// substitution into the equation: V_0 = u / (e^u - 1), and V_k follows from V_{k-1}.
//   2. small g: W = sum_n g^n / (a)_{n+1} (psi(a + n + 1) - log g).
//   3. large g: W = C (log g - psi(a)) + dC/da, where C = Gamma(a, g) / (g^a e^-g), by Legendre's
//      continued fraction and its derivative.
// The relative error is below 1e-10 in double and below 1e-6 in float
// (tests/ops/test_log_gamma.py).
SPROUT_HOST_DEVICE double log_gamma_gradient_by_power_series(double a, double log_g) {
  const double g = std::exp(log_g);
  double psi_minus_log = digamma(a + 1.0) - log_g;  // psi(a + n + 1) - log g
  double term = 1.0 / a;
  double sum = term * psi_minus_log;
  for (int n = 1; n < 500; ++n) {
    const double factor = 1.0 / (a + n);
    term *= g * factor;
    psi_minus_log += factor;
    const double addend = term * psi_minus_log;
    sum += addend;
    if (term < 1e-17 * std::fabs(sum)) break;
  }
  return sum;
}

SPROUT_HOST_DEVICE double log_gamma_gradient_by_continued_fraction(double a, double log_g) {
  // Modified Lentz for C = 1/(g+1-a - 1(1-a)/(g+3-a - 2(2-a)/(g+5-a - ...))). Primes denote
  // derivatives with respect to a.
  const double g = std::exp(log_g);
  double b = g + 1.0 - a;
  double c = 1e300, c_prime = 0.0;
  double d = 1.0 / b, d_prime = d * d;
  double h = d, h_prime = d_prime;
  for (int i = 1; i < 500; ++i) {
    const double numerator = i * (a - i), numerator_prime = i;
    b += 2.0;
    const double dd = numerator * d + b;
    const double dd_prime = numerator_prime * d + numerator * d_prime - 1.0;
    const double cc = b + numerator / c;
    const double cc_prime = -1.0 + numerator_prime / c - numerator * c_prime / (c * c);
    d = 1.0 / dd;
    d_prime = -dd_prime * d * d;
    c = cc;
    c_prime = cc_prime;
    const double step = c * d, step_prime = c_prime * d + c * d_prime;
    h_prime = h_prime * step + h * step_prime;
    h *= step;
    if (std::fabs(step - 1.0) < 1e-15 && std::fabs(step_prime) < 1e-15) break;
  }
  return h * (log_g - digamma(a)) + h_prime;
}

SPROUT_HOST_DEVICE double log_gamma_gradient(double a, double log_g) {
  if (!(a > 0.0) || !(log_g < std::numeric_limits<double>::infinity())) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double u = log_g - std::log(a);
  if (a >= 8.0 && std::fabs(u) <= 2.0) return log_gamma_gradient_by_asymptotic_series(a, u);
  if (log_g <= std::log(a + 1.0 > 2.0 ? a + 1.0 : 2.0)) {
    return log_gamma_gradient_by_power_series(a, log_g);
  }
  return log_gamma_gradient_by_continued_fraction(a, log_g);
}

// The float version computes N lanes at once: N = 1 on a device, a few vectors on CPU. Regions meet
// where both neighbors are accurate to a few 1e-7. For a < 1, where SPROUT's concentrations are,
// two regions have their own code, without loops of unknown length.

// psi(a + 1) - y for a >= 0, with a rounding error relative to the difference instead of to psi.
SPROUT_HOST_DEVICE float digamma_of_next_minus(float a, float y) {
  // psi(a + 1) = psi(z) - 1/(a + 1) - 1/(a + 2), z = a + 3.
  const float z = a + 3.0f, r = 1.0f / z;
  const float shift = (a + z) / ((a + 1.0f) * (a + 2.0f));
  const LogParts log_z = log_parts(z);
  return ((log_z.high - y) - shift) + (log_z.low - r * (0.5f + r * digamma_tail(r * r)));
}

enum GammaRegion : int32_t {
  kSmall = 0,   // a < 1, small g
  kMiddle = 1,  // a < 1, most other g
  kPowerSeries = 2,
  kContinuedFraction = 3,
  kAsymptotic = 4
};
constexpr int32_t kGammaRegions = 5;

constexpr float kSmallRegionEnd = 0.7f;
SPROUT_HOST_DEVICE bool in_small_region(float a, float g) {
  return (a < 1.0f) & (g <= kSmallRegionEnd);
}
SPROUT_HOST_DEVICE bool below_middle_region_end(float a, float g) {
  return (a < 1.0f) & (g <= 16.0f);
}

SPROUT_HOST_DEVICE GammaRegion gamma_region(float a, float g) {
  const bool large = (a >= 4.0f) & (g >= 0.1353353f * a) & (g <= 5.4739f * a);
  const GammaRegion one_side = g <= a + 0.5f ? kPowerSeries : kContinuedFraction;
  const GammaRegion region = large ? kAsymptotic : one_side;
  const GammaRegion middle = below_middle_region_end(a, g) ? kMiddle : region;
  return in_small_region(a, g) ? kSmall : middle;
}

// The power series W = (S (psi(a + 1) - log g) + R) / a, nested from the last term outwards,
//   S_{n-1} = 1 + g / (a + n) S_n,  R_{n-1} = g / (a + n) (R_n + S_n / (a + n)),
// as fractions S_n = s / d and R_n = r / d^2, so that a single division remains. The remainder
// after N terms, S_N = 1F1(1; b; g) with b = a + N + 1 and R_N = -dS_N/da, is approximated by
//   S_N = (b + p g) / (b - (1 - p) g):
// p = 1 / (b + 1) would make its g^2 term exact; p = kTail gives the smallest error of W over this
// region, 1.1e-8. The last step,
//   a W = e_0 + g / (a + 1) (S_1 e_1 + R_1),  e_n = psi(a + n + 1) - log g,
// has one subtraction, of less than half, if e_0 < 0. excess = e_0.
template <int N>
SPROUT_HOST_DEVICE void log_gamma_gradient_at_small(const float (&a)[N], const float (&g)[N],
                                                    const float (&excess)[N], float (&w)[N]) {
  constexpr int kTerms = 6;
  constexpr float kTail = 0.14f;
  for (int i = 0; i < N; ++i) {
    const float b = a[i] + static_cast<float>(kTerms + 1);
    float s = b + kTail * g[i], d = b - (1.0f - kTail) * g[i], r = g[i];
#if defined(__CUDACC__)
#pragma unroll
#else
#pragma GCC unroll 6
#endif
    for (int n = kTerms; n >= 2; --n) {
      const float factor = a[i] + static_cast<float>(n);
      r = g[i] * (r * factor + s * d);
      d *= factor;
      s = d + g[i] * s;
    }
    const float e = excess[i], x = a[i] + 1.0f, xd = x * d;
    // Multiply by g first: it may be 0 and the rest infinite.
    const float rest = g[i] * s * d * (e * x + 1.0f) + g[i] * (r * x);
    w[i] = (e * (xd * xd) + rest) / (xd * xd * a[i]);
  }
}

// Solution 3, a W = C (1 - a e) + a dC/da with e = psi(a + 1) - log g, and C by a polynomial.
template <int N>
SPROUT_HOST_DEVICE void log_gamma_gradient_at_middle(const float (&a)[N], const float (&g)[N],
                                                     const float (&log_g)[N], float (&w)[N]) {
  for (int i = 0; i < N; ++i) {
    const float reciprocal = 1.0f / (g[i] + kUpperGammaShift);
    float c, c_prime;
    scaled_upper_gamma(a[i], reciprocal, &c, &c_prime);
    const float e = digamma_of_next(a[i]) - log_g[i];
    w[i] = (c * (1.0f - a[i] * e) + a[i] * c_prime) * reciprocal / a[i];
  }
}

// excess = psi(a + 1) - log g.
template <int N>
SPROUT_HOST_DEVICE void log_gamma_gradient_by_power_series(const float (&a)[N], const float (&g)[N],
                                                           const float (&excess)[N],
                                                           float (&w)[N]) {
  float term[N], psi_minus_log[N];
  for (int i = 0; i < N; ++i) {
    psi_minus_log[i] = excess[i];
    term[i] = 1.0f / a[i];
    w[i] = term[i] * excess[i];
  }
  int32_t more = 1;  // not bool, which GCC 12 does not vectorize
  for (int n = 1; more != 0 && n < 64; n += 4) {
    for (int m = n; m < n + 4; ++m) {
      for (int i = 0; i < N; ++i) {
        const float factor = 1.0f / (a[i] + static_cast<float>(m));
        term[i] *= g[i] * factor;
        psi_minus_log[i] += factor;
        w[i] += term[i] * psi_minus_log[i];
      }
    }
    more = 0;
    for (int i = 0; i < N; ++i) more |= term[i] > 1e-8f * w[i] ? 1 : 0;
  }
}

template <int N>
SPROUT_HOST_DEVICE void log_gamma_gradient_by_continued_fraction(const float (&a)[N],
                                                                 const float (&g)[N],
                                                                 const float (&excess)[N],
                                                                 float (&w)[N]) {
  // C = 1/(x+1 + f_1), f_i = i(a-i) / (x+2i+1 + f_{i+1}), x = g - a, starting from f_{M+1} = 0.
  // Primes denote derivatives with respect to a. It converges the slower, the smaller g is, which
  // determines M.
  float x[N], f[N], f_prime[N], smallest = g[0];
  for (int i = 0; i < N; ++i) {
    x[i] = g[i] - a[i];
    f[i] = f_prime[i] = 0.0f;
    smallest = g[i] < smallest ? g[i] : smallest;
  }
  const int terms =
      smallest > 0.7f ? 4 + static_cast<int>(17.0f / smallest) : 28;  // any number for NaN
  for (int m = terms; m >= 1; --m) {
    const float k = static_cast<float>(m);
    for (int i = 0; i < N; ++i) {
      const float reciprocal = 1.0f / ((x[i] + (2.0f * k + 1.0f)) + f[i]);
      f[i] = k * (a[i] - k) * reciprocal;
      f_prime[i] = (k - f[i] * (f_prime[i] - 1.0f)) * reciprocal;
    }
  }
  for (int i = 0; i < N; ++i) {
    const float c = 1.0f / ((x[i] + 1.0f) + f[i]);
    const float c_prime = c * c * (1.0f - f_prime[i]);
    w[i] = c_prime - c * (excess[i] - 1.0f / a[i]);
  }
}

SPROUT_HOST_DEVICE float log_gamma_gradient(float a, float log_g) {
  if (!(a > 0.0f) || !(log_g < std::numeric_limits<float>::infinity())) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  const float g = fast_exp(log_g);
  const GammaRegion region = gamma_region(a, g);
  if (region == kAsymptotic) {
    return log_gamma_gradient_by_asymptotic_series(a, log_g - fast_log(a));
  }
  const float lane_a[1] = {a}, lane_g[1] = {g}, lane_log_g[1] = {log_g};
  float w[1];
  if (region == kSmall) {
    const float excess[1] = {digamma_of_next(a) - log_g};
    log_gamma_gradient_at_small(lane_a, lane_g, excess, w);
  } else if (region == kMiddle) {
    log_gamma_gradient_at_middle(lane_a, lane_g, lane_log_g, w);
  } else {
    const float excess[1] = {digamma_of_next_minus(a, log_g)};
    if (region == kPowerSeries) {
      log_gamma_gradient_by_power_series(lane_a, lane_g, excess, w);
    } else {
      log_gamma_gradient_by_continued_fraction(lane_a, lane_g, excess, w);
    }
  }
  return w[0];
}

}  // namespace sprout_fast
