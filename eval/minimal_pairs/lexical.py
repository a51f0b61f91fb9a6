"""Words against pseudo-words, matched so that no property but being a word tells them apart."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval.minimal_pairs import grammar
from eval.minimal_pairs.balance import choose_balanced
from eval.minimal_pairs.phonology import Phonotactics, phones
from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.utterance import Pair, Utterance, phonemes_of, utterance
from eval.minimal_pairs.voice import Voice
from slm.types import stable_hash

HELD_OUT_SHARE = 0.2  # of the pairs: words that the corpus never says
CANDIDATES = 16  # pseudo-words tried for each word
SHORTEST_WORD = 5  # phonemes; shorter words have few neighbours that are not words themselves
SAMPLE_UTTERANCES = 200  # of the corpus, to know how frequent units are
SIGN_WEIGHT = 3.0  # how often a property favours the right item counts for more than by how much

Features = Callable[[Pair], list[float]]


def plan_lexical(voice: Voice, studio: Studio, seed: int, pairs: int, corpus: Sequence[Utterance]) -> list[Pair]:
    """Each word with a pseudo-word of as many phonemes and, at the same speed, the same duration within one frame.

    Of a word's candidates the one is taken that makes, over all pairs together, every phoneme occur as often in the
    pseudo-words as in the words; the corpus' phoneme frequencies favour either side equally often; and durations
    differ either way equally often. Where the studio has tokenizers, the same holds for their units.
    Pairs of held-out words are balanced on their own.
    """
    rng = random.Random(stable_hash(["lexical", seed]))
    counts = Counter(phones("".join(u.phonemes for u in corpus)))
    frequency = Counter(word for u in corpus for word in u.text.split())
    phonotactics = Phonotactics(voice.pronunciations())
    held_out = round(pairs * HELD_OUT_SHARE)
    heard = [word for word in grammar.content_words() if frequency[word]]
    chosen: list[Pair] = []
    for words, number in ((heard, pairs - held_out), (grammar.HELD_OUT_WORDS, held_out)):
        said = {w: p for w in words if len(phones(p := voice.phonemize(w))) >= SHORTEST_WORD}
        said = dict(rng.sample(sorted(said.items()), min(len(said), 2 * number + 2)))  # few pairs need few words
        candidates = _candidates(said, phonotactics, "".join(sorted(counts)), rng, seed)
        groups = _spread(_equally_long(candidates, frequency, studio), number, rng)
        features = [phoneme_features(counts), duration_features]
        features += unit_features(studio, corpus, [pair for group in groups for pair in group])
        options = [np.array([[v for f in features for v in f(pair)] for pair in group]) for group in groups]
        picked = choose_balanced(options, np.random.default_rng(seed))
        chosen += [group[i] for group, i in zip(groups, picked, strict=True)]
    return chosen


def _candidates(
    said: dict[str, str], phonotactics: Phonotactics, inventory: str, rng: random.Random, seed: int
) -> list[tuple[Utterance, list[Utterance]]]:
    """For each word, its utterance and those of pseudo-words like it."""
    made = []
    for word, spoken in said.items():
        pseudo_words = phonotactics.pseudo_words(spoken, inventory, rng, CANDIDATES)
        wrongs = [utterance(seed, f"wrong/{word}", phones(p), f"{p}.") for p in pseudo_words]
        made.append((utterance(seed, f"right/{word}", word, f"{spoken}."), wrongs))
    return made


def _equally_long(
    candidates: list[tuple[Utterance, list[Utterance]]], frequency: Counter, studio: Studio
) -> list[list[Pair]]:
    """For each word, its pairs with the pseudo-words that last as long."""
    flat = [u for right, wrongs in candidates for u in (right, *wrongs)]
    length = dict(zip(flat, studio.measure(flat), strict=True))
    groups = []
    for right, wrongs in candidates:
        labels = {"word": right.text, "frequency": frequency[right.text]}
        pairs = [Pair(right, wrong, labels, (length[right], length[wrong])) for wrong in wrongs]
        groups.append([p for p in pairs if p.is_equally_long])
    return [group for group in groups if group]


def _spread(groups: list[list[Pair]], number: int, rng: random.Random) -> list[list[Pair]]:
    """`number` groups: a word's candidates are dealt out when there are more pairs to make than words."""
    parts: list[list[Pair]] = []
    for share in range(1, 1 + max((len(group) for group in groups), default=0)):
        parts = [group[k::share] for group in groups for k in range(min(share, len(group)))]
        if len(parts) >= number:
            break
    return rng.sample(parts, min(number, len(parts)))


def phoneme_features(counts: Counter) -> Features:
    """Right minus wrong: each phoneme, and their log-frequency in the corpus with its sign."""
    inventory = sorted(counts)

    def features(pair: Pair) -> list[float]:
        right, wrong = (Counter(side) for side in phonemes_of(pair))
        by_phoneme = [right[c] - wrong[c] for c in inventory]
        log_frequency = sum(n * math.log(counts[c]) for n, c in zip(by_phoneme, inventory, strict=True))
        return [*by_phoneme, log_frequency, SIGN_WEIGHT * _sign(log_frequency)]

    return features


def duration_features(pair: Pair) -> list[float]:
    """Right minus wrong: duration in frames with its sign."""
    return [pair.frames, SIGN_WEIGHT * _sign(pair.frames)]


def unit_features(studio: Studio, corpus: Sequence[Utterance], pairs: Sequence[Pair]) -> list[Features]:
    """For each tokenizer of the studio."""
    if not studio.tokenizers:
        return []
    items = list(dict.fromkeys(u for pair in pairs for u in (pair.right, pair.wrong)))
    counted = zip(studio.count_units(corpus[:SAMPLE_UTTERANCES]), studio.count_units(items), strict=True)
    return [_features_of(heard, dict(zip(items, counts, strict=True))) for heard, counts in counted]


def _features_of(heard: Sequence[np.ndarray], histogram: Mapping[Utterance, np.ndarray]) -> Features:
    """Right minus wrong: each unit, and with their signs the number of units and the sum and mean of the units'
    log-frequency in (a sample of) the corpus."""
    counts = 1 + np.sum(heard, axis=0)
    log_frequency = np.log(counts / counts.sum())

    def features(pair: Pair) -> list[float]:
        right, wrong = histogram[pair.right], histogram[pair.wrong]
        units = float(right.sum() - wrong.sum())
        total = float((right - wrong) @ log_frequency)
        mean = float(right @ log_frequency / right.sum() - wrong @ log_frequency / wrong.sum())
        signs = [SIGN_WEIGHT * _sign(v) for v in (units, total, mean)]
        return [*(right - wrong).astype(float), units, total, 10 * mean, *signs]

    return features


def _sign(value: float) -> float:
    return float(np.sign(round(value, 9)))
