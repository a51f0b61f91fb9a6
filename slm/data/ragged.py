"""Sequences of many lengths that lie one after another in a few mapped arrays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate, pairwise

import numpy as np


class Ragged:
    """N sequences `[T_i, K]`, viewed in place. `parts` are pairs: values `[sum T, K]`, and `[rows + 1]` where each of
    its sequences begins in them and the last one ends. `lengths [N]` are int32 where they can be."""

    def __init__(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]):
        given = [(values, offsets.astype(small_type(len(values)))) for values, offsets in parts]
        self._values = [values for values, _ in given]
        self._firsts = [0, *accumulate(len(offsets) - 1 for _, offsets in given)]
        self._firsts_array = np.array(self._firsts)  # for many at a time; the list is for one
        self._offsets = compact(offsets for _, offsets in given)  # [N + number of parts]
        self.lengths = compact(np.diff(offsets) for _, offsets in given)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        """One sequence: a read-only view."""
        part = bisect_right(self._firsts, index) - 1
        place = index + part
        return self._values[part][self._offsets[place] : self._offsets[place + 1]]

    def parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """What it was made of."""
        bounds = [first + part for part, first in enumerate(self._firsts)]
        return [(v, self._offsets[a:b]) for v, (a, b) in zip(self._values, pairwise(bounds), strict=True)]

    def gather(self, indices: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """`starts[i]` to `ends[i]` of sequence `indices[i]`, one after another: `[sum(ends - starts), K]`, a copy."""
        part = np.searchsorted(self._firsts_array, indices, side="right") - 1
        first = self._offsets[indices + part]
        spans = zip(part.tolist(), (first + starts).tolist(), (first + ends).tolist(), strict=True)
        return np.concatenate([self._values[number][start:end] for number, start, end in spans])


def small_type(largest: int) -> type[np.signedinteger]:
    """The smaller of int32 and int64 that holds it."""
    return np.int32 if largest < 2**31 else np.int64


def compact(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays of whole numbers from 0 on, joined: int32 where they fit, else int64. Each is read once."""
    parts = [array.astype(small_type(int(array.max(initial=0)))) for array in arrays]
    return np.concatenate([np.zeros(0, np.int32), *parts])
