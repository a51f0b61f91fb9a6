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
from eval.minimal_pairs.voice import FRAME_SAMPLES, SPEEDS, Voice
from slm.types import stable_hash

READINGS = 6  # of each sentence, at random speeds


def plan_syntactic(voice: Voice, studio: Studio, seed: int, pairs: int) -> list[Pair]:
    """Whole 2 x 2 designs of held-out contents; each pair read at speeds that make it last equally long.

    Over all pairs together right and wrong sentences are equally fast, and last longer equally often.
    """
    rng = random.Random(stable_hash(["syntactic", seed]))
    wanted = (pairs + 1) // 2
    spare = 2 + wanted // 2  # for designs in which a pair cannot be matched: about one in five
    designs = list(islice(_matched(voice, grammar.test_designs(rng)), wanted + spare))
    texts = [text for d in designs for text in (*d.correct, *d.incorrect)]
    readings = [
        utterance(seed, "sentence", text, f"{voice.phonemize(text)}.", round(rng.uniform(*SPEEDS), 3))
        for text in texts
        for _ in range(READINGS)
    ]
    length = dict(zip(readings, studio.measure(readings), strict=True))
    by_text: dict[str, list[Utterance]] = {}
    for reading in readings:
        by_text.setdefault(reading.text, []).append(reading)
    matched = [_equally_long(design, by_text, length) for design in designs]
    groups = [group for both in matched if all(both) for group in both][:pairs]
    options = [np.array([reading_features(pair) for pair in group]) for group in groups]
    picked = choose_balanced(options, np.random.default_rng(seed))
    return [group[i] for group, i in zip(groups, picked, strict=True)]


def _matched(voice: Voice, designs: Iterator[grammar.Design]) -> Iterator[grammar.Design]:
    """Leaves out a design in which the voice gives right and wrong different numbers of phonemes."""
    for design in designs:
        counts = [[len(phones(voice.phonemize(text))) for text in side] for side in (design.correct, design.incorrect)]
        if counts[0] == counts[1]:
            yield design


def _equally_long(
    design: grammar.Design, readings: dict[str, list[Utterance]], length: dict[Utterance, int]
) -> list[list[Pair]]:
    """For each of the two pairs of a design, its readings that last equally long within one frame."""
    labels = {"type": design.type, "subtype": design.subtype}
    both = []
    for right, wrong in zip(design.correct, design.incorrect, strict=True):
        pairs = [Pair(r, w, labels, (length[r], length[w])) for r in readings[right] for w in readings[wrong]]
        both.append([p for p in pairs if abs(p.lengths[0] - p.lengths[1]) <= FRAME_SAMPLES])
    return both


def reading_features(pair: Pair) -> np.ndarray:
    """Right minus wrong: speed, duration in frames and its sign."""
    frames = (pair.lengths[0] - pair.lengths[1]) / FRAME_SAMPLES
    return np.array([10 * (pair.right.speed - pair.wrong.speed), frames, np.sign(frames)])
