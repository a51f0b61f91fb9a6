"""Words of any lexicon against pseudo-words, each pair read by every voice."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

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
    """`pairs` words, fewer where not so many can be matched: a fifth of frequency 0, the others in equal parts of the
    bands of frequency as far as there are words; of each the candidate that, with the others, leaves no property that
    tells words from pseudo-words."""
    rng = random.Random(stable_hash(["words", seed]))
    chosen: list[Option] = []
    unheard = [w for w in vocabulary.words if not w.frequency]
    heard = [[w for w in vocabulary.words if low <= w.frequency < high] for low, high in BANDS]
    number = pairs if not any(heard) else min(round(pairs * HELD_OUT_SHARE), len(unheard))
    for bands, wanted in (([unheard], number), (heard, pairs - number)):
        if wanted:
            words = _sample(bands, wanted, rng)
            groups = _options(voices, studio, vocabulary, words, rng, seed)
            chosen += _balanced(_take(groups, bands, wanted), studio, vocabulary, corpus, seed)
    return chosen


def shares(available: Sequence[int], wanted: int) -> list[int]:
    """`wanted` dealt in equal parts, those that have fewer giving all that they have."""
    made = [0] * len(available)
    for _ in range(wanted):
        open_ = [i for i, n in enumerate(available) if made[i] < n]
        if not open_:
            break
        made[min(open_, key=lambda i: made[i])] += 1
    return made


def _sample(bands: Sequence[Sequence[Word]], wanted: int, rng: random.Random) -> list[Word]:
    numbers = shares([len(band) for band in bands], round(wanted * SPARE) + 2)
    return [word for band, n in zip(bands, numbers, strict=True) for word in rng.sample(list(band), n)]


def _options(
    voices: Mapping[str, Voice],
    studio: Studio,
    vocabulary: Vocabulary,
    words: Sequence[Word],
    rng: random.Random,
    seed: int,
) -> dict[Word, list[Option]]:
    """Of each word, the candidates that every voice can match; words without any are absent."""
    contrasts, of = list[Contrast](), list[Word]()
    for word in words:
        for made in vocabulary.chains.pseudo_words(word.pronunciation, rng, CANDIDATES):
            if contrast := _contrast(voices, word, made):
                contrasts.append(contrast)
                of.append(word)
    options: dict[Word, list[Option]] = {}
    for word, matched in zip(of, equally_long(contrasts, studio, seed), strict=True):
        if len(matched) == len(voices):
            options.setdefault(word, []).append([matched[name] for name in voices])
    return options


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


def _take(groups: Mapping[Word, list[Option]], bands: Sequence[Sequence[Word]], wanted: int) -> list[list[Option]]:
    """The options of `wanted` words, in equal parts of the bands."""
    matched = [[w for w in band if w in groups] for band in bands]
    numbers = shares([len(band) for band in matched], wanted)
    return [groups[word] for band, n in zip(matched, numbers, strict=True) for word in band[:n]]


def _balanced(
    groups: Sequence[list[Option]], studio: Studio, vocabulary: Vocabulary, corpus: Sequence[Utterance], seed: int
) -> list[Option]:
    of_phonemes = phoneme_features(vocabulary.phonemes)
    every = [pair for group in groups for option in group for pair in option]
    of_units = unit_features(studio, corpus or [p.right for p in every], every) if studio.tokenizer else None

    def features(option: Option) -> list[float]:
        by_voice = [v for pair in option for v in (*duration_features(pair), *speed_features(pair))]
        units = np.sum([of_units(pair) for pair in option], axis=0).tolist() if of_units else []
        return [*of_phonemes(option[0]), *by_voice, *units]

    options = [np.array([features(option) for option in group]) for group in groups]
    picked = choose_balanced(options, np.random.default_rng(seed))
    return [group[i] for group, i in zip(groups, picked, strict=True)]


def speed_features(pair: Pair) -> list[float]:
    """Right minus wrong: speed with its sign."""
    difference = pair.right.speed - pair.wrong.speed
    return [10 * difference, SIGN_WEIGHT * float(np.sign(round(difference, 6)))]
