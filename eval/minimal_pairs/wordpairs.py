"""Words of any lexicon against pseudo-words, each pair read by every voice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from eval.minimal_pairs.balance import choose_balanced
from eval.minimal_pairs.ipa import Pronunciation, bare
from eval.minimal_pairs.lexical import HELD_OUT_SHARE, SIGN_WEIGHT, duration_features, phoneme_features, unit_features
from eval.minimal_pairs.matching import Contrast, equally_long
from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.utterance import Pair, Utterance
from eval.minimal_pairs.vocabulary import Vocabulary, Word
from eval.minimal_pairs.voice import Voice
from slm.types import stable_hash

CANDIDATES = 12  # pseudo-words tried for each word
SPARE = 1.4  # words tried for each pair: not all have a pseudo-word that lasts equally long in every voice
BANDS = ((1, 5), (5, 20), (20, 100), (100, float("inf")))  # of frequency, as sLM21 reports them

Option = list[Pair]
"""One candidate of a word: a pair by each voice."""


def plan_words(
    voices: Mapping[str, Voice],
    studio: Studio,
    vocabulary: Vocabulary,
    seed: int,
    pairs: int,
    corpus: Sequence[Utterance],
) -> list[Option]:
    """`pairs` words, fewer where not so many can be matched: a fifth of frequency below 1, the others in equal parts of
    the bands of frequency, as far as there are words; of each the candidate that, with the others, leaves no property
    that tells words from pseudo-words."""
    maker = _Maker(voices, studio, vocabulary, seed)
    unheard = _Pool(maker, [[w for w in vocabulary.words if w.frequency < BANDS[0][0]]])
    heard = _Pool(maker, [[w for w in vocabulary.words if low <= w.frequency < high] for low, high in BANDS])
    few = unheard.find(round(pairs * HELD_OUT_SHARE))
    many = heard.find(pairs - few)
    few = unheard.find(pairs - many) if few + many < pairs else few
    return [
        option
        for pool, number in ((unheard, few), (heard, many))
        for option in _balanced(pool.take(number), studio, vocabulary, corpus, seed)
    ]


def shares(available: Sequence[int], wanted: int) -> list[int]:
    """`wanted` dealt in equal parts, those that have fewer giving all that they have."""
    made = [0] * len(available)
    for _ in range(wanted):
        open_ = [i for i, n in enumerate(available) if made[i] < n]
        if not open_:
            break
        made[min(open_, key=lambda i: made[i])] += 1
    return made


@dataclass(frozen=True)
class _Maker:
    """Candidates of words. Those of a word depend on it and the seed alone."""

    voices: Mapping[str, Voice]
    studio: Studio
    vocabulary: Vocabulary
    seed: int

    def options(self, words: Sequence[Word]) -> dict[Word, list[Option]]:
        """Of each word, the candidates that every voice can match; words without any are absent."""
        contrasts, of = list[Contrast](), list[Word]()
        for word in words:
            rng = random.Random(stable_hash(["pseudo-words", self.seed, word.text]))
            for made in self.vocabulary.chains.pseudo_words(word.pronunciation, rng, CANDIDATES):
                if contrast := _contrast(self.voices, word, made):
                    contrasts.append(contrast)
                    of.append(word)
        options: dict[Word, list[Option]] = {}
        for word, matched in zip(of, equally_long(contrasts, self.studio, self.seed), strict=True):
            if len(matched) == len(self.voices):
                options.setdefault(word, []).append([matched[name] for name in self.voices])
        return options


class _Pool:
    """Words in bands, in an order of chance, tried until enough have been matched."""

    def __init__(self, maker: _Maker, bands: Sequence[Sequence[Word]]):
        rng = random.Random(stable_hash(["words", maker.seed]))
        self.maker = maker
        self.bands = [rng.sample(list(band), len(band)) for band in bands]
        self.tried = [0] * len(bands)
        self.found: dict[Word, list[Option]] = {}

    def find(self, wanted: int) -> int:
        """How many of `wanted` words there are."""
        while len(self.found) < wanted:
            left = [len(band) - n for band, n in zip(self.bands, self.tried, strict=True)]
            more = shares(left, round((wanted - len(self.found)) * SPARE) + 2)
            if not any(more):
                break
            parts = zip(self.bands, self.tried, more, strict=True)
            self.found |= self.maker.options([w for band, n, m in parts for w in band[n : n + m]])
            self.tried = [n + m for n, m in zip(self.tried, more, strict=True)]
        return min(wanted, len(self.found))

    def take(self, wanted: int) -> list[list[Option]]:
        """The options of so many words, in equal parts of the bands."""
        matched = [[w for w in band if w in self.found] for band in self.bands]
        numbers = shares([len(band) for band in matched], wanted)
        return [self.found[word] for band, n in zip(matched, numbers, strict=True) for word in band[:n]]


def _contrast(voices: Mapping[str, Voice], word: Word, made: Pronunciation) -> Contrast | None:
    said: dict[str, tuple[str, str]] = {}
    for name, voice in voices.items():
        right, wrong = voice.spoken(word.pronunciation), voice.spoken(made)
        if right is None or wrong is None:
            return None
        said[name] = right, wrong
    both = [*map(bare, word.pronunciation)], [*map(bare, made)]
    labels = {"word": word.text, "frequency": word.frequency}
    return Contrast(word.text, "".join(both[1]), said, dict.fromkeys(voices, both), labels)


def _balanced(
    groups: Sequence[list[Option]], studio: Studio, vocabulary: Vocabulary, corpus: Sequence[Utterance], seed: int
) -> list[Option]:
    of_phonemes = phoneme_features(vocabulary.phonemes)
    every = [pair for group in groups for option in group for pair in option]
    of_units = unit_features(studio, corpus or [p.right for p in every], every)

    def features(option: Option) -> list[float]:
        by_voice = [v for pair in option for v in (*duration_features(pair), *speed_features(pair))]
        units = [np.sum([of_one(pair) for pair in option], axis=0) for of_one in of_units]
        return [*of_phonemes(option[0]), *by_voice, *np.concatenate([[], *units])]

    options = [np.array([features(option) for option in group]) for group in groups]
    picked = choose_balanced(options, np.random.default_rng(seed))
    return [group[i] for group, i in zip(groups, picked, strict=True)]


def speed_features(pair: Pair) -> list[float]:
    """Right minus wrong: speed with its sign."""
    difference = pair.right.speed - pair.wrong.speed
    return [10 * difference, SIGN_WEIGHT * float(np.sign(round(difference, 6)))]
