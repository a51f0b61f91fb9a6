"""Both sides of a pair made to last equally long in every voice, within one frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eval.minimal_pairs.synthesis import Studio
from eval.minimal_pairs.utterance import Pair, Utterance, utterance

SLOWEST = 0.87  # the shorter side is read more slowly, down to this part of the longer one's speed
CORRECTIONS = 2  # a voice does not follow the speed exactly


@dataclass(frozen=True)
class Contrast:
    """Two texts, and how each voice says them in its own alphabet: voice -> (right, wrong). `labels` go to gold.csv,
    `phones`, for each voice, to the count of phonemes."""

    right: str
    wrong: str
    said: dict[str, tuple[str, str]]
    phones: Mapping[str, tuple[Sequence[str], Sequence[str]]]
    labels: dict[str, Any] = field(default_factory=dict)
    speed: float = 1.0


def equally_long(contrasts: Sequence[Contrast], studio: Studio, seed: int) -> list[dict[str, Pair]]:
    """For each contrast, a pair by each voice that could match it.

    A pair that is not equally long at one speed has its shorter side read more slowly, at most to `SLOWEST`.
    """
    length: dict[Utterance, int] = {}
    open_pairs = {
        (i, voice): _pair(c, voice, (c.speed, c.speed), seed) for i, c in enumerate(contrasts) for voice in c.said
    }
    found: list[dict[str, Pair]] = [{} for _ in contrasts]
    for _ in range(1 + CORRECTIONS):
        new = list(dict.fromkeys(u for p in open_pairs.values() for u in (p.right, p.wrong) if u not in length))
        length.update(zip(new, studio.measure(new), strict=True))
        left: dict[tuple[int, str], Pair] = {}
        for (i, voice), pair in open_pairs.items():
            measured = replace(pair, lengths=(length[pair.right], length[pair.wrong]))
            if measured.is_equally_long:
                found[i][voice] = measured
            elif speeds := _slower(measured, contrasts[i].speed):
                left[i, voice] = _pair(contrasts[i], voice, speeds, seed)
        open_pairs = left
    return found


def _slower(pair: Pair, fastest: float) -> tuple[float, float] | None:
    """Speeds that should make it match; None when that is too slow."""
    (a, b), (right, wrong) = pair.lengths, (pair.right.speed, pair.wrong.speed)
    if min(a, b) == 0:
        return None
    # One side is at the fastest speed: the one that was longer at first.
    right, wrong = (right, wrong * b / a) if right == fastest and (wrong < fastest or a > b) else (right * a / b, wrong)
    speeds = round(right, 3), round(wrong, 3)
    return speeds if SLOWEST * fastest <= min(speeds) and max(speeds) <= fastest else None


def _pair(contrast: Contrast, voice: str, speeds: tuple[float, float], seed: int) -> Pair:
    texts, said = (contrast.right, contrast.wrong), contrast.said[voice]
    right, wrong = (
        utterance(seed, "contrast", text, f"{spoken}.", speed, voice)
        for text, spoken, speed in zip(texts, said, speeds, strict=True)
    )
    return Pair(right, wrong, {**contrast.labels, "voice": voice, "phones": contrast.phones[voice]}, (0, 0))
