"""Exact limits of a share: Clopper and Pearson 1934, by quantiles of the beta distribution."""

from __future__ import annotations

import math
from functools import lru_cache

MISSED = 0.025
"""On each side of a 95 % interval."""


@lru_cache(maxsize=65_536)
def exact_limits(right: float, number: float) -> tuple[float, float]:
    """The shares between which that of `right` of `number` may lie (neither need be whole): below the first one as many
    would be right in less than one sample of forty, above the second one as few."""
    wrong = number - right
    low = beta_quantile(MISSED, right, wrong + 1) if right > 0 else 0.0
    high = 1 - beta_quantile(MISSED, wrong, right + 1) if wrong > 0 else 1.0
    return low, high


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Below which Beta(a, b) lies so often; `a` and `b` above 0. Newton's steps, in a bracket that each narrows."""
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(200):
        missing = beta_below(x, a, b) - probability
        low, high = (x, high) if missing < 0 else (low, x)
        steepness = math.exp(_log_density(x, a, b)) if 0 < x < 1 else 0.0
        step = x - missing / steepness if steepness > 0 else low
        last, x = x, step if low < step < high else (low + high) / 2
        if abs(x - last) <= 1e-14 + 1e-12 * x:
            break
    return x


def beta_below(x: float, a: float, b: float) -> float:
    """How often Beta(a, b) lies below x: the regularized incomplete beta function, by its continued fraction (DLMF
    8.17.22), on the side where that converges fast."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_below(1 - x, b, a)
    return math.exp(_log_density(x, a, b) + math.log(x) + math.log1p(-x)) * _fraction(x, a, b) / a


def _log_density(x: float, a: float, b: float) -> float:
    whole = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return whole + (a - 1) * math.log(x) + (b - 1) * math.log1p(-x)


def _fraction(x: float, a: float, b: float) -> float:
    """1 / (1 + d1 / (1 + d2 / ..)), from its front (Lentz's method)."""
    tiny = 1e-300
    front, back, value = 1.0, 0.0, 1.0
    for i in range(1, 10_000):
        m = i // 2
        if i % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        back = 1 / ((1 + d * back) or tiny)
        front = (1 + d / front) or tiny
        value *= front * back
        if abs(front * back - 1) < 1e-15:
            break
    return 1 / value
