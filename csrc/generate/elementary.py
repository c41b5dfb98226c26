"""Print the polynomials of csrc/common/elementary.h and normal.h and the errors of the fits.

Each is a minimax fit by Lawson's algorithm (least squares on Chebyshev nodes, reweighted by the
error) to values from mpmath, in the form that the header evaluates. Coefficients are rounded to
float32; the errors are before rounding and relative to the function.

    python csrc/generate/elementary.py
"""

import mpmath
import numpy

mpmath.mp.dps = 40


def fit(function, low, high, degree, relative_to, nodes=4000, rounds=60):
    """Return c_0, c_1, ... that minimize max |relative_to * (p - function)|, and that maximum."""
    x = (low + high) / 2 + (high - low) / 2 * numpy.cos(
        numpy.pi * (numpy.arange(nodes) + 0.5) / nodes
    )
    scale = numpy.array([relative_to(t) for t in x])
    rows = numpy.vander(x, degree + 1, increasing=True) * scale[:, None]
    values = numpy.array([float(function(mpmath.mpf(float(t)))) for t in x]) * scale
    weights = numpy.full(nodes, 1 / nodes)
    for _ in range(rounds):
        root = numpy.sqrt(weights)
        coefficients, *_ = numpy.linalg.lstsq(rows * root[:, None], values * root, rcond=None)
        error = numpy.abs(rows @ coefficients - values)
        weights *= error + 1e-30
        weights /= weights.sum()
    return coefficients, error.max()


def log1p_rest(f):
    """Return P in log(1 + f) = f - f^2/2 + f^3 P(f)."""
    return (mpmath.log1p(f) - f + f * f / 2) / f**3 if abs(f) > 1e-12 else mpmath.mpf(1) / 3


def log_uniform_rest(h):
    """Return P in -2 log(1 - h/2) = h + h^2 P(h)."""
    return (-2 * mpmath.log1p(-h / 2) - h) / h**2 if h > 1e-9 else mpmath.mpf(1) / 4


def log_uniform_weight(h):
    return float(h * h / (-2 * mpmath.log1p(-mpmath.mpf(float(h)) / 2)))


def exp_rest(r):
    """Return P in exp(r) = 1 + r + r^2 P(r)."""
    return (mpmath.expm1(r) - r) / r**2 if abs(r) > 1e-10 else mpmath.mpf(1) / 2


def sin_rest(s):
    """Return P in sin(t) = t + t s P(s), s = t^2."""
    return (
        (mpmath.sin(mpmath.sqrt(s)) / mpmath.sqrt(s) - 1) / s if s > 1e-12 else -mpmath.mpf(1) / 6
    )


def cos_rest(s):
    """Return P in cos(t) = 1 - s/2 + s^2 P(s), s = t^2."""
    return (mpmath.cos(mpmath.sqrt(s)) - 1 + s / 2) / s**2 if s > 1e-8 else mpmath.mpf(1) / 24


def main() -> None:
    half_log2, eighth = float(mpmath.log(2) / 2), float((mpmath.pi / 4) ** 2)
    for name, function, low, high, degree, relative_to in (
        ("log1p", log1p_rest, 2**-0.5 - 1, 2**0.5 - 1, 8, lambda f: f * f + 1e-9),
        ("log of uniform", log_uniform_rest, 1e-9, 1.0, 7, log_uniform_weight),
        ("exp", exp_rest, -half_log2, half_log2, 5, lambda r: r * r + 1e-6),
        ("sin", sin_rest, 1e-9, eighth, 2, lambda s: s),
        ("cos", cos_rest, 1e-9, eighth, 2, lambda s: s * s),
    ):
        coefficients, error = fit(function, low, high, degree, relative_to)
        print(f"{name}: error {error:.1e}")
        print("   ", ", ".join(repr(float(numpy.float32(c))) for c in coefficients))


if __name__ == "__main__":
    main()
