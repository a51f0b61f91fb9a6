"""Scores of a benchmark as they come: every metric of such items, each with its convention and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from eval.benchmarks.base import MODEL
from eval.metrics.base import CorpusMetric, Metric, metrics_of
from eval.metrics.bootstrap import estimate
from slm.types import Score


class Sheet:
    """`scores` are by scorer. What has no value (no items, NaN) makes no score, and is noted in `undefined`."""

    def __init__(self, benchmark: str, split: str, resamples: int, seed: int):
        self.prefix, self.resamples, self.seed = f"{benchmark}/{split}", resamples, seed
        self.scores: dict[str, list[Score]] = {MODEL: []}
        self.undefined: list[str] = []

    def add(self, part: str, items: Sequence[Any], convention: str, scorer: str = MODEL, name: str = "",
            about: int | None = None, kind: type | None = None) -> dict[str, float]:  # fmt: skip
        """Every registered metric of such items (`name` in the place of its own); returns the values by metric.
        `about` is how many clips the items are of, where each has several; `kind` what they would be if there were
        any."""
        made = {}
        if items:
            kind = type(items[0])
        for metric in metrics_of(kind) if kind else ():
            score = self._score(metric, part, items, convention, name or metric.name, about) if items else None
            if score is None:
                self.undefined.append(f"{name or metric.name} of {scorer}, {part}")
                continue
            self.scores.setdefault(scorer, []).append(score)
            made[score.metric] = score.value
        return made

    def number(self, part: str, metric: str, value: float, unit: str, convention: str, count: int,
               scorer: str = MODEL) -> None:  # fmt: skip
        """A number that is no registered metric."""
        if math.isfinite(value):
            score = Score(f"{self.prefix}/{part}", metric, value, unit, convention, count)
            self.scores.setdefault(scorer, []).append(score)

    def _score(self, metric: Metric, part: str, items: Sequence[Any], convention: str, name: str,
               about: int | None) -> Score | None:  # fmt: skip
        item = f"{self.prefix}/{part}"
        if isinstance(metric, CorpusMetric):
            value = metric.value(items)
            count = len(items) if about is None else about
            return Score(item, name, value, metric.unit, convention, count) if math.isfinite(value) else None
        observed = metric.observe(items)
        if not math.isfinite(observed.value):
            return None
        found = estimate([observed], self.resamples, self.seed)
        interval = found.interval and (metric.shown(found.interval[0]), metric.shown(found.interval[1]))
        return Score(item, name, metric.shown(found.value), metric.unit, convention, found.count, interval)
