"""How alike the texts of a model are: self-BLEU, and VERT, which adds how they repeat themselves (2102.01192)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from eval.metrics.auto_bleu import ORDER, geometric_auto_bleu
from eval.metrics.base import METRICS, CorpusMetric
from eval.metrics.texts import Transcript, ngrams


@METRICS.register("self_bleu_2")
class SelfBleu(CorpusMetric[Transcript]):
    """Mean over texts of the BLEU of each against all others: geometric mean of the clipped precisions of orders 1 and
    2, no length penalty, no smoothing, as in the GSLM code."""

    name = "self_bleu_2"
    observes = Transcript
    unit = "fraction"
    higher_is_better = False
    about = (
        "How much of each text stands in the model's other texts too: how alike they are. It grows with their number."
    )

    def measure(self, items: Sequence[Transcript]) -> float:
        return self_bleu([t.words for t in items], ORDER)


@METRICS.register("vert")
class Vert(CorpusMetric[Transcript]):
    """Geometric mean of self-BLEU-2 and geometric auto-BLEU-2."""

    name = "vert"
    observes = Transcript
    unit = "fraction"
    higher_is_better = False
    about = "Diversity: how alike texts are, and how much each repeats itself. What recordings have is what to aim at."

    def measure(self, items: Sequence[Transcript]) -> float:
        return vert([t.words for t in items])


def vert(texts: Sequence[Sequence[str]]) -> float:
    """NaN for fewer than two texts."""
    auto = float(np.mean([geometric_auto_bleu(words, ORDER) for words in texts])) if texts else math.nan
    return math.sqrt(self_bleu(texts, ORDER) * auto)


def self_bleu(texts: Sequence[Sequence[str]], order: int) -> float:
    """NaN for fewer than two texts; a text without n-grams of some order counts 0.

    Each n-gram's clip is the most often that any one other text has it: the two highest counts over all texts tell it
    for every text, so the cost grows with the words and not with the pairs of texts.
    """
    if len(texts) < 2:
        return math.nan
    logs = np.zeros(len(texts))
    for n in range(1, order + 1):
        counts = [Counter(ngrams(words, n)) for words in texts]
        with np.errstate(divide="ignore"):
            logs += np.log([_precision(own, highest) for own, highest in _with_highest(counts)]) / order
    return float(np.exp(logs).mean())


def _with_highest(counts: Sequence[Counter]) -> list[tuple[Counter, dict]]:
    """Each text's counts, and of each of its n-grams the highest count in another text."""
    top: dict[tuple[str, ...], tuple[int, int]] = {}
    for found in counts:
        for gram, c in found.items():
            first, second = top.get(gram, (0, 0))
            top[gram] = (c, first) if c > first else (first, max(c, second))
    return [(own, {g: top[g][1] if c == top[g][0] else top[g][0] for g, c in own.items()}) for own in counts]


def _precision(own: Counter, highest: dict) -> float:
    total = own.total()
    return sum(min(c, highest[g]) for g, c in own.items()) / total if total else 0.0
