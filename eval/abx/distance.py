"""Distances between segments: of frames by the angle between them, along the cheapest alignment (dynamic time warping).

Summed in float32, as libri-light does; many pairs of segments at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

BATCH_CELLS = 4_000_000  # of the alignments held at once: 32 MB


class Representation(Protocol):
    """What units are compared as."""

    def between(self, x: Any, y: Any) -> Any:
        """Codes `[..., K]` that broadcast against each other -> angles between frames in units of pi, float32 `[...]`;
        0 where all codes are equal. Arrays of numpy, or those that `moved` is of."""

    def moved(self, to: Callable[[np.ndarray], Any]) -> Representation:
        """The same for arrays such as `to` makes, tensors of a device."""


class OneHot:
    """The one-hot vectors of all codebooks, put together; `sizes` are those of the codebooks. Frames of which no code
    agrees are at 1/2."""

    def __init__(self, sizes: Sequence[int], to: Callable[[np.ndarray], Any] = np.asarray):
        self.sizes = tuple(sizes)
        self._angles = to((np.arccos(np.arange(len(self.sizes) + 1) / len(self.sizes)) / np.pi).astype(np.float32))

    def between(self, x: Any, y: Any) -> Any:
        return self._angles[(x == y).sum(-1)]

    def moved(self, to: Callable[[np.ndarray], Any]) -> OneHot:
        return OneHot(self.sizes, to)


class Embedded:
    """A vector of its own for each code, those of all codebooks put together: `tables[k] [V, D_k]`. A frame of zeros is
    as far from all others as can be, 1.

    Angles come from products of codes, in float64: frames of equal codes are at 0, and none depends on its company.
    """

    def __init__(self, tables: Sequence[np.ndarray], to: Callable[[np.ndarray], Any] = np.asarray):
        self.tables = [np.asarray(t, np.float64) for t in tables]
        self._products = [to(t @ t.T) for t in self.tables]
        self._float32 = to(np.zeros(1, np.float32)).dtype

    def between(self, x: Any, y: Any) -> Any:
        of: Any = np
        if not isinstance(x, np.ndarray):
            import torch as of
        product = sum(p[x[..., k], y[..., k]] for k, p in enumerate(self._products))
        lengths = [sum(p[z[..., k], z[..., k]] for k, p in enumerate(self._products)) for z in (x, y)]
        norm = of.sqrt(lengths[0] * lengths[1])
        cosine = of.where(norm > 0, of.clip(product / of.where(norm > 0, norm, 1.0), -1, 1), -1.0)
        angles = of.where((x == y).all(-1), 0.0, of.arccos(cosine) / np.pi)
        return of.asarray(angles, dtype=self._float32)

    def moved(self, to: Callable[[np.ndarray], Any]) -> Embedded:
        return Embedded(self.tables, to)


def align(costs: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Frame distances float32 `[N, S, T]`, of which pair n uses the first `sizes[n]` rows and columns (`[N, 2]`) -> the
    cost of its cheapest alignment divided by the length of its path, float32 `[N]`.

    Of steps that cost the same, one along both comes first, then one along the columns.
    """
    count, rows, columns = costs.shape
    cost = np.empty((rows, columns, count), np.float32)
    length = np.empty((rows, columns, count), np.int32)
    steps = np.ascontiguousarray(costs.transpose(1, 2, 0))
    cost[:, 0], length[:, 0] = np.cumsum(steps[:, 0], axis=0, dtype=np.float32), np.arange(1, rows + 1)[:, None]
    cost[0], length[0] = np.cumsum(steps[0], axis=0, dtype=np.float32), np.arange(1, columns + 1)[:, None]
    for i in range(1, rows):
        for j in range(1, columns):
            both, left, up = cost[i - 1, j - 1], cost[i, j - 1], cost[i - 1, j]
            one = np.minimum(left, up)
            cost[i, j] = steps[i, j] + np.minimum(both, one)
            along = np.where(left <= up, length[i, j - 1], length[i - 1, j])
            length[i, j] = 1 + np.where(both <= one, length[i - 1, j - 1], along)
    at = sizes.T - 1
    last = (at[0], at[1], np.arange(count))
    return cost[last] / length[last].astype(np.float32)


@dataclass(frozen=True)
class Padded:
    """Segments as one array: `codes [N, T, K]`, of which the first `lengths [N]` frames are a segment's own."""

    codes: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, segments: Sequence[np.ndarray]) -> Padded:
        lengths = np.array([len(s) for s in segments])
        codes = np.zeros((len(segments), lengths.max(), segments[0].shape[1]), segments[0].dtype)
        for row, segment in zip(codes, segments, strict=True):
            row[: len(segment)] = segment
        return cls(codes, lengths)


def segment_distances(segments: Padded, pairs: np.ndarray, units: Representation) -> np.ndarray:
    """The distance of each of `pairs [P, 2]` of segments: float32 `[P]`."""
    sizes = segments.lengths[pairs]
    order = np.lexsort((sizes[:, 1], sizes[:, 0]))
    made = np.empty(len(pairs), np.float32)
    at = 0
    while at < len(order):
        batch = _batch(sizes, order, at)
        longest = sizes[batch].max(axis=0)
        x, y = (segments.codes[pairs[batch, side], : longest[side]] for side in (0, 1))
        made[batch] = align(units.between(x[:, :, None], y[:, None]), sizes[batch])
        at += len(batch)
    return made


def _batch(sizes: np.ndarray, order: np.ndarray, at: int) -> np.ndarray:
    """As many pairs from `at` on as fit, padded to the longest of them."""
    size = max(1, BATCH_CELLS // int(sizes[order[at]].prod()))
    while True:
        batch = order[at : at + size]
        cells = len(batch) * int(sizes[batch].max(axis=0).prod())
        if cells <= BATCH_CELLS or len(batch) == 1:
            return batch
        size = max(1, min(len(batch) - 1, len(batch) * BATCH_CELLS // cells))
