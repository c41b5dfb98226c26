// Standard gamma variates in log space, and their implicit reparameterisation gradient.
#pragma once

#include <cfloat>
#include <limits>

#include "gamma_series.h"
#include "normal.h"
#include "philox.h"

namespace sprout_fast {

// The sampler: Marsaglia and Tsang, "A simple method for generating gamma variables" (ACM TOMS 26,
// 2000) for concentration a >= 1; below 1, G_a = G_{a+1} U^(1/a), which stays in log space because
// at a = 1e-3 most variates underflow float32. Every draw is one Philox block: words 0 and 1 make
// the normal, word 2 decides acceptance. The boosts' U are in a draw of their own, whose four words
// serve the four elements of a group, addressed by the first of them.

// Rejection happens with probability < 0.05 a draw, so 32 draws all fail once in 1e41.
constexpr uint32_t kMaxGammaDraws = 32;
constexpr uint32_t kGammaBoostDraw = kMaxGammaDraws;

// The block whose word number (element & 3) makes an element's boost.
SPROUT_HOST_DEVICE Philox4 gamma_boost_words(const PhiloxCall& call, Stream stream,
                                             int64_t element) {
  return call.words(stream, element - (element & 3), kGammaBoostDraw);
}

// log U / a of an element's boost, for a < 1. log G_a <= kLogGammaHeadroom + this, but for one
// variate in 1e22: e^4 bounds G_{a+1} for a < 1.
template <typename T>
SPROUT_HOST_DEVICE T gamma_boost(T a, const PhiloxCall& call, Stream stream, int64_t element) {
  const Philox4 words = gamma_boost_words(call, stream, element);
  const uint32_t low = (element & 1) == 0 ? words.w0 : words.w1;
  const uint32_t high = (element & 1) == 0 ? words.w2 : words.w3;
  return log_uniform_as<T>((element & 2) == 0 ? low : high) / a;
}
constexpr float kLogGammaHeadroom = 4.0f;

// In a Dirichlet draw, variates this far (in nats) under the row's largest get z = 0: the expected
// gradient that this loses is about 1e-16 of the whole for any concentration, and with it goes most
// rows' work.
constexpr float kNegligibleNats = 40.0f;

// One attempt at log G for concentration `a` (already >= 1); returns whether it is accepted.
template <typename T>
SPROUT_HOST_DEVICE bool gamma_attempt(T a, const Philox4& words, T* log_g) {
  const T d = a - T(1.0 / 3.0);
  const T c = T(1) / std::sqrt(T(9) * d);
  T x, unused;
  normal_pair(words.w0, words.w1, &x, &unused);
  const T t = c * x;
  const bool positive = t > T(-1);
  const T s = positive ? t : T(0);
  const T log_v = T(3) * fast_log1p(s);  // v = (1 + c x)^3
  const T v_minus_1 = s * (T(3) + s * (T(3) + s));
  *log_g = fast_log(d) + log_v;
  return positive && log_uniform_as<T>(words.w2) < T(0.5) * x * x + d * (log_v - v_minus_1);
}

// What kMaxGammaDraws rejections end with: the logarithm of the attempts' mode.
template <typename T>
SPROUT_HOST_DEVICE T gamma_mode(T a) {
  return std::log(a - T(1.0 / 3.0));
}

// log G_a where a >= 1, log G_{a+1} below.
template <typename T>
SPROUT_HOST_DEVICE T log_gamma_unboosted(T a, const PhiloxCall& call, Stream stream,
                                         int64_t element) {
  const T boosted = a < T(1) ? a + T(1) : a;
  for (uint32_t draw = 0; draw < kMaxGammaDraws; ++draw) {
    T log_g;
    if (gamma_attempt(boosted, call.words(stream, element, draw), &log_g)) return log_g;
  }
  return gamma_mode(boosted);
}

// log of a standard gamma variate; -inf at a = 0, NaN for a negative, infinite or NaN
// concentration, and -inf where it surely is negligible beside `largest` (-inf: never).
template <typename T>
SPROUT_HOST_DEVICE T log_gamma_variate(T a, const PhiloxCall& call, Stream stream, int64_t element,
                                       T largest = -std::numeric_limits<T>::infinity()) {
  const T infinity = std::numeric_limits<T>::infinity();
  if (!(a > T(0) && a < infinity)) {
    return a == T(0) ? -infinity : std::numeric_limits<T>::quiet_NaN();
  }
  T boost = T(0);
  if (a < T(1)) {
    boost = gamma_boost(a, call, stream, element);
    if (boost + T(kLogGammaHeadroom) < largest - T(kNegligibleNats)) return -infinity;
  }
  return log_gamma_unboosted(a, call, stream, element) + boost;
}

// The implicit gradient W(a, log g) = d log G / d a at the variate g, that is
//   W = -(dF(g; a)/da) / (g f(g; a)),
// F and f the gamma distribution's CDF and density (Figurnov, Mohamed, Mnih, "Implicit
// Reparameterization Gradients", NeurIPS 2018). Differentiating F_a = -W g f in g gives
//   g dW/dg + (a - g) W = psi(a) - log g,
// and three solutions of it without cancellation cover the plane:
//   1. a >= 8, g within a factor e^2 of a: W = (1/a) sum_k V_k(u) a^-k with u = log(g/a), from
//      putting the series into the equation: V_0 = u / (e^u - 1), and V_k follows from V_{k-1}.
//   2. g <= a + 1 (or g <= 2): W = sum_n g^n / (a)_{n+1} (psi(a + n + 1) - log g).
//   3. g above: W = C (log g - psi(a)) + dC/da, where C = Gamma(a, g) / (g^a e^-g), by Legendre's
//      continued fraction and its derivative.
// Evaluated in double; the relative error is below 1e-10 (tests/test_log_gamma.py).
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
  // Modified Lentz for C = 1/(g+1-a - 1(1-a)/(g+3-a - 2(2-a)/(g+5-a - ...))); the primed names are
  // derivatives in a.
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

}  // namespace sprout_fast
