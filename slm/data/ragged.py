"""Sequences of many lengths that lie one after another in a few mapped arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


class Ragged:
    """N sequences `[T_i, K]`, viewed in place. `parts` are pairs: values `[sum T, K]`, and offsets `[rows + 1]` of its
    sequences in them. `lengths [N]` are int32 where they can be."""

    def __init__(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]):
        self.parts = list(parts)
        self.lengths = compact([np.diff(offsets) for _, offsets in self.parts])
        self._firsts = np.cumsum([0, *(len(offsets) - 1 for _, offsets in self.parts)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """One sequence: a read-only view."""
        part = int(np.searchsorted(self._firsts, index, side="right")) - 1
        values, offsets = self.parts[part]
        row = index - int(self._firsts[part])
        return values[offsets[row] : offsets[row + 1]]

    def gather(self, indices: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """`starts[i]` to `ends[i]` of sequence `indices[i]`, one after another: `[sum(ends - starts), K]`, a copy."""
        part = np.searchsorted(self._firsts, indices, side="right") - 1
        columns = (part, indices - self._firsts[part], starts, ends)
        found = []
        for number, row, start, end in zip(*(column.tolist() for column in columns), strict=True):
            values, offsets = self.parts[number]
            first = int(offsets[row])
            found.append(values[first + start : first + end])
        return np.concatenate(found)


def small_type(largest: int) -> type[np.signedinteger]:
    """The smaller of int32 and int64 that holds it."""
    return np.int32 if largest < 2**31 else np.int64


def compact(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays of whole numbers from 0 on, joined: int32 where they fit, else int64."""
    largest = max((int(array.max()) for array in arrays if len(array)), default=0)
    joined = np.empty(sum(map(len, arrays)), small_type(largest))
    at = 0
    for array in arrays:
        joined[at : at + len(array)] = array
        at += len(array)
    return joined
