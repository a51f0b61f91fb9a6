"""Sentences that agree against sentences that do not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import numpy as np

from eval.minimal_pairs import grammar
from eval.minimal_pairs.balance import choose_balanced
from eval.minimal_pairs.phonology import phones
from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.utterance import Pair, Utterance, utterance
from eval.minimal_pairs.voice import SPEEDS, Voice
from slm.types import stable_hash

READINGS = 5  # of each sentence, at speeds spread over the range


def plan_syntactic(voice: Voice, studio: Studio, seed: int, pairs: int) -> list[Pair]:
    """Whole 2 x 2 designs of held-out contents; each pair read at speeds that make it last equally long.

    Over all pairs together right and wrong sentences are equally fast, and last longer equally often.
    """
    rng = random.Random(stable_hash(["syntactic", seed]))
    wanted = (pairs + 1) // 2
    spare = 2 + wanted // 3  # for designs in which a pair cannot be matched
    designs = list(islice(_same_phoneme_counts(voice, grammar.test_designs(rng)), wanted + spare))
    readings = {
        text: _readings(seed, text, voice.phonemize(text), rng) for d in designs for text in (*d.correct, *d.incorrect)
    }
    flat = [reading for group in readings.values() for reading in group]
    length = dict(zip(flat, studio.measure(flat), strict=True))
    matched = [_equally_long(design, readings, length) for design in designs]
    groups = [group for both in matched if all(both) for group in both][:pairs]
    options = [np.array([reading_features(pair) for pair in group]) for group in groups]
    picked = choose_balanced(options, np.random.default_rng(seed))
    return [group[i] for group, i in zip(groups, picked, strict=True)]


def _same_phoneme_counts(voice: Voice, designs: Iterator[grammar.Design]) -> Iterator[grammar.Design]:
    """Leaves out a design in which the voice gives right and wrong different numbers of phonemes."""
    for design in designs:
        counts = [[len(phones(voice.phonemize(text))) for text in side] for side in (design.correct, design.incorrect)]
        if counts[0] == counts[1]:
            yield design


def _readings(seed: int, text: str, phonemes: str, rng: random.Random) -> list[Utterance]:
    """One reading in each of `READINGS` equal parts of the range of speeds."""
    slowest, fastest = SPEEDS
    speeds = [slowest + (fastest - slowest) * (k + rng.random()) / READINGS for k in range(READINGS)]
    return [utterance(seed, "sentence", text, f"{phonemes}.", round(speed, 3)) for speed in speeds]


def _equally_long(
    design: grammar.Design, readings: dict[str, list[Utterance]], length: dict[Utterance, int]
) -> list[list[Pair]]:
    """For each of the two pairs of a design, its readings that last equally long within one frame."""
    labels = {"type": design.type, "subtype": design.subtype}
    both = []
    for right, wrong in zip(design.correct, design.incorrect, strict=True):
        pairs = [Pair(r, w, labels, (length[r], length[w])) for r in readings[right] for w in readings[wrong]]
        both.append([p for p in pairs if p.is_equally_long])
    return both


def reading_features(pair: Pair) -> np.ndarray:
    """Right minus wrong: speed, duration in frames and its sign."""
    return np.array([10 * (pair.right.speed - pair.wrong.speed), pair.frames, np.sign(pair.frames)])
