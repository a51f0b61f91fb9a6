"""distinct-n: the share of different n-grams among all (Li et al. 2016, arXiv 1510.03055)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from eval.metrics.base import METRICS, CorpusMetric
from eval.metrics.texts import Transcript, ngrams


class _Distinct(CorpusMetric[Transcript]):
    observes = Transcript
    unit = "fraction"
    higher_is_better = True
    order: int

    def measure(self, items: Sequence[Transcript]) -> float:
        """Over all texts together. NaN without n-grams."""
        found = [gram for t in items for gram in ngrams(t.words, self.order)]
        return len(set(found)) / len(found) if found else math.nan


@METRICS.register("distinct_1")
class DistinctOne(_Distinct):
    name = "distinct_1"
    order = 1
    about = "The share of different words among all words said. It falls with the amount of text."


@METRICS.register("distinct_2")
class DistinctTwo(_Distinct):
    name = "distinct_2"
    order = 2
    about = "The share of different word pairs among all. It falls with the amount of text."
