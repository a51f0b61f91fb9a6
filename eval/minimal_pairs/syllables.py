"""Pronunciations as syllables by maximal onset: of the consonants between two vowels, as many as a word of the lexicon
begins with go to the later one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from eval.minimal_pairs.ipa import Pronunciation, is_vowel

Segments = tuple[Pronunciation, ...]
"""Onset, nucleus, coda of the first syllable, of the second, ...: phonemes of each, none where it is empty."""

RARE = 10_000  # of so many words one must begin with an onset for it to count: names and loans bring odd ones


class Syllables:
    """What words may begin with, and so where syllables do."""

    def __init__(self, words: Iterable[Pronunciation]):
        begins = Counter(word[:first] for word in words if (first := _first_vowel(word)) is not None)
        fewest = begins.total() / RARE
        self.onsets = {onset for onset, n in begins.items() if n >= fewest}

    def segments(self, word: Pronunciation) -> Segments | None:
        """None for what has no vowel."""
        nuclei = [i for i, phoneme in enumerate(word) if is_vowel(phoneme)]
        if not nuclei:
            return None
        starts = [0, *(self._start(word, a + 1, b) for a, b in itertools.pairwise(nuclei))]
        ends = [*starts[1:], len(word)]
        parts = zip(starts, nuclei, ends, strict=True)
        return tuple(part for s, n, e in parts for part in (word[s:n], word[n : n + 1], word[n + 1 : e]))

    def _start(self, word: Pronunciation, low: int, nucleus: int) -> int:
        """Where the onset before this nucleus begins, at `low` or later."""
        return next((i for i in range(low, nucleus) if word[i:nucleus] in self.onsets), nucleus)


def _first_vowel(word: Pronunciation) -> int | None:
    return next((i for i, phoneme in enumerate(word) if is_vowel(phoneme)), None)
