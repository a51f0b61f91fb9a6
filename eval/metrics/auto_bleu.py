"""How much a text repeats itself: auto-BLEU (Lakhotia et al. 2021, arXiv 2102.01192).

Two definitions go by this name. The geometric one is of the GSLM code: for each order an n-gram counts where it occurs
again among n-grams that do not overlap it, and the shares of the orders 1..n are averaged geometrically. The plain one
(slamkit) is the share of n-grams of one order that occur again anywhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations, sum_groups
from eval.metrics.texts import Transcript, ngrams

ORDER = 2


class _MeanOverTexts(Metric[Transcript]):
    """Mean of a number of each text; texts without n-grams count 0, as they do in the code of both."""

    observes = Transcript
    unit = "fraction"
    higher_is_better = False

    def of(self, words: Sequence[str]) -> float:
        raise NotImplementedError

    def observe(self, items: Sequence[Transcript]) -> Observations:
        values = np.array([self.of(t.words) for t in items], np.float64)
        return Observations(*sum_groups([t.group for t in items], values, np.ones(len(items))))


@METRICS.register("auto_bleu_2")
class AutoBleu(_MeanOverTexts):
    name = "auto_bleu_2"
    about = "The share of word pairs that occur again in the same text: how much it repeats itself. Less is better."

    def of(self, words: Sequence[str]) -> float:
        return repeated_share(words, ORDER)


@METRICS.register("auto_bleu_2_geometric")
class GeometricAutoBleu(_MeanOverTexts):
    name = "auto_bleu_2_geometric"
    about = "How much a text repeats its words and word pairs, as GSLM counts it. Less is better."

    def of(self, words: Sequence[str]) -> float:
        return geometric_auto_bleu(words, ORDER)


def repeated_share(words: Sequence[str], n: int) -> float:
    """Of the n-grams of a text, the share that occurs more than once. 0 without n-grams."""
    found = ngrams(words, n)
    counts = Counter(found)
    return sum(c for c in counts.values() if c > 1) / len(found) if found else 0.0


def geometric_auto_bleu(words: Sequence[str], order: int) -> float:
    """Geometric mean over n = 1..order of the share of n-grams that occur again apart from themselves. 0 for texts of
    fewer than `order` words."""
    if len(words) < order:
        return 0.0
    return float(np.prod([_apart_share(words, n) for n in range(1, order + 1)]) ** (1 / order))


def _apart_share(words: Sequence[str], n: int) -> float:
    places = defaultdict(list)
    for i, gram in enumerate(ngrams(words, n)):
        places[gram].append(i)
    again = 0
    for where in places.values():  # sorted: places in order
        again += sum(bisect_right(where, i - n) > 0 or bisect_left(where, i + n) < len(where) for i in where)
    return again / (len(words) - n + 1)
