"""Triples of segments, and the error over them.

A and X are of one phone, B of another, all three between the same two neighbours. Within: all are by one speaker.
Across: A and B are by one, X by another. A triple is an error where X is closer to B than to A, half of one where both
are equally close.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from eval.abx.distance import Representation, segment_distances
from eval.abx.items import Segment
from slm.types import stable_hash

Speaker = Literal["within", "across"]
HELD_DISTANCES = 200_000
SPEAKERS: tuple[Speaker, ...] = ("within", "across")


@dataclass(frozen=True)
class Limits:
    """How much of the material is used: segments of a group, and other speakers of a phone. Libri-light's own."""

    group: int = 10
    speakers: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """All triples of three groups of segments (by their numbers). `a` and `x` are the same within a speaker."""

    speaker: str
    phones: tuple[str, str]
    a: tuple[int, ...]
    b: tuple[int, ...]
    x: tuple[int, ...]


def make_cells(segments: Sequence[Segment], speaker: Speaker, limits: Limits) -> list[Cell]:
    """Every cell of a corpus, in a fixed order. Of what exceeds the limits some is drawn, by the seed and the group."""
    groups: dict[tuple, dict[str, dict[str, list[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for i, segment in enumerate(segments):
        item = segment.item
        groups[item.context][item.speaker][item.phone].append(i)
    made = []
    for context in sorted(groups):
        of = {s: {p: _drawn(g, limits.group, limits.seed, context, s, p) for p, g in phones.items()}
              for s, phones in groups[context].items()}  # fmt: skip
        made += list(_within(of) if speaker == "within" else _across(of, context, limits))
    return made


def _drawn(group: list, most: int, seed: int, *key: object) -> tuple:
    """`most` members of a group, or all of it, in their order."""
    if len(group) <= most:
        return tuple(group)
    rng = np.random.default_rng(int(stable_hash([seed, *map(str, key)])[:15], 16))
    return tuple(group[i] for i in sorted(rng.choice(len(group), most, replace=False)))


def _within(of: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Iterator[Cell]:
    for speaker, phones in sorted(of.items()):
        for p, a in sorted(phones.items()):
            if len(a) > 1:
                yield from (Cell(speaker, (p, q), a, b, a) for q, b in sorted(phones.items()) if q != p)


def _across(of: Mapping[str, Mapping[str, tuple[int, ...]]], context: tuple, limits: Limits) -> Iterator[Cell]:
    for speaker, phones in sorted(of.items()):
        if len(phones) == 1:
            continue
        for p, a in sorted(phones.items()):
            others = sorted(s for s in of if s != speaker and p in of[s])
            for other in _drawn(others, limits.speakers, limits.seed, context, speaker, p, "speakers"):
                yield from (Cell(speaker, (p, q), a, b, of[other][p]) for q, b in sorted(phones.items()) if q != p)


def cell_errors(segments: Sequence[Segment], cells: Sequence[Cell], units: Representation) -> list[float]:
    """The error of each cell, some thousands of distances at a time; one that several cells need is computed once."""
    made: list[float] = []
    part: list[Cell] = []
    held = 0
    for cell in cells:
        part.append(cell)
        held += len(cell.x) * (len(cell.a) + len(cell.b))
        if held >= HELD_DISTANCES:
            made += _errors(segments, part, units)
            part, held = [], 0
    return made + _errors(segments, part, units)


def _errors(segments: Sequence[Segment], cells: Sequence[Cell], units: Representation) -> list[float]:
    wanted: dict[tuple[int, int], int] = {}
    for cell in cells:
        for x in cell.x:
            for other in (*cell.a, *cell.b):
                if x != other:
                    wanted.setdefault(_oriented(cell, x, other), len(wanted))
    distances = segment_distances([s.codes for s in segments], list(wanted), units) if wanted else np.zeros(0)
    return [_error(cell, distances, wanted) for cell in cells]


def _oriented(cell: Cell, x: int, other: int) -> tuple[int, int]:
    """Rows are of X; but of two segments of one group, of the first: which one is X must not matter there."""
    return (min(x, other), max(x, other)) if cell.a == cell.x and other in cell.a else (x, other)


def _error(cell: Cell, distances: np.ndarray, wanted: Mapping[tuple[int, int], int]) -> float:
    right, triples = 0.0, 0
    for x in cell.x:
        to_b = np.array([distances[wanted[x, b]] for b in cell.b])
        for a in cell.a:
            if a != x:
                to_a = distances[wanted[_oriented(cell, x, a)]]
                right += float((to_a < to_b).sum()) + 0.5 * float((to_a == to_b).sum())
                triples += len(to_b)
    return 1 - right / triples


def average(cells: Sequence[Cell], errors: Sequence[float]) -> dict[tuple[str, str], float]:
    """(phone of A, phone of B) -> error: the mean over cells of one speaker (contexts and, across, the speakers of X),
    then over speakers. The score is the mean of these."""
    by_speaker: dict[tuple[tuple[str, str], str], list[float]] = defaultdict(list)
    for cell, error in zip(cells, errors, strict=True):
        by_speaker[cell.phones, cell.speaker].append(error)
    by_phones: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (phones, _), values in sorted(by_speaker.items()):
        by_phones[phones].append(float(np.mean(values)))
    return {phones: float(np.mean(values)) for phones, values in by_phones.items()}


def phone_errors(
    segments: Sequence[Segment], speaker: Speaker, units: Representation, limits: Limits
) -> dict[tuple[str, str], float]:
    """(phone of A, phone of B) -> error; empty where no cell can be made."""
    cells = make_cells(segments, speaker, limits)
    return average(cells, cell_errors(segments, cells, units))
