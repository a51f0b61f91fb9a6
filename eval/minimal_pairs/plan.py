"""What will be said: every utterance of the corpus and of both tests, decided before any file is written.

The corpus is drawn from the grammar. Test items are chosen among candidates by how long they come out and by their
phonemes, so that neither length nor frequency tells a right item from a wrong one.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from eval.minimal_pairs import grammar
from eval.minimal_pairs.balance import choose_balanced
from eval.minimal_pairs.phonology import Phonotactics, phones
from eval.minimal_pairs.voice import FRAME_SAMPLES, Voice
from slm.types import stable_hash

SPEEDS = (0.9, 0.95, 1.0, 1.05, 1.1)
ENDINGS = (".", "!", "")  # of a corpus utterance: they change its melody
ISOLATED_SHARE = 0.2  # of the corpus utterances: one content word alone, as the lexical task asks for them
HELD_OUT_SHARE = 0.2  # of the lexical pairs: words that the corpus never says
CANDIDATES = 24  # pseudo-words tried for each word
SHORTEST_WORD = 5  # phonemes; shorter words have few neighbours that are not words themselves
SECONDS_PER_PHONEME = 0.0745  # of this voice at mean speed, to say "about 45 minutes" without synthesizing first
SECONDS_PER_UTTERANCE = 0.2


@dataclass(frozen=True)
class Utterance:
    """One file: where it goes and what makes it. `seed` makes its noise its own."""

    path: str
    text: str
    phonemes: str
    speed: float
    seed: int


Measure = Callable[[Sequence[Utterance]], list[int]]
"""Lengths in samples at 16 kHz, trimmed."""


def utterance(seed: int, path: str, text: str, phonemes: str, speed: float = 1.0) -> Utterance:
    return Utterance(path, text, phonemes, speed, int(stable_hash([seed, path, phonemes, speed])[:8], 16))


def plan_corpus(voice: Voice, seed: int, minutes: float) -> list[Utterance]:
    """Sentences and single words until they should last `minutes`."""
    rng = random.Random(stable_hash(["corpus", seed]))
    sentences, words = grammar.training_sentences(rng), grammar.content_words()
    said: dict[str, str] = {}
    planned: list[Utterance] = []
    left_s = minutes * 60
    while left_s > 0:
        text = rng.choice(words) if rng.random() < ISOLATED_SHARE else next(sentences)
        phonemes = said.setdefault(text, voice.phonemize(text))
        speed = round(rng.uniform(SPEEDS[0], SPEEDS[-1]), 3)
        path = f"corpus/{len(planned):05d}.wav"
        planned.append(utterance(seed, path, text, phonemes + rng.choice(ENDINGS), speed))
        left_s -= len(phones(phonemes)) * SECONDS_PER_PHONEME / speed + SECONDS_PER_UTTERANCE
    return planned


@dataclass(frozen=True)
class Pair:
    """A right and a wrong utterance and what gold.csv says of them (`labels`)."""

    right: Utterance
    wrong: Utterance
    labels: dict[str, Any]
    lengths: tuple[int, int]


def plan_lexical(voice: Voice, seed: int, pairs: int, corpus: Sequence[Utterance], measure: Measure) -> list[Pair]:
    """Words against pseudo-words of as many phonemes and, at the same speed, the same duration within one frame.

    Of each word's candidates the one is taken that makes, over all pairs together, every phoneme occur as often in
    the pseudo-words as in the words, the corpus' phoneme frequencies favour either side equally often, and
    durations differ either way equally often.
    """
    rng = random.Random(stable_hash(["lexical", seed]))
    counts = Counter(phones("".join(u.phonemes for u in corpus)))
    frequency = Counter(word for u in corpus for word in u.text.split())
    phonotactics = Phonotactics(voice.pronunciations())
    held_out = round(pairs * HELD_OUT_SHARE)
    chosen: list[Pair] = []
    for words, number in ((grammar.content_words(), pairs - held_out), (list(grammar.HELD_OUT_WORDS), held_out)):
        said = {w: p for w in words if len(phones(p := voice.phonemize(w))) >= SHORTEST_WORD}
        groups = _lexical_groups(said, frequency, phonotactics, "".join(sorted(counts)), rng, seed, measure)
        groups = _spread(groups, number, rng)
        options = [np.array([lexical_features(pair, counts) for pair in group]) for group in groups]
        picked = choose_balanced(options, np.random.default_rng(seed))
        chosen += [group[i] for group, i in zip(groups, picked, strict=True)]
    return chosen


def _lexical_groups(
    said: dict[str, str], frequency: Counter, phonotactics: Phonotactics, inventory: str, rng: random.Random,
    seed: int, measure: Measure,
) -> list[list[Pair]]:  # fmt: skip
    """For each word, its pairs with the pseudo-words that last as long."""
    rights, wrongs = {}, {}
    for word, spoken in said.items():
        made = phonotactics.pseudo_words(spoken, inventory, rng, CANDIDATES)
        rights[word] = utterance(seed, f"right/{word}", word, f"{spoken}.")
        wrongs[word] = [utterance(seed, f"wrong/{word}", phones(p), f"{p}.") for p in made]
    flat = [*rights.values(), *(u for group in wrongs.values() for u in group)]
    length = dict(zip(flat, measure(flat), strict=True))
    groups = []
    for word, right in rights.items():
        labels = {"word": word, "frequency": frequency[word]}
        pairs = [Pair(right, w, labels, (length[right], length[w])) for w in wrongs[word]]
        groups.append([p for p in pairs if abs(p.lengths[0] - p.lengths[1]) <= FRAME_SAMPLES])
    return [group for group in groups if group]


def _spread(groups: list[list[Pair]], number: int, rng: random.Random) -> list[list[Pair]]:
    """`number` groups: a word's candidates are dealt out when there are more pairs to make than words."""
    parts: list[list[Pair]] = []
    for share in range(1, 1 + max(len(group) for group in groups)):
        parts = [group[k::share] for group in groups for k in range(min(share, len(group)))]
        if len(parts) >= number:
            break
    return rng.sample(parts, min(number, len(parts)))


