"""Documents into rows of one length: which piece of which document stands in which row.

The plan of an epoch is a function of the documents' lengths, the seed and the epoch alone, so every process makes the
same one and a run can be resumed, or its world size changed, without replaying anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slm.patterns import Pattern


@dataclass(frozen=True)
class PackPlan:
    """`pieces [P, 4]`: document, first frame, end frame, whether the document ends here; row r holds pieces
    `row_starts[r] : row_starts[r + 1]`."""

    pieces: np.ndarray
    row_starts: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    def row(self, index: int) -> np.ndarray:
        return self.pieces[self.row_starts[index] : self.row_starts[index + 1]]


def max_frames(pattern: Pattern, row_length: int) -> int:
    """The longest piece, in frames, whose steps fit a row."""
    low, high = 0, row_length
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if pattern.num_steps(middle) <= row_length else (low, middle - 1)
    return low


def cut_pieces(num_frames: np.ndarray, longest: int) -> np.ndarray:
    """Documents `[N]` (lengths in frames) -> pieces `[P, 4]` of at most `longest` frames, in order, nothing dropped."""
    counts = np.maximum(1, -(-num_frames // longest))
    document = np.repeat(np.arange(len(num_frames)), counts)
    within = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = within * longest
    end = np.minimum(start + longest, num_frames[document])
    return np.stack([document, start, end, within == counts[document] - 1], axis=1)


def best_fit_rows(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, int]:
    """Put items, in the order given, each into the open row that it fills best; a new row where none has room.

    Returns the row of each item and the number of rows. Bit c of `has_room` says that some row has c free places,
    so the tightest row that fits is the lowest bit at or above the item's length.
    """
    rows_with: list[list[int]] = [[] for _ in range(row_length + 1)]
    has_room = 0
    row_of, num_rows = np.empty(len(lengths), np.int64), 0
    for i, need in enumerate(lengths.tolist()):
        fitting = has_room >> need
        if fitting:
            room = need + (fitting & -fitting).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                has_room &= ~(1 << room)
        else:
            room, row, num_rows = row_length, num_rows, num_rows + 1
        row_of[i] = row
        left = room - need
        if left:
            rows_with[left].append(row)
            has_room |= 1 << left
    return row_of, num_rows


def plan_epoch(num_frames: np.ndarray, pattern: Pattern, row_length: int, shuffle: tuple[int, int] | None) -> PackPlan:
    """Pack documents of `num_frames [N]` into rows. `shuffle` is (seed, epoch); None keeps the corpus' order."""
    pieces = cut_pieces(num_frames, max_frames(pattern, row_length))
    rng = None if shuffle is None else np.random.default_rng(list(shuffle))
    if rng is not None:
        pieces = pieces[rng.permutation(len(pieces))]
    sizes = {int(n): pattern.num_steps(int(n)) for n in np.unique(pieces[:, 2] - pieces[:, 1])}
    lengths = np.array([sizes[int(n)] for n in pieces[:, 2] - pieces[:, 1]], np.int64)
    row_of, num_rows = best_fit_rows(lengths, row_length)
    if rng is not None:  # rows opened early hold the longest documents: shuffle once more
        row_of = rng.permutation(num_rows)[row_of]
    order = np.argsort(row_of, kind="stable")
    return PackPlan(pieces[order], np.searchsorted(row_of[order], np.arange(num_rows + 1)))
