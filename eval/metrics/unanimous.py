"""How sure a share is where all observations agree: resampling them shows no spread, though three of three right are no
proof that all are.

Of values within [0, 1] that were all v, in n independent observations, a share of less than q = 0.025 ** (1 / n) of all
there are would be v in one sample of forty only; the others may be anything. For v = 1 that is the exact binomial
interval (Clopper and Pearson 1934): of 3 of 3 right, 29.2 % to 100 %. Of a mean over strata the shares are the least
favourable ones under which all samples together would agree so in one of forty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.binomial import MISSED


def unanimous_interval(values: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Of the mean over strata of each one's mean of values `[N]` within [0, 1]. None where those of any stratum differ:
    there resampling shows a spread."""
    if any(not len(stratum) or np.ptp(stratum) > 0 for stratum in values):
        return None
    agreed = np.array([stratum[0] for stratum in values], np.float64)
    sizes = np.array([len(stratum) for stratum in values], np.float64)
    low = _least(agreed, sizes).mean()
    high = 1 - _least(1 - agreed, sizes).mean()
    return float(low), float(high)


def _least(weights: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`weights * q [S]`, smallest in sum over all q within [0, 1] for which the product of `q ** sizes` is `MISSED`.

    By Lagrange q is proportional to sizes / weights, but at most 1; where a weight is 0, q makes no difference.
    """
    there = weights > 0
    made = np.zeros(len(weights))
    if not there.any():
        return made
    ratio = sizes[there] / weights[there]
    low, high = np.log(MISSED) / sizes[there].sum() - np.log(ratio.max()), -np.log(ratio.min())
    for _ in range(100):
        middle = (low + high) / 2
        likely = (sizes[there] * np.minimum(0, middle + np.log(ratio))).sum()
        low, high = (middle, high) if likely < np.log(MISSED) else (low, middle)
    made[there] = weights[there] * np.minimum(1, np.exp(high) * ratio)
    return made
