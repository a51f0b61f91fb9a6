"""The contract of a metric: an item half that observes, a corpus half that condenses.

A metric is one file beside this one. Its observations are independent of each other (a pair with its voices averaged,
a clip, ...), so that `eval.metrics.bootstrap` can tell how sure any metric is without knowing which one it is.
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
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    about: ClassVar[str]
    """One plain sentence for tables and reports."""

    @abstractmethod
    def observe(self, items: Sequence[Item]) -> Observations:
        """One observation for each independent unit among `items`. ValueError for NaN: it must not count as a miss."""

    def value(self, items: Sequence[Item]) -> float:
        return self.observe(items).value


METRICS: Registry[Metric] = Registry("metric", package="eval.metrics", group="slm.metrics")
