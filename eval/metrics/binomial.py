"""Exact limits of a share: Clopper and Pearson 1934, by quantiles of the beta distribution."""

from __future__ import annotations

from functools import lru_cache

MISSED = 0.025
"""On each side of a 95 % interval."""


@lru_cache(maxsize=65_536)
def exact_limits(right: float, number: float) -> tuple[float, float]:
    """The shares between which that of `right` of `number` may lie (neither need be whole): below the first one as many
    would be right in less than one sample of forty, above the second one as few."""
    from scipy.special import betaincinv

    wrong = number - right
    low = float(betaincinv(right, wrong + 1, MISSED)) if right > 0 else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - MISSED)) if wrong > 0 else 1.0
    return low, high
