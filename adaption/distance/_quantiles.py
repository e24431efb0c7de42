"""The width of an interval around 0 that contains a given share of a distribution."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

_EXACT = 200  # degrees of freedom up to which the series is summed


def normal(confidence: float) -> float:
    """`z` such that a standard normal variable lies in :math:`[-z, z]` with this probability."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


@functools.lru_cache(maxsize=16)
def student(confidence: float, freedom: int) -> float:
    """`t` such that a variable of Student's distribution lies in :math:`[-t, t]` with this probability.

    Up to 200 degrees of freedom the finite series of the distribution is inverted; above, the expansion around the
    normal quantile is used: M. Abramowitz, I. Stegun: Handbook of Mathematical Functions, 26.7.3, 26.7.4, 26.7.5.
    """
    if freedom > _EXACT:
        z = normal(confidence)
        terms = (
            (z**3 + z) / 4,
            (5 * z**5 + 16 * z**3 + 3 * z) / 96,
            (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        )
        return z + sum(term / float(freedom**power) for power, term in enumerate(terms, start=1))
    low, high = 0.0, math.pi / 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    r"""The probability of :math:`|t| <= \sqrt f \tan(angle)` with `f` degrees of freedom."""
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term = 0.0 if freedom == 1 else math.cos(angle) if odd else 1.0
    total = term
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total
