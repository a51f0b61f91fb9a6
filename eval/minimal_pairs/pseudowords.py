"""Pseudo-words of any language that has a list of pronunciations, by the description of Wuggy.

Keuleers & Brysbaert (2010), Wuggy: a multilingual pseudoword generator, Behavior Research Methods 42: words are chains
of subsyllabic segments (onset, nucleus, coda); a pseudo-word follows only links that words of as many syllables have at
the same place; its segments are as long as the word's; its links are as frequent as the word's, as nearly as can be
(concentric search: the allowed difference is doubled until enough are found); about a third of its segments differ.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Sequence

from eval.minimal_pairs.ipa import Pronunciation, broadly, is_form_of, stress_of
from eval.minimal_pairs.syllables import Segments, Syllables

EDGE: Pronunciation = ("#",)
CHANGED = 3  # one segment in so many
WALKS = 6  # for each candidate wanted, within one radius
STEPS = 400  # of one walk, before it is given up

# Lexica do not list every regular form.
REGULAR_ENDINGS: dict[str, tuple[Pronunciation, ...]] = {
    "en": tuple(tuple(e) for e in ("z", "s", "d", "t", "ɪŋ", "ᵻz", "ᵻd", "əz", "əd", "ɪz", "ɪd")),
}

Link = tuple[int, int, Pronunciation, Pronunciation]
"""Number of segments of the word, place, and the two segments."""


class Chains:
    """How many words of a lexicon have each link, and what is a word: these, and `others`, which have no links."""

    def __init__(
        self, pronunciations: Iterable[Pronunciation], language: str = "", others: Iterable[Pronunciation] = ()
    ):
        words = sorted(set(pronunciations))
        self.language = language
        self.endings = [broadly(e, language) for e in REGULAR_ENDINGS.get(language, ())]
        self.syllables = Syllables(words)
        self.words = {broadly(word, language) for word in (*words, *others) if word}
        self.counts: Counter[Link] = Counter()
        self._followers: dict[tuple[int, int, Pronunciation], list[Pronunciation]] = {}
        for segments in filter(None, map(self.syllables.segments, words)):
            self.counts.update(links(segments))
        for (n, i, a, b), _ in sorted(self.counts.items()):
            self._followers.setdefault((n, i, a), []).append(b)

    def is_word(self, pronunciation: Iterable[str]) -> bool:
        """However it is stressed; also a regular form of a word, where the language's endings are known."""
        return is_form_of(broadly(pronunciation, self.language), self.words, self.endings)

    def deviations(self, word: Segments, other: Segments) -> list[int]:
        """How much the frequencies of the links of two words differ, link by link."""
        both = zip(links(word), links(other), strict=True)
        return [abs(self.counts[a] - self.counts[b]) for a, b in both]

    def pseudo_words(self, word: Pronunciation, rng: random.Random, limit: int) -> list[Pronunciation]:
        """Up to `limit`, those nearest in the frequency of their links first: the largest difference, then the sum."""
        segments = self.syllables.segments(word)
        if segments is None:
            return []
        found: dict[Segments, None] = {}
        radius, largest = 1, max(self.counts.values(), default=0)
        while len(found) < limit and radius < 2 * largest:
            search = _Search(self, segments, radius)
            for _ in range(WALKS * limit):
                made = search.walk(rng)
                if made and len(found) < limit and not self.is_word(p for part in made for p in part):
                    found.setdefault(made)
            radius *= 2
        ranked = sorted(found, key=lambda f: (max(d := self.deviations(segments, f)), sum(d), f))
        return [tuple(p for part in segments for p in part) for segments in ranked]


def links(segments: Segments) -> list[Link]:
    """The edges of the word are segments, too."""
    edged, n = (EDGE, *segments, EDGE), len(segments)
    return [(n, i, a, b) for i, (a, b) in enumerate(itertools.pairwise(edged))]


class _Search:
    """Random walks along links whose frequency is within `radius` of that of the word's own link at the same place."""

    def __init__(self, chains: Chains, word: Segments, radius: int):
        self.chains, self.word, self.radius = chains, word, radius
        self.reference = [chains.counts[link] for link in links(word)]
        self.filled = [i for i, segment in enumerate(word) if segment]

    def walk(self, rng: random.Random) -> Segments | None:
        """One candidate in which a third of the segments, drawn anew each time, differ; None where there is none."""
        number = max(1, round(len(self.filled) / CHANGED))
        changed = set(rng.sample(self.filled, min(number, len(self.filled))))
        # Where no segment changes nothing can be out of reach.
        self._steps = STEPS
        made = self._go(0, [], changed, rng)
        return tuple(made) if made else None

    def _go(
        self, i: int, made: list[Pronunciation], changed: set[int], rng: random.Random
    ) -> list[Pronunciation] | None:
        if i == len(self.word):
            return made if self._near(i, made[-1], EDGE) else None
        before = made[-1] if made else EDGE
        options: Sequence[Pronunciation] = [self.word[i]]
        if i in changed:
            followers = self.chains._followers.get((len(self.word), i, before), [])
            options = [s for s in followers if s != self.word[i] and _alike(s, self.word[i])]
            options = rng.sample(options, len(options))
        for option in options:
            self._steps -= 1
            if self._steps < 0:
                return None
            if self._near(i, before, option) and (found := self._go(i + 1, [*made, option], changed, rng)):
                return found
        return None

    def _near(self, i: int, a: Pronunciation, b: Pronunciation) -> bool:
        count = self.chains.counts[len(self.word), i, a, b]
        return count > 0 and abs(count - self.reference[i]) <= self.radius


def _alike(a: Pronunciation, b: Pronunciation) -> bool:
    """Equally many phonemes, equally stressed."""
    return len(a) == len(b) and [*map(stress_of, a)] == [*map(stress_of, b)]
