"""Write csrc/common/gamma_series.h: the asymptotic series of the gamma gradient, with exact
coefficients, and the fits of its float version.

With V = a W and u = log(g / a), the differential equation of csrc/common/gamma_gradient.h reads

    (1/a) dV/du + (1 - e^u) V = psi(a) - log a - u,

and psi(a) - log a = sum_k p_k a^-k (p_1 = -1/2, p_2k = -B_2k / 2k). Substituting
V = sum_k V_k(u) a^-k gives V_0 = u / (e^u - 1) and V_k = (V_{k-1}' - p_k) / (e^u - 1), each regular
at u = 0 because the constant terms cancel. This is done on Taylor series in u with rational
arithmetic; the series converge for |u| < 2 pi and are used for |u| <= 2. In float the V_k are
minimax polynomials, and so are psi and, for a < 1 and g not small, the C of gamma_gradient.h.

    python csrc/generate/gamma_series.py > csrc/common/gamma_series.h  (then: make format)
"""

from fractions import Fraction
from math import comb, factorial

import mpmath
import numpy
from elementary import fit

TERMS = 10  # powers of 1/a: the first one omitted is 5e-12 of W at a = 8
DEGREE = 25  # in u: (2 / 2 pi)^26 is 4e-13

# float: 1/a times a power series in 1/a for a >= 4, -2 <= u <= 1.7.
FLOAT_TERMS = 8  # the first one omitted is 1e-7 of W
FLOAT_LOWEST_A = 4.0
FLOAT_RANGE = (-2.0, 1.7)
FLOAT_TOLERANCE = 8e-9  # error of each term's fit, relative to W

# float: C for a < 1 and g in this range, a polynomial in a and t. In t = SLOPE / (g + SHIFT) -
# MIDDLE, in [-1, 1], it needs the fewest terms of all shifts tried.
MIDDLE_RANGE = (0.7, 16.0)
MIDDLE_SHIFT = 0.7
MIDDLE_TOLERANCE = 6e-8  # relative to W


def divide(numerator: list[Fraction], denominator: list[Fraction]) -> list[Fraction]:
    rest, quotient = list(numerator), []
    for i in range(len(rest)):
        quotient.append(rest[i] / denominator[0])
        for j in range(len(rest) - i):
            rest[i + j] -= quotient[i] * denominator[j]
    return quotient


def bernoulli(count: int) -> list[Fraction]:
    numbers = [Fraction(1)]
    for m in range(1, count):
        numbers.append(-sum(comb(m + 1, k) * numbers[k] for k in range(m)) / (m + 1))
    return numbers


def digamma_coefficient(k: int, bernoulli_numbers: list[Fraction]) -> Fraction:
    return -bernoulli_numbers[k] / k if k % 2 == 0 else Fraction(-1 if k == 1 else 0, 2)


def coefficients() -> list[list[Fraction]]:
    length = DEGREE + 2 * TERMS + 1  # each step loses two orders
    bernoulli_numbers = bernoulli(TERMS + 1)
    expm1_over_u = [Fraction(1, factorial(i + 1)) for i in range(length)]
    series = [divide([Fraction(1)] + [Fraction(0)] * (length - 1), expm1_over_u)]
    for k in range(1, TERMS):
        derivative = [i * c for i, c in enumerate(series[-1])][1:]
        derivative[0] -= digamma_coefficient(k, bernoulli_numbers)
        assert derivative[0] == 0
        series.append(divide(derivative[1:], expm1_over_u))
    return [s[: DEGREE + 1] for s in series]


def float_polynomials() -> list[list[float]]:
    """Return V_0, V_1, ... over FLOAT_RANGE, of the lowest degrees within FLOAT_TOLERANCE of W."""
    polynomials, series = [], coefficients()
    for k in range(FLOAT_TERMS):

        def value(u, k=k):
            return numpy.polynomial.polynomial.polyval(float(u), [float(c) for c in series[k]])

        def weight(u, k=k):
            return FLOAT_LOWEST_A**-k / numpy.polynomial.polynomial.polyval(
                u, [float(c) for c in series[0]]
            )

        for degree in range(2, DEGREE):
            polynomial, error = fit(value, *FLOAT_RANGE, degree, weight, nodes=1000)
            if error < FLOAT_TOLERANCE:
                polynomials.append([float(numpy.float32(c)) for c in polynomial])
                break
    return polynomials


