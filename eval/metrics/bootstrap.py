"""How sure a number is: percentile bootstrap over independent observations (Efron 1979); where all observations of a
share agree, the exact binomial interval (`eval.metrics.unanimous`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import Observations
from eval.metrics.unanimous import unanimous_interval

METHOD = "percentile bootstrap over independent items; exact binomial (Clopper-Pearson) where all of them agree"
MAX_CELLS = 4_000_000  # of one block of draws: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; `count` observations were behind it."""

    value: float
    interval: tuple[float, float]
    count: int


def estimate(strata: Sequence[Observations], resamples: int, seed: int, share: bool = False) -> Estimate:
    """The mean of the strata's values (one stratum: its value), each resampled within itself.

    The interval spans the 2.5th to the 97.5th percentile of `resamples` values. Of a `share`, a mean of values within
    [0, 1], it is that of `unanimous_interval` where all agree.
    """
    value, count = float(np.mean([s.value for s in strata])), sum(len(s) for s in strata)
    if share and (found := unanimous_interval([s.numerators / s.denominators for s in strata])) is not None:
        return Estimate(value, found, count)
    rng = np.random.default_rng(seed)
    drawn = np.mean([resample(s, resamples, rng) for s in strata], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, (float(low), float(high)), count)


def resample(observations: Observations, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """`[resamples]` values, each of N observations drawn with replacement.

    Equal observations are interchangeable, so how often each distinct one is drawn is a multinomial: the cost grows
    with the distinct ones (three for pairs of one voice), and the order of observations cannot matter.
    """
    rows = np.stack([observations.numerators, observations.denominators], axis=1)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    block = max(1, MAX_CELLS // len(distinct))
    made = []
    for start in range(0, resamples, block):
        draws = rng.multinomial(len(rows), counts / len(rows), size=min(block, resamples - start))
        sums = draws @ distinct
        made.append(sums[:, 0] / sums[:, 1])
    return np.concatenate(made)
