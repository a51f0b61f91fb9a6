"""What metrics of reconstruction observe: a signal, and what came back of it, aligned and at one rate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import ClassVar

import numpy as np

from eval.metrics.base import Metric, Observations, sum_groups

SPEECH, MUSIC, AUDIO = DOMAINS = ("speech", "music", "audio")
LIMIT_DB = 100.0
"""Ratios in decibels end here: equal signals get this and no infinity, an output that holds nothing of the signal its
negative."""


class UndefinedError(Exception):
    """Why a metric says nothing of a pair, such as a ground truth without speech. Counted and named, never a zero."""


@dataclass(frozen=True, eq=False)
class SignalPair:
    """Float32 `reference [N]` (the ground truth) and `made [N]`. Pairs of one `group` (the pieces of a file) are one
    observation."""

    group: str
    reference: np.ndarray
    made: np.ndarray
    sample_rate_hz: int
    domain: str = SPEECH

    def __post_init__(self) -> None:
        if self.reference.shape != self.made.shape or self.reference.ndim != 1:
            raise ValueError(f"{self.group}: signals of shapes {self.reference.shape} and {self.made.shape}")


class SignalMetric(Metric[SignalPair]):
    """A number for each pair. One that needs a package which is not installed is absent, with what installs it."""

    observes = SignalPair
    domains: ClassVar[tuple[str, ...]] = DOMAINS
    """Of what it is said."""
    package: ClassVar[tuple[str, str]] = ("", "")
    """The distribution and the module that it needs."""

    @abstractmethod
    def measure(self, pair: SignalPair) -> tuple[float, float]:
        """What the pair adds to both sums. UndefinedError where it can say nothing, with the reason."""

    @abstractmethod
    def convention(self, domain: str, sample_rate_hz: int) -> str:
        """Tool, version, rate and parameters: everything that makes this number another than one of the same name."""

    def missing(self) -> str:
        """What installs what it needs; empty where that is there."""
        distribution, module = self.package
        return f"pip install {distribution}" if module and find_spec(module) is None else ""

    def observe(self, items: Sequence[SignalPair]) -> Observations:
        """Pairs of which it can say nothing are no observations."""
        made = []
        for item in items:
            try:
                made.append((item.group, *self.measure(item)))
            except UndefinedError:
                continue
        return observations(made)


def observations(parts: Sequence[tuple[str, float, float]]) -> Observations:
    """(group, numerator, denominator) of each pair. ValueError for NaN: it must not count as a miss."""
    numerators, denominators = np.array([p[1] for p in parts]), np.array([p[2] for p in parts])
    if not (np.isfinite(numerators).all() and np.isfinite(denominators).all()):
        bad = next(p for p in parts if not np.isfinite(p[1:]).all())
        raise ValueError(f"{bad[0]!r} is {bad[1]} of {bad[2]}")
    if not parts:
        return Observations(np.zeros(0), np.zeros(0))
    return Observations(*sum_groups([p[0] for p in parts], numerators, denominators))


def release(distribution: str) -> str:
    """`pesq 0.0.4`."""
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def need_sound(pair: SignalPair) -> None:
    """UndefinedError for a silent ground truth: there is nothing to keep."""
    if not pair.reference.any():
        raise UndefinedError("the ground truth is silent")


def at_rate(pair: SignalPair, sample_rate_hz: int) -> tuple[np.ndarray, np.ndarray]:
    """Both signals at another rate, by soxr's HQ."""
    if pair.sample_rate_hz == sample_rate_hz:
        return pair.reference, pair.made
    import soxr

    def resample(x: np.ndarray) -> np.ndarray:
        return soxr.resample(x, pair.sample_rate_hz, sample_rate_hz, quality="HQ")

    return resample(pair.reference), resample(pair.made)