def digamma_tail(y) -> mpmath.mpf:
    """Return P(y), y = 1/z^2, in psi(z) = log z - 1/(2 z) - y P(y)."""
    y = mpmath.mpf(float(y))
    z = 1 / mpmath.sqrt(y)
    return (mpmath.log(z) - 1 / (2 * z) - mpmath.digamma(z)) / y


def middle_map() -> tuple[float, float]:
    """Return SLOPE and MIDDLE."""
    ends = [1 / (g + MIDDLE_SHIFT) for g in MIDDLE_RANGE]
    half = (ends[0] - ends[1]) / 2
    return 1 / half, (ends[0] + ends[1]) / 2 / half


def middle_polynomials() -> tuple[list[list[float]], float]:
    """Return the polynomials c_j in t of (g + SHIFT) C = sum_j c_j(t) a^j, and the fit's error.

    The fit is to W (gamma_gradient.h), which is linear in C: a W = C (1 - a e) + a dC/da with
    e = psi(a + 1) - log g. The least important terms are removed one by one while the error is
    within the tolerance.
    """

    def chebyshev_nodes(count):
        return numpy.cos(numpy.pi * (numpy.arange(count) + 0.5) / count)

    def exact(a, g):  # a W
        def upper(x):
            return mpmath.gammainc(x, g) * mpmath.exp(g) / g**x

        return a * (upper(a) * (mpmath.log(g) - mpmath.digamma(a)) + mpmath.diff(upper, a))

    slope, middle = middle_map()
    a, t = (
        grid.ravel() for grid in numpy.meshgrid((chebyshev_nodes(20) + 1) / 2, chebyshev_nodes(48))
    )
    shifted = slope / (t + middle)  # g + SHIFT
    g = shifted - MIDDLE_SHIFT
    value = numpy.array(
        [float(exact(mpmath.mpf(x), mpmath.mpf(y))) for x, y in zip(a, g, strict=True)]
    )
    excess = numpy.array([float(mpmath.digamma(x + 1)) for x in a]) - numpy.log(g)

    def lawson(lengths):
        terms = [(j, i) for j, length in enumerate(lengths) for i in range(length)]
        columns = [a**j * (1 - a * excess + j) * t**i / (shifted * value) for j, i in terms]
        rows, weights = numpy.stack(columns, 1), numpy.full(len(a), 1 / len(a))
        best = numpy.inf, None
        for _ in range(40):
            root = numpy.sqrt(weights)
            found, *_ = numpy.linalg.lstsq(rows * root[:, None], root, rcond=None)
            error = numpy.abs(rows @ found - 1)
            best = min(best, (error.max(), found), key=lambda pair: pair[0])
            weights *= error + 1e-30
            weights /= weights.sum()
        return best

    lengths = [12, 12, 11, 11, 9, 8, 7, 5]
    error, found = lawson(lengths)
    while True:
        shorter = [lengths[:j] + [lengths[j] - 1] + lengths[j + 1 :] for j in range(len(lengths))]
        candidates = [(*lawson(candidate), candidate) for candidate in shorter if all(candidate)]
        best = min(candidates, key=lambda candidate: candidate[0])
        if best[0] > MIDDLE_TOLERANCE:
            break
        error, found, lengths = best
    return [list(c) for c in numpy.split(found, numpy.cumsum(lengths)[:-1])], error


def horner(polynomial: list[float], variable: str) -> str:
    """Return C++ statements that compute the polynomial in `p`."""
    first, *rest = reversed([float(numpy.float32(c)) for c in polynomial])
    return "\n".join([f"  p = {first!r}f;"] + [f"  p = p * {variable} + {c!r}f;" for c in rest])


HEADER = """\
// Generated by csrc/generate/gamma_series.py; do not edit.
//
// digamma, the asymptotic series of log_gamma_gradient (gamma_gradient.h) for large a, and fits.
#pragma once

#include <cmath>

#include "macros.h"

namespace sprout_fast {

// psi(x) for x > 0: the recurrence up to 10, then the asymptotic series.
SPROUT_HOST_DEVICE double digamma(double x) {
  double shift = 0.0;
  while (x < 10.0) {
    shift -= 1.0 / x;
    x += 1.0;
  }
  const double y = 1.0 / (x * x);
  const double tail = y * (1.0 / 12 - y * (1.0 / 120 - y * (1.0 / 252 - y * (1.0 / 240 -
                      y * (1.0 / 132 - y * (691.0 / 32760 - y / 12))))));
  return shift + std::log(x) - 0.5 / x - tail;
}
"""


