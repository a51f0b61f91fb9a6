"""Documents in rows as trees: those that begin alike share the steps of their beginning.

In depth-first order the descendants of a step are the ones right behind it, so that a step sees exactly those before it
whose descendants reach as far as itself: one number a step says all about who sees whom.

    place       0 1 2 3 4 5 6 7 8
    step        < a b c d > x y >      documents < a b c d > and < a b x y >
    depth       0 1 2 3 4 5 3 4 5
    end         9 9 9 6 6 6 9 9 9      where its descendants end
    parent      - 0 1 2 3 4 2 6 7      the step that predicts it

A document that shares nothing is a tree without branches, and a row of those is ordinary packing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from slm.data.packing import best_fit_rows

MIN_SHARED = 8  # steps: a shorter common beginning is not worth a family
MIN_ROW, MAX_FAMILY_ROW = 128, 1024  # steps: rows are no shorter; families no longer, unless two of one document are


@dataclass(frozen=True)
class Family:
    """Documents of which each after the first shares its first `shared` steps with the one before it (0 for the
    first): a tree in depth-first order. `members` index the documents."""

    members: tuple[int, ...]
    shared: tuple[int, ...]
    size: int
    """Steps of the tree."""

    @classmethod
    def alone(cls, member: int, size: int) -> Family:
        return cls((member,), (0,), size)

    def extended(self, member: int, shared: int, size: int) -> Family:
        return Family((*self.members, member), (*self.shared, shared), size)


def find_families(documents: Sequence[np.ndarray], share: bool = True) -> list[Family]:
    """Different documents, int64 `[S, Q]`, into trees. The order in which they are given changes nothing but names."""
    order = sorted(range(len(documents)), key=lambda i: documents[i].astype(">i8").tobytes())  # numbers in their order
    limit = max(MAX_FAMILY_ROW, 2 * max(map(len, documents), default=0))
    families: list[Family] = []
    for at, i in enumerate(order):
        length = len(documents[i])
        shared = _shared(documents[order[at - 1]], documents[i]) if share and at else 0
        if shared >= MIN_SHARED and families[-1].size + length - shared <= limit:
            families[-1] = families[-1].extended(i, shared, families[-1].size + length - shared)
        else:
            families.append(Family.alone(i, length))
    return families


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many first steps are the same."""
    least = min(len(a), len(b))
    differ = (a[:least] != b[:least]).any(axis=1)
    return int(differ.argmax()) if differ.any() else least


@dataclass(frozen=True)
class Rows:
    """Trees packed in rows: `ids [B, L, Q]`, `depths [B, L]` (positions in each document), `ends [B, L]` (where the
    descendants of a step end, in its row), `parents [B, L]` (the step in its row that predicts it; -1 for roots and
    padding) and the way of each document: its index, and the places `[S]` of its steps in the batch laid end to end."""

    ids: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    parents: np.ndarray
    ways: tuple[tuple[int, np.ndarray], ...]


def pack_families(families: Sequence[Family], max_steps: int) -> Iterator[tuple[int, list[list[Family]]]]:
    """(row length, rows) of each batch, longest rows first. Lengths are powers of two, so that short documents do not
    pay for the long rows of others; but those that all fit a batch are one, whose single pass costs less."""
    classes: dict[int, list[Family]] = {}
    for family in families:
        classes.setdefault(max(MIN_ROW, 1 << (family.size - 1).bit_length()), []).append(family)
    longest = max(classes, default=0)
    if 0 < longest <= MAX_FAMILY_ROW and best_fit_rows(_sizes(families), longest)[1] * longest <= max_steps:
        classes = {longest: list(families)}
    for length in sorted(classes, reverse=True):
        members = classes[length]
        row_of, count = best_fit_rows(_sizes(members), length)
        rows: list[list[Family]] = [[] for _ in range(count)]
        for family, row in zip(members, row_of.tolist(), strict=True):
            rows[row].append(family)
        each = max(1, max_steps // length)
        for start in range(0, count, each):
            batch = rows[start : start + each]
            yield max(sum(f.size for f in row) for row in batch), batch


def _sizes(families: Sequence[Family]) -> np.ndarray:
    return np.array([family.size for family in families], np.int64)


def lay_out(rows: Sequence[Sequence[Family]], length: int, documents: Sequence[np.ndarray], empty: np.ndarray) -> Rows:
    """Families into rows of `length`; `empty [Q]` fills what is left, each place a tree of its own."""
    ids = np.empty((len(rows), length, len(empty)), np.int64)
    ids[:] = empty
    depths = np.zeros((len(rows), length), np.int64)
    ends = np.tile(np.arange(1, length + 1), (len(rows), 1))
    parents = np.full((len(rows), length), -1)
    ways: list[tuple[int, np.ndarray]] = []
    for r, row in enumerate(rows):
        at = 0
        for family in row:
            way = np.zeros(0, np.int64)
            for member, shared in zip(family.members, family.shared, strict=True):
                own = np.arange(at, at + len(documents[member]) - shared)
                ends[r, way[shared:]] = at
                ids[r, own], depths[r, own] = documents[member][shared:], shared + np.arange(len(own))
                parents[r, own] = own - 1
                parents[r, at] = way[shared - 1] if shared else -1
                way, at = np.concatenate([way[:shared], own]), at + len(own)
                ways.append((member, r * length + way))
            ends[r, way] = at
    return Rows(ids, depths, ends, parents, tuple(ways))
