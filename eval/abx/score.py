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

from eval.abx.distance import Padded, Representation, segment_distances
from eval.abx.items import Segment
from eval.progress import Progress
from slm.types import stable_hash

Speaker = Literal["within", "across"]
HELD_DISTANCES = 500_000
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
    """The error of each cell, many distances at a time; one that several of these cells need is computed once."""
    if not cells:
        return []
    padded = Padded.of([s.codes for s in segments])
    made: list[float] = []
    part: list[Cell] = []
    held, progress = 0, Progress(f"ABX, {'within' if cells[0].a == cells[0].x else 'across'}", "cells")
    for cell in cells:
        part.append(cell)
        held += len(cell.x) * (len(cell.a) + len(cell.b))
        if held >= HELD_DISTANCES:
            made += _errors(padded, part, units)
            progress.tell(len(made), len(cells))
            part, held = [], 0
    return made + _errors(padded, part, units)


def _errors(segments: Padded, cells: Sequence[Cell], units: Representation) -> list[float]:
    size = len(segments.lengths)
    asked = [part for cell in cells for part in _asked(cell, size)]
    if not asked:
        return []
    different, which = np.unique(np.concatenate([part.reshape(-1) for part in asked]), return_inverse=True)
    pairs = np.stack(np.divmod(different, size), axis=1)
    distances = segment_distances(segments, pairs, units)[which]
    ends = np.cumsum([part.size for part in asked])
    parts = [d.reshape(part.shape) for d, part in zip(np.split(distances, ends[:-1]), asked, strict=True)]
    return [_error(cell, parts[2 * i], parts[2 * i + 1]) for i, cell in enumerate(cells)]


def _asked(cell: Cell, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of segments that X makes with A `[X, A]` and with B `[X, B]`, each pair a number: first x size +
    second. The first is of X; but of two of one group, the earlier: which one is X must not matter there."""
    x, a, b = np.array(cell.x)[:, None], np.array(cell.a), np.array(cell.b)
    to_a = np.minimum(x, a) * size + np.maximum(x, a) if cell.a == cell.x else x * size + a
    return to_a, x * size + b


def _error(cell: Cell, to_a: np.ndarray, to_b: np.ndarray) -> float:
    """From the distances `[X, A]` and `[X, B]`; a segment is no A of itself."""
    near, far = to_a[:, :, None], to_b[:, None, :]
    right = (near < far) + 0.5 * (near == far)
    if cell.a == cell.x:
        right = right[~np.eye(len(cell.a), dtype=bool)]
    return 1 - float(right.mean())


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
