"""Word and character error rate: edits over what should have been said. dWER is the same with the transcript of a
recording in the place of the text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.metrics.base import METRICS, Metric, Observations, sum_groups
from eval.metrics.texts import Transcription


class _ErrorRate(Metric[Transcription]):
    observes = Transcription
    unit = "fraction"
    higher_is_better = False

    def parts(self, words: tuple[str, ...]) -> Sequence[str]:
        raise NotImplementedError

    def observe(self, items: Sequence[Transcription]) -> Observations:
        """All edits over all reference words (or characters): an empty hypothesis costs all of its reference."""
        pairs = [(self.parts(t.hypothesis), self.parts(t.reference)) for t in items]
        edits = np.array([edit_distance(h, r) for h, r in pairs], np.float64)
        return Observations(*sum_groups([t.group for t in items], edits, np.array([float(len(r)) for _, r in pairs])))


@METRICS.register("wer")
class WordErrorRate(_ErrorRate):
    name = "wer"
    about = "Words wrongly understood, left out or added, over the words that should have been said."

    def parts(self, words: tuple[str, ...]) -> Sequence[str]:
        return words


@METRICS.register("cer")
class CharacterErrorRate(_ErrorRate):
    name = "cer"
    about = "The same in characters, one space between words counted."

    def parts(self, words: tuple[str, ...]) -> Sequence[str]:
        return " ".join(words)


def edit_distance(first: Sequence, second: Sequence) -> int:
    """Levenshtein: the fewest insertions, deletions and substitutions. A row of the table at a time, the running
    minimum along it by `minimum.accumulate`."""
    known: dict = {}
    a = np.array([known.setdefault(x, len(known)) for x in first], np.int64)
    b = np.array([known.setdefault(x, len(known)) for x in second], np.int64)
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for i, token in enumerate(a, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != token))
        row = np.minimum.accumulate(np.concatenate([[i], best]) - steps) + steps
    return int(row[-1])
