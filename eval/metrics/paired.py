"""Is one model better than another, or is it luck? Tests on the same items of both, which is far sharper than two
intervals side by side: what is hard for one is mostly hard for the other.

The interval of the difference is a percentile bootstrap over items (Efron 1979; Koehn 2004 for two systems), or, where
in some stratum one model is better on few items, that of `eval.metrics.few`; the p-value is that of the exact sign test
on the items that the models tell apart (for pairs of one voice: McNemar's).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import Observations
from eval.metrics.bootstrap import resample
from eval.metrics.few import few_difference

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class PairedTest:
    """`difference` is the second's value less the first's; `better` items are the second's, `worse` the first's."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    better: int
    worse: int
    count: int

    @property
    def within_noise(self) -> bool:
        """Whether other items of the same kind might as well have shown no difference, or the opposite one: by the
        interval, or by the sign test, which is the more careful of the two where items are few."""
        low, high = self.interval
        return low <= 0 <= high or self.p_value >= SIGNIFICANT


def paired_test(first: Sequence[np.ndarray], second: Sequence[np.ndarray], resamples: int, seed: int) -> PairedTest:
    """Of two models' values (within [0, 1]) of the same items, `[N]` for each stratum: the mean over strata of each
    stratum's mean, as in `eval.metrics.bootstrap.estimate`. ValueError for items that do not match."""
    if [len(a) for a in first] != [len(b) for b in second]:
        raise ValueError("the two models' values are not of the same items")
    differences = [np.asarray(b, np.float64) - np.asarray(a, np.float64) for a, b in zip(first, second, strict=True)]
    interval = few_difference(differences)
    if interval is None:
        rng = np.random.default_rng(seed)
        drawn = np.mean([resample(Observations(d, np.ones(len(d))), resamples, rng) for d in differences], axis=0)
        interval = float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))
    better, worse = (sum(int((sign * d > 0).sum()) for d in differences) for sign in (1, -1))
    return PairedTest(
        difference=float(np.mean([d.mean() for d in differences])),
        interval=interval,
        p_value=sign_test(better, worse),
        better=better,
        worse=worse,
        count=sum(map(len, differences)),
    )


def sign_test(better: int, worse: int) -> float:
    """Two-sided and exact: how often fair coins would fall at least so unevenly. 1 where nothing was told apart."""
    n, least = better + worse, min(better, worse)
    if n == 0:
        return 1.0
    k = np.arange(1, least + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))]) - n * math.log(2)
    return float(min(1.0, 2 * np.exp(logs).sum()))
