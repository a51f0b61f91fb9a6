"""Mean opinion: what a judge, trained on people's ratings or asked in words, gives a recording or text from 1 to 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations, sum_groups


@dataclass(frozen=True)
class Rating:
    """One judge's, of one item."""

    group: str
    value: float


@METRICS.register("rating")
class MeanRating(Metric[Rating]):
    name = "rating"
    observes = Rating
    unit = "of 5"
    higher_is_better = True
    about = "The mean of a judge's ratings, from 1 to 5."

    def observe(self, items: Sequence[Rating]) -> Observations:
        values = np.array([r.value for r in items], np.float64)
        if np.isnan(values).any():
            raise ValueError(f"the rating of {items[int(np.isnan(values).argmax())].group!r} is NaN")
        return Observations(*sum_groups([r.group for r in items], values, np.ones(len(items))))
