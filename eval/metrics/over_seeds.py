"""Is one method better than another? A paired test of two models says whether these two differ; whether two more
trainings would, only several trainings of each say.

Two things leave a difference open: which items were asked, and which seeds were drawn. Each has a margin of its own (of
items, that of a paired t-test on means over trainings, of several strata by Welch's degrees of freedom; of seeds, that
of Student's test of two samples, the trainings' values), and the root of the sum of their squares is that of both
(MOVER, as in `eval.metrics.few`). With two or three seeds degrees of freedom by Satterthwaite for the sum told equal
methods apart too often, up to 12 times in 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_P = 1e-30

Values = Sequence[np.ndarray]
"""Of one training: the values of its items, within [0, 1], `[N]` for each stratum."""


@dataclass(frozen=True)
class MethodTest:
    """`difference` is the second's mean value less the first's, over trainings and items."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    count: int

    @property
    def within_noise(self) -> bool:
        """Whether other items and other seeds might as well have shown no difference, or the opposite one."""
        return self.interval[0] <= 0 <= self.interval[1]


def method_test(first: Sequence[Values], second: Sequence[Values]) -> MethodTest | None:
    """Of the trainings of two methods, one of which has two or more, over the same items: the mean over strata of each
    stratum's mean. None where a stratum has one item, whose spread is unknown."""
    sides = (first, second)
    if min(len(values) for values in first[0]) < 2:
        return None
    totals = [np.array([np.mean([values.mean() for values in training]) for training in side]) for side in sides]
    seeds_df = len(first) + len(second) - 2
    pooled = sum(float(((each - each.mean()) ** 2).sum()) for each in totals) / seeds_df
    of_seeds = pooled * (1 / len(first) + 1 / len(second))

    mean_first, mean_second = (
        [np.mean(same_stratum, axis=0) for same_stratum in zip(*side, strict=True)] for side in sides
    )
    per_item = [b - a for a, b in zip(mean_first, mean_second, strict=True)]
    of_strata = [float(d.var(ddof=1)) / len(d) / len(per_item) ** 2 for d in per_item]
    of_items = sum(of_strata)
    squares = sum(v**2 / (len(d) - 1) for v, d in zip(of_strata, per_item, strict=True))
    items_df = of_items**2 / squares if squares else 1.0

    difference = float(totals[1].mean() - totals[0].mean())
    variances = (of_seeds, seeds_df), (of_items, items_df)
    margin, p_value = _margin(0.05, variances), _p_value(difference, variances)
    interval = max(-1.0, difference - margin), min(1.0, difference + margin)
    return MethodTest(difference, interval, p_value, sum(map(len, per_item)))


def _margin(level: float, variances: Sequence[tuple[float, float]]) -> float:
    """Of variances, each with its degrees of freedom."""
    from scipy.stats import t

    return sum(variance * float(t.isf(level / 2, df)) ** 2 for variance, df in variances) ** 0.5


def _p_value(difference: float, variances: Sequence[tuple[float, float]]) -> float:
    """The level at which the interval would end at 0."""
    from scipy.optimize import brentq

    if not difference:
        return 1.0
    if _margin(_LEAST_P, variances) <= abs(difference):
        return 0.0
    level = brentq(lambda log: _margin(math.exp(log), variances) - abs(difference), math.log(_LEAST_P), 0.0)
    return math.exp(level)
