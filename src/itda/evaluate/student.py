"""Student's t: how far a mean of few values may be from the truth. No package is needed for one distribution."""

from __future__ import annotations

import functools
import math

TERMS = 400  # of the continued fraction; about the square root of the degrees of freedom is needed


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Compute the regularised incomplete beta function I_x(a, b) by its continued fraction.

    Abramowitz and Stegun (1964), 26.5.8, evaluated from its far end.
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1) / (a + b + 2):  # beyond, the fraction of the mirrored function converges sooner
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    value = 1.0
    for number in range(TERMS, 0, -1):
        m = number // 2
        if number % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1.0 + term / value
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * value)


def two_sided_p(t: float, df: float) -> float:
    """Give the probability that |T| is at least |t|, with `df` degrees of freedom (A&S 26.7.1)."""
    return incomplete_beta(df / 2, 0.5, df / (df + t * t))


@functools.cache
def t_quantile(confidence: float, df: float) -> float:
    """Give the t that |T| stays below with this probability: 4.303 for 0.95 and two degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, df) > 1 - confidence else (low, middle)
    return (low + high) / 2
