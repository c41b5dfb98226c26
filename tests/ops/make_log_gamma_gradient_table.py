"""Write tests/ops/log_gamma_gradient.csv: the implicit gradient of log gamma variates.

dlog G/da = -(dF(g; a)/da) / (g f(g; a)), computed from this definition: F by its power series, with
100 digits and positive terms only, and its derivative by central differences with h = 1e-20 a.
Their error is of order (h/a)^2 (1 + a) log^2, so 30 digits or more are correct. No formula is
shared with csrc/common/gamma_gradient.h.

Concentrations and log variates are float32 numbers, so that one table serves both dtypes.

    python tests/ops/make_log_gamma_gradient_table.py     # takes a few minutes
"""

from pathlib import Path

import mpmath as mp
import numpy as np
from scipy import special

TABLE = Path(__file__).parent / "log_gamma_gradient.csv"
CONCENTRATIONS = [10 ** (i / 2) for i in range(-12, 13)]  # 1e-6 to 1e6
LEVELS = [1e-6, 1e-4, 1e-2, 0.1, 0.3, 0.5]  # and 1 minus these: quantiles


def log_quantile(a: float, level: float, upper: bool) -> float:
    """Return the approximate log of a quantile; a few digits suffice for an argument."""
    x = special.gammainccinv(a, level) if upper else special.gammaincinv(a, level)
    if x > 1e-200:
        return float(np.log(x))
    probability = np.log1p(-level) if upper else np.log(level)
    return float((probability + special.gammaln(a + 1)) / a)  # F = g^a / Gamma(a + 1)


def cdf(a: mp.mpf, log_x: mp.mpf) -> mp.mpf:
    x = mp.exp(log_x)
    term = 1 / a
    total, n = term, 0
    while term > total * mp.mpf(10) ** -mp.mp.dps or x > a + n:
        n += 1
        term *= x / (a + n)
        total += term
    return mp.exp(a * log_x - x - mp.loggamma(a)) * total


def gradient(a: float, log_g: float) -> mp.mpf:
    a, log_g = mp.mpf(a), mp.mpf(log_g)
    h = a * mp.mpf(10) ** -20
    slope = (cdf(a + h, log_g) - cdf(a - h, log_g)) / (2 * h)
    return -slope / mp.exp(a * log_g - mp.exp(log_g) - mp.loggamma(a))


def main() -> None:
    mp.mp.dps = 100
    lines = ["concentration,log_g,gradient"]
    for a in CONCENTRATIONS:
        a = float(np.float32(a))
        for level in LEVELS:
            for upper in (False, True):
                log_g = float(np.float32(log_quantile(a, level, upper)))
                lines.append(f"{a!r},{log_g!r},{mp.nstr(gradient(a, log_g), 30)}")
        print(a, flush=True)
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
