"""Sentences of any grammar, right against wrong, each pair read by every voice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from eval.minimal_pairs import grammar
from eval.minimal_pairs.balance import choose_balanced
from eval.minimal_pairs.lexical import duration_features
from eval.minimal_pairs.lexicon import words_of
from eval.minimal_pairs.matching import Contrast, equally_long
from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.templates import Grammar
from eval.minimal_pairs.utterance import Pair
from eval.minimal_pairs.voice import SPEEDS, Voice
from eval.minimal_pairs.wordpairs import speed_features
from slm.types import stable_hash

READINGS = 3  # of each sentence by each voice, at speeds of their own
SPARE = 1.3  # designs tried for each that is wanted

Readings = Sequence[Mapping[str, Pair]]
"""Of one pair: at each speed, the voices that could match it."""


@dataclass
class Sieve:
    """Lets designs pass of which every voice says the two right sentences with as many phonemes as the two wrong ones,
    and all words of which are trained on. `left_out`: reason -> how many designs."""

    voices: Mapping[str, Voice]
    trained: Mapping[str, int] | None
    language: str
    left_out: Counter[str] = field(default_factory=Counter)

    def passes(self, design: grammar.Design) -> bool:
        words = {w for text in design.correct for w in words_of(text, self.language)}
        unknown = sorted(w for w in words if self.trained is not None and not self.trained.get(w))
        unequal = [name for name, voice in self.voices.items() if not unknown and not _equal(voice, design)]
        if unknown:
            self.left_out.update(f"the word {word} is not trained on" for word in unknown)
        if unequal:
            self.left_out[f"{design.subtype}: unequal numbers of phonemes by {unequal[0]}"] += 1
        return not unknown and not unequal


def _equal(voice: Voice, design: grammar.Design) -> bool:
    """Where one sentence of a pair has a phoneme more (is, are), that of the other pair has one less: the right
    sentence is the longer one in just one of the two. False also for what the voice cannot read."""
    counts = [[len(voice.ipa(voice.phonemize(text))) for text in side] for side in (design.correct, design.incorrect)]
    return sum(counts[0]) == sum(counts[1]) and all(map(all, counts))


def plan_sentences(
    voices: Mapping[str, Voice], studio: Studio, world: Grammar, sieve: Sieve, seed: int, pairs: int, held_out: bool
) -> list[list[Pair]]:
    """`pairs` pairs, fewer where not so many can be matched, each by every voice: whole designs, the subtypes in turn.
    `held_out`: only of contents that no training sentence made here has."""
    rng = random.Random(stable_hash(["sentences", seed]))
    designs = _designs(world, rng, sieve, held_out)
    whole: list[Readings] = []
    while len(whole) < pairs and (more := list(islice(designs, round((pairs - len(whole)) / 2 * SPARE) + 2))):
        contrasts = [c for design in more for c in _contrasts(voices, design, rng)]
        found = equally_long(contrasts, studio, seed)
        readings = [found[i : i + READINGS] for i in range(0, len(found), READINGS)]  # of each pair
        both = zip(readings[::2], readings[1::2], strict=True)
        whole += [half for halves in both if all(_by_all(voices, half) for half in halves) for half in halves]
    groups = [[r[name] for r in half if name in r] for half in whole[:pairs] for name in voices]
    options = [np.array([[*duration_features(p), *speed_features(p)] for p in group]) for group in groups]
    picked = choose_balanced(options, np.random.default_rng(seed))
    chosen = [group[i] for group, i in zip(groups, picked, strict=True)]
    return [chosen[i : i + len(voices)] for i in range(0, len(chosen), len(voices))]


def _designs(world: Grammar, rng: random.Random, sieve: Sieve, held_out: bool) -> Iterator[grammar.Design]:
    """Where a template's two pairs have words of their own, designs share sentences, each of which is asked once."""
    used: set[str] = set()
    for design in filter(sieve.passes, grammar.test_designs(rng, world.designs, held_out)):
        if used.isdisjoint(design.correct):
            used.update(design.correct)
            yield design


def _by_all(voices: Mapping[str, Voice], readings: Readings) -> bool:
    return all(any(name in reading for reading in readings) for name in voices)


def _contrasts(voices: Mapping[str, Voice], design: grammar.Design, rng: random.Random) -> list[Contrast]:
    """`READINGS` of each of the two pairs."""
    made = []
    labels = {"type": design.type, "subtype": design.subtype}
    for right, wrong in zip(design.correct, design.incorrect, strict=True):
        said = {name: (voice.phonemize(right), voice.phonemize(wrong)) for name, voice in voices.items()}
        phones = {name: (voices[name].ipa(a), voices[name].ipa(b)) for name, (a, b) in said.items()}
        for _ in range(READINGS):
            made.append(Contrast(right, wrong, said, phones, labels, round(rng.uniform(*SPEEDS), 3)))
    return made
