"""The contract of a metric: an item half that observes, a corpus half that condenses.

A metric is one file beside this one; `observes` says of what it is, and every benchmark that has such items computes
it. Its observations are independent of each other (all voices of an item are one), so that `eval.metrics.bootstrap`
can tell how sure any metric is without knowing which one it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np

from slm.registry import Registry

Item = TypeVar("Item")


@dataclass(frozen=True)
class ScoredPair:
    """The scores of both items of a minimal pair, and what it counts when they are equal. Pairs of one `group` (the
    voices of a word) are one observation."""

    group: str
    positive: float
    negative: float
    tie: float = 0.5


@dataclass(frozen=True)
class ClipLikelihood:
    """The log-probability of a whole clip (every code of every codebook, and the end), and how long it lasts. Clips
    of one `group` (the voices of a word) are one observation."""

    group: str
    log_prob_nats: float
    duration_s: float


@dataclass(frozen=True)
class Observations:
    """Independent units: float64 `numerators [N]` and `denominators [N]`. The value is the ratio of their sums."""

    numerators: np.ndarray
    denominators: np.ndarray

    @property
    def value(self) -> float:
        """NaN where there is nothing to divide by."""
        total = float(self.denominators.sum())
        return float(self.numerators.sum()) / total if total > 0 else float("nan")

    def __len__(self) -> int:
        return len(self.numerators)


class Metric(ABC, Generic[Item]):
    """`observe` is the item half; the corpus half is the ratio of sums of what it returns."""

    name: ClassVar[str]
    observes: ClassVar[type]
    """`ScoredPair`, `ClipLikelihood`, or another record: what its items are."""
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    is_share: ClassVar[bool] = False
    """Whether it is a mean of values within [0, 1], one for each observation (denominators of 1)."""
    about: ClassVar[str]
    """One plain sentence for tables and reports."""

    @abstractmethod
    def observe(self, items: Sequence[Item]) -> Observations:
        """One observation for each independent unit among `items`. ValueError for NaN: it must not count as a miss."""

    def shown(self, ratio: float) -> float:
        """What is told of the ratio: the ratio itself, or an increasing function of it (a perplexity is the exponential
        of a mean). Ends of intervals go through it too."""
        return ratio

    def value(self, items: Sequence[Item]) -> float:
        return self.shown(self.observe(items).value)


class CorpusMetric(Metric[Item]):
    """A number that only all items together have (a distance of distributions, a diversity): `measure` gives it. It is
    one observation, and has no interval."""

    @abstractmethod
    def measure(self, items: Sequence[Item]) -> float:
        """NaN where there are too few items to tell."""

    def observe(self, items: Sequence[Item]) -> Observations:
        return Observations(np.array([self.measure(items)]), np.ones(1))


def sum_groups(groups: Sequence[str], *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each of `values [N]` summed within equal groups: `[G]`, groups sorted."""
    _, index = np.unique(np.array(groups, dtype=str), return_inverse=True)
    return tuple(np.bincount(index, weights=v) for v in values)


METRICS: Registry[Metric] = Registry("metric", package="eval.metrics", group="slm.metrics", base=Metric)


def metrics_of(items: type) -> list[Metric]:
    """Every registered metric, a plug-in's too, that observes such items."""
    classes = [METRICS.get(name) for name in METRICS.names()]
    return [cls() for cls in classes if cls.observes is items]
