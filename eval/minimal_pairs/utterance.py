"""The records of a plan: what is said, and which two utterances make a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.minimal_pairs.phonology import phones
from eval.minimal_pairs.voice import FRAME_SAMPLES
from slm.types import stable_hash


@dataclass(frozen=True)
class Utterance:
    """One file: where it goes and what makes it. `seed` makes its noise its own, `voice` is who reads it (empty where
    there is only one)."""

    path: str
    text: str
    phonemes: str
    speed: float
    seed: int
    voice: str = ""


@dataclass(frozen=True)
class Pair:
    """A right and a wrong utterance, what gold.csv says of them (`labels`), and their lengths in samples at 16 kHz."""

    right: Utterance
    wrong: Utterance
    labels: dict[str, Any]
    lengths: tuple[int, int]

    @property
    def frames(self) -> float:
        """How much longer the right side lasts, in frames of 20 ms."""
        return (self.lengths[0] - self.lengths[1]) / FRAME_SAMPLES

    @property
    def is_equally_long(self) -> bool:
        """Within one frame: what a pair must be."""
        return abs(self.frames) <= 1


def utterance(seed: int, path: str, text: str, phonemes: str, speed: float = 1.0, voice: str = "") -> Utterance:
    return Utterance(path, text, phonemes, speed, int(stable_hash([seed, path, phonemes, speed])[:8], 16), voice)


def phonemes_of(pair: Pair) -> tuple[Sequence[str], Sequence[str]]:
    """The phonemes of both sides: as `labels` have them, or the letters of the voice's own alphabet."""
    right, wrong = pair.labels.get("phones") or (phones(pair.right.phonemes), phones(pair.wrong.phonemes))
    return right, wrong
