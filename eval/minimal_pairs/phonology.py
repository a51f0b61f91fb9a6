"""Pseudo-words: one or two phonemes of a word replaced so that it still sounds like English and is no word.

Phonemes are the symbols of the voice's alphabet, one character each; stress marks are not phonemes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from eval.minimal_pairs.ipa import STRESS, broadly, is_form_of

VOWELS = frozenset("AIOQWYaeiouæɐɑɒɔəɚɛɜɨɪʊʌᵊᵻ")
SUFFIXES = ("z", "s", "d", "t", "ɪŋ", "ᵻz", "ᵻd", "əz", "əd")
BROAD_SUFFIXES = [*map(broadly, SUFFIXES)]
EDGE = "#"
FEWEST_ATTESTATIONS = 10
ATTEMPTS = 4_000


def phones(phonemes: str) -> str:
    """The phonemes of a transcription, without stress, spaces and punctuation."""
    return "".join(c for c in phonemes if c.isalpha() and c not in STRESS)


class Phonotactics:
    """What a lexicon of pronunciations attests: its words, and every sequence of three phonemes (with word edges).

    A sequence is attested when at least `FEWEST_ATTESTATIONS` words hold it (one word, in a lexicon under 1,000).
    """

    def __init__(self, pronunciations: Iterable[str]):
        self.words = {phones(p) for p in pronunciations}
        self.words.discard("")
        self._broad = {*map(broadly, self.words)}
        triples = Counter(t for word in self.words for t in _triples(word))
        fewest = FEWEST_ATTESTATIONS if len(self.words) >= 1000 else 1
        self.attested = {t for t, n in triples.items() if n >= fewest}

    def is_word(self, candidate: str) -> bool:
        """In the lexicon, be it with another weak vowel or /t/, or a regular form (-s, -ed, -ing) of what is."""
        return is_form_of(broadly(candidate), self._broad, BROAD_SUFFIXES)

    def is_legal(self, candidate: str) -> bool:
        return all(t in self.attested for t in _triples(candidate))

    def pseudo_words(self, word: str, inventory: str, rng: random.Random, limit: int) -> list[str]:
        """Up to `limit` transcriptions like `word` (stress kept) with one or two phonemes replaced from `inventory`.

        A vowel takes the place of a vowel and a consonant that of a consonant, so syllables stay as they are. The
        order is random; few words have fewer than `limit` such neighbours, and those give what `ATTEMPTS` draws find.
        """
        places = [i for i, c in enumerate(word) if phones(c)]
        kinds = {True: [c for c in inventory if c in VOWELS], False: [c for c in inventory if c not in VOWELS]}
        found: dict[str, None] = {}
        for _ in range(ATTEMPTS):
            letters = list(word)
            for i in rng.sample(places, rng.choice((1, 2))):
                letters[i] = rng.choice(kinds[word[i] in VOWELS])
            made = "".join(letters)
            if self.is_legal(phones(made)) and not self.is_word(phones(made)):
                found.setdefault(made)
                if len(found) == limit:
                    break
        return list(found)


def _triples(word: str) -> list[str]:
    edged = f"{EDGE}{word}{EDGE}"
    return [edged[i : i + 3] for i in range(len(edged) - 2)]
