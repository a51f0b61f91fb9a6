"""Items into rows of one length: which row each stands in.

`best-fit` puts the longest first, each into the row that it fills best (best-fit decreasing): hardly a place stays
empty. `greedy` takes items as they come and begins a row when the next does not fit. Neither drops or splits any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from slm.errors import UsageError, did_you_mean
from slm.patterns import Pattern

PACKINGS = ("best-fit", "greedy")


def check_packing(packing: str) -> None:
    if packing not in PACKINGS:
        raise UsageError(f"no packing {packing!r}{did_you_mean(packing, PACKINGS)}; there is {' and '.join(PACKINGS)}")


def max_frames(pattern: Pattern, row_length: int) -> int:
    """The longest piece, in frames, whose steps fit a row."""
    low, high = 0, row_length
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if pattern.num_steps(middle) <= row_length else (low, middle - 1)
    return low


def pack(lengths: np.ndarray, row_length: int, packing: str) -> tuple[np.ndarray, int]:
    """Items of these lengths (1 to `row_length`) -> the row of each, and the number of rows."""
    return (best_fit_rows if packing == "best-fit" else greedy_rows)(lengths, row_length)


def count_rows(lengths: np.ndarray, row_length: int, packing: str) -> int:
    """How many rows `pack` makes, sooner."""
    if packing == "greedy":
        return len(_row_firsts(lengths, row_length))
    return sum(rows for _, room, rows, _ in _best_fit(lengths, row_length) if room == row_length)


def best_fit_rows(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, int]:
    """The rows of `pack` for best-fit."""
    in_order, num_rows, at = np.empty(len(lengths), np.int64), 0, 0
    rows_with: defaultdict[int, list[int]] = defaultdict(list)
    for length, room, rows, each in _best_fit(lengths, row_length):
        if room == row_length:
            taken = list(range(num_rows, num_rows + rows))
            num_rows += rows
        else:
            taken = rows_with[room][-rows:]
            del rows_with[room][-rows:]
        rows_with[room - each * length] += taken
        in_order[at : at + rows * each] = np.repeat(taken, each)
        at += rows * each
    row_of = np.empty_like(in_order)
    row_of[np.argsort(-lengths, kind="stable")] = in_order
    return row_of, num_rows


def _best_fit(lengths: np.ndarray, row_length: int) -> Iterator[tuple[int, int, int, int]]:
    """Best-fit decreasing over how often each length occurs, as all items of one length and all rows with the same
    room are alike (cf. histogram packing, arXiv 2107.02027): its cost grows with the number of different lengths.

    Yields (length, room, rows, each): into so many rows with `room` free places go `each` items of that length.
    Where `room` is `row_length` the rows are new.
    """
    counts = np.bincount(lengths, minlength=row_length + 1)
    num_with, has_room = [0] * (row_length + 1), 0  # bit r of has_room says that num_with[r] is not 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            fitting = has_room >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else row_length
            each = min(left, room // length)
            rows = left // each
            if fitting:
                rows = min(rows, num_with[room])
                num_with[room] -= rows
                has_room ^= (not num_with[room]) << room
            after = room - each * length
            num_with[after] += rows
            has_room |= bool(after) << after
            left -= rows * each
            yield length, room, rows, each


def greedy_rows(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, int]:
    """The rows of `pack` for greedy."""
    firsts = _row_firsts(lengths, row_length)
    begins = np.zeros(len(lengths), np.int64)
    begins[firsts] = 1
    return np.cumsum(begins) - 1, len(firsts)


def _row_firsts(lengths: np.ndarray, row_length: int) -> list[int]:
    ends = np.cumsum(lengths)
    following = np.searchsorted(ends, ends - lengths + row_length, side="right").tolist()
    firsts, at = [], 0
    while at < len(lengths):
        firsts.append(at)
        at = following[at]
    return firsts