def main() -> None:
    print(HEADER)
    print("// W(a, a e^u) = (1/a) sum_k V_k(u) a^-k; V[k][i] is the coefficient of u^i in V_k.")
    print("SPROUT_HOST_DEVICE double log_gamma_gradient_by_asymptotic_series(double a, double u) {")
    print(f"  constexpr int kTerms = {TERMS}, kDegree = {DEGREE};")
    print("  constexpr double V[kTerms][kDegree + 1] = {")
    for row in coefficients():
        print("      {" + ", ".join(repr(float(c)) for c in row) + "},")
    print("  };")
    print(
        """\
  const double reciprocal = 1.0 / a;
  double power = reciprocal, sum = 0.0;
  for (int k = 0; k < kTerms; ++k) {
    double v = V[k][kDegree];
    for (int i = kDegree - 1; i >= 0; --i) v = v * u + V[k][i];
    sum += v * power;
    power *= reciprocal;
    if (power < 1e-16 * sum) break;  // V_k stays below 1 for k <= 8, and W is near 1/a
  }
  return sum;
}
"""
    )
    low, high = FLOAT_RANGE
    print(f"// The same in float, for a >= {FLOAT_LOWEST_A:g} and {low:g} <= u <= {high:g}.")
    print("SPROUT_HOST_DEVICE float log_gamma_gradient_by_asymptotic_series(float a, float u) {")
    print("  const float reciprocal = 1.0f / a;")
    print("  float sum = 0.0f, p;")
    for polynomial in reversed(float_polynomials()):
        print(horner(polynomial, "u"))
        print("  sum = (sum + p) * reciprocal;")
    print("  return sum;\n}\n")
    tail, error = fit(digamma_tail, 1e-6, 1 / 9, 3, lambda y: y, nodes=1000)
    print(
        "// P in psi(z) = log z - 1/(2 z) - y P(y), y = 1/z^2, for z >= 3; error of the fit in psi:"
    )
    print(f"// {error:.0e}.")
    print("SPROUT_HOST_DEVICE float digamma_tail(float y) {")
    print(f"  float p;\n{horner(tail, 'y')}\n  return p;\n}}\n")
    next_digamma, error = fit(lambda a: mpmath.digamma(a + 1), 0, 1, 9, lambda a: 1, nodes=1000)
    print(f"// psi(a + 1) for 0 <= a <= 1; error of the fit: {error:.0e}.")
    print("SPROUT_HOST_DEVICE float digamma_of_next(float a) {")
    print(f"  float p;\n{horner(next_digamma, 'a')}\n  return p;\n}}\n")
    (low, high), (slope, middle) = MIDDLE_RANGE, middle_map()
    (*polynomials, highest), error = middle_polynomials()
    print("// (g + kUpperGammaShift) C, C = Gamma(a, g) / (g^a e^-g), and its derivative in a, for")
    print(f"// 0 <= a <= 1, {low:g} <= g <= {high:g} and reciprocal = 1 / (g + kUpperGammaShift).")
    print(f"// Error of the fit, in the W computed from them: {error:.0e}.")
    print(f"constexpr float kUpperGammaShift = {MIDDLE_SHIFT:g}f;")
    print("SPROUT_HOST_DEVICE void scaled_upper_gamma(float a, float reciprocal, float* value,")
    print("                                           float* derivative) {")
    print(f"  const float t = reciprocal * {slope!r}f - {middle!r}f;")
    print(f"  float p;\n{horner(highest, 't')}\n  float sum = p, sum_prime = 0.0f;")
    for polynomial in reversed(polynomials):
        print(horner(polynomial, "t"))
        print("  sum_prime = sum_prime * a + sum;\n  sum = sum * a + p;")
    print("  *value = sum;\n  *derivative = sum_prime;\n}\n")
    print("}  // namespace sprout_fast")


if __name__ == "__main__":
    main()
