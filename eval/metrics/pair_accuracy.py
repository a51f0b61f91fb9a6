"""Accuracy on minimal pairs, by the rule of the ZeroSpeech 2021 evaluation (arXiv 2011.11588)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations, ScoredPair, sum_groups


@METRICS.register("pair_accuracy")
class PairAccuracy(Metric[ScoredPair]):
    """1 where the positive item scores higher, 0.5 where both are exactly equal (or what the convention says of ties),
    0 elsewhere; mean within groups, then plain mean over groups."""

    name = "pair_accuracy"
    observes = ScoredPair
    unit = "fraction"
    higher_is_better = True
    is_share = True
    about = "How often the model finds the right item of a pair likelier than the wrong one. Guessing gives 50 %."

    def observe(self, items: Sequence[ScoredPair]) -> Observations:
        scores = np.array([(p.positive, p.negative) for p in items], np.float64).reshape(-1, 2)
        if np.isnan(scores).any():
            wrong = items[int(np.isnan(scores).any(axis=1).argmax())]
            raise ValueError(f"the score of pair {wrong.group!r} is NaN")
        positive, negative = scores.T
        decisions = (positive > negative) + np.array([p.tie for p in items]) * (positive == negative)
        totals, sizes = sum_groups([p.group for p in items], decisions, np.ones(len(items)))
        return Observations(totals / sizes, np.ones(len(totals)))