def lexical_features(pair: Pair, counts: Counter) -> np.ndarray:
    """Right minus wrong: each phoneme, log-frequency of phonemes and its sign, duration in frames and its sign."""
    right, wrong = Counter(phones(pair.right.phonemes)), Counter(phones(pair.wrong.phonemes))
    by_phoneme = [right[c] - wrong[c] for c in sorted(counts)]
    log_frequency = sum(n * math.log(counts[c]) for n, c in zip(by_phoneme, sorted(counts), strict=True))
    frames = (pair.lengths[0] - pair.lengths[1]) / FRAME_SAMPLES
    return np.array([*by_phoneme, log_frequency, 2 * np.sign(log_frequency), frames, 2 * np.sign(frames)])


def plan_syntactic(voice: Voice, seed: int, pairs: int, measure: Measure) -> list[Pair]:
    """Whole 2 x 2 designs of held-out contents; each pair read at speeds that make it last equally long."""
    rng = random.Random(stable_hash(["syntactic", seed]))
    designs = islice(_matched(voice, grammar.test_designs(rng)), (pairs + 1) // 2)
    items = [
        ({"type": d.type, "subtype": d.subtype}, right, wrong)
        for d in designs
        for right, wrong in zip(d.correct, d.incorrect, strict=True)
    ][:pairs]
    said = {text: f"{voice.phonemize(text)}." for _, *both in items for text in both}
    readings = [utterance(seed, "sentence", text, p, speed) for text, p in said.items() for speed in SPEEDS]
    length = dict(zip(readings, measure(readings), strict=True))
    by_text: dict[str, list[Utterance]] = {}
    for reading in readings:
        by_text.setdefault(reading.text, []).append(reading)
    groups = [_readings(labels, by_text[right], by_text[wrong], length) for labels, right, wrong in items]
    options = [np.array([duration_features(pair) for pair in group]) for group in groups]
    picked = choose_balanced(options, np.random.default_rng(seed))
    return [group[i] for group, i in zip(groups, picked, strict=True)]


def _matched(voice: Voice, designs: Iterator[grammar.Design]) -> Iterator[grammar.Design]:
    """Leaves out a design in which the voice gives right and wrong different numbers of phonemes."""
    for design in designs:
        counts = [[len(phones(voice.phonemize(text))) for text in side] for side in (design.correct, design.incorrect)]
        if counts[0] == counts[1]:
            yield design


def _readings(labels: dict, rights: list[Utterance], wrongs: list[Utterance], length: dict) -> list[Pair]:
    """Pairs of readings that last equally long within one frame; the nearest one where no two do."""
    pairs = [Pair(r, w, labels, (length[r], length[w])) for r in rights for w in wrongs]
    nearest = min(abs(p.lengths[0] - p.lengths[1]) for p in pairs)
    return [p for p in pairs if abs(p.lengths[0] - p.lengths[1]) <= max(FRAME_SAMPLES, nearest)]


def duration_features(pair: Pair) -> np.ndarray:
    """Right minus wrong: speed, duration in frames and its sign."""
    frames = (pair.lengths[0] - pair.lengths[1]) / FRAME_SAMPLES
    return np.array([10 * (pair.right.speed - pair.wrong.speed), frames, np.sign(frames)])


def to_dict(value: Utterance | Pair) -> dict[str, Any]:
    return asdict(value)
