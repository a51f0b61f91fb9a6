"""What metrics of texts are about: transcripts, their words and n-grams."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_INSIDE = frozenset("'_\u200c\u200d")  # joiners change how letters of one word are drawn


@dataclass(frozen=True)
class Transcript:
    """The words of what was said, normalized by `words_of`. An empty one is an observation like any other."""

    group: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Transcription:
    """What was understood, beside what should have been said: normalized words."""

    group: str
    hypothesis: tuple[str, ...]
    reference: tuple[str, ...]


@dataclass(frozen=True)
class TextLikelihood:
    """What a text model makes of one transcript: the summed negative log-probability of its `num_tokens` tokens."""

    group: str
    nll_nats: float
    num_tokens: int


def words_of(text: str) -> tuple[str, ...]:
    """Lower case, split wherever there is no letter, digit, mark or apostrophe: punctuation is no word.

    >>> words_of("Hello - it's 5 O'Clock!")
    ('hello', "it's", '5', "o'clock")
    """
    plain = unicodedata.normalize("NFC", text).replace("’", "'").lower()
    apart = "".join(c if c in _INSIDE or unicodedata.category(c)[0] in "LNM" else " " for c in plain)
    words = (part.strip("'_\u200c\u200d") for part in apart.split())
    return tuple(word for word in words if any(map(str.isalnum, word)))


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Every run of n words, in order; none where there are fewer words."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
