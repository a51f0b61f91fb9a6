"""KLD: does a classifier hear the same in what was made as in the recording that it stands for (AudioCraft)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations, sum_groups

EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class ClassPair:
    """The classes' probabilities `[C]` of a recording and of what was made in its place."""

    group: str
    reference: np.ndarray
    judged: np.ndarray


@METRICS.register("kld")
class ClassDivergence(Metric[ClassPair]):
    """Mean of KL(reference || judged), 1e-6 added to the judged probabilities, as `kld_pq` of AudioCraft."""

    name = "kld"
    observes = ClassPair
    unit = "nats"
    higher_is_better = False
    about = "How differently a classifier of sounds hears what was made and the recording."

    def observe(self, items: Sequence[ClassPair]) -> Observations:
        values = np.array([kl_divergence(p.reference, p.judged) for p in items], np.float64)
        return Observations(*sum_groups([p.group for p in items], values, np.ones(len(items))))


def kl_divergence(reference: np.ndarray, judged: np.ndarray) -> float:
    """A class that the reference rules out adds nothing."""
    p, q = np.asarray(reference, np.float64), np.asarray(judged, np.float64)
    some = p > 0
    return float((p[some] * (np.log(p[some]) - np.log(q[some] + EPSILON))).sum())
