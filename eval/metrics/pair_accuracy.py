"""Accuracy on minimal pairs, by the rule of the ZeroSpeech 2021 evaluation (arXiv 2011.11588)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations


@dataclass(frozen=True)
class ScoredPair:
    """The scores of both items of a pair; pairs of one `group` (the voices of a word) are averaged first."""

    group: str
    positive: float
    negative: float


@METRICS.register("pair_accuracy")
class PairAccuracy(Metric[ScoredPair]):
    """1 where the positive item scores higher, 0.5 where both are exactly equal, 0 elsewhere; mean within groups,
    then plain mean over groups."""

    name = "pair_accuracy"
    unit = "fraction"
    higher_is_better = True
    about = "How often the model finds the right item of a pair likelier than the wrong one. Guessing gives 50 %."

    def observe(self, items: Sequence[ScoredPair]) -> Observations:
        scores = np.array([(p.positive, p.negative) for p in items], np.float64).reshape(-1, 2)
        if np.isnan(scores).any():
            wrong = items[int(np.isnan(scores).any(axis=1).argmax())]
            raise ValueError(f"the score of pair {wrong.group!r} is NaN")
        positive, negative = scores.T
        decisions = ((positive > negative).astype(np.float64) + (positive >= negative)) / 2
        _, group = np.unique([p.group for p in items], return_inverse=True)
        sizes = np.bincount(group) if len(items) else np.zeros(0)
        means = np.bincount(group, weights=decisions) / sizes if len(items) else np.zeros(0)
        return Observations(means, np.ones(len(means)))
