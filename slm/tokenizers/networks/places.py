"""Where clips lie in a tensor that they are packed in, and the indices by which their values are moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Places:
    """Of a tensor `[1, C, T]`: clip i is real from `left + starts[i]` on, for `lengths[i]`.

    `left` and `right` are what `functional.pad` has put around the tensor, in `mode`. A layer that pads by itself
    completes its last window (ceil); a convolution that pads by its own argument drops it (floor), and so does one
    whose layer had nothing to put around the whole tensor (a kernel as long as its stride).
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    left: int = 0
    right: int = 0
    mode: str | None = None
    value: float = 0.0


def gaps(places: Places, before: int, behind: int, total: int) -> np.ndarray:
    """(where, the place that it is to equal), `[2, n]`: `before` values before each clip, `behind` values behind it."""
    first = places.left + np.array(places.starts)[:, None]
    last = first + np.array(places.lengths)[:, None] - 1
    mirrored = places.mode == "reflect"
    room = max(before, behind) if places.mode in (None, "constant") else before + behind
    apart = first[1:] - last[:-1] - 1
    if apart.size and apart.min() < room:
        raise RuntimeError(f"clips lie {apart.min()} apart, where a layer needs {room}")
    if mirrored and min(places.lengths) <= max(before, behind):
        raise RuntimeError(f"{min(places.lengths)} values are too short to be reflected by {max(before, behind)}")
    where, source = [], []
    for end, there in ((first, first - 1 - np.arange(before)), (last, last + 1 + np.arange(behind))):
        where.append(there.ravel())
        source.append((2 * end - there if mirrored else np.broadcast_to(end, there.shape)).ravel())
    made = np.stack([np.concatenate(where), np.concatenate(source)])
    return np.ascontiguousarray(made[:, (made[0] >= 0) & (made[0] < total)])


def rows(places: Places, num_rows: int, width: int) -> np.ndarray:
    """The step that each place of the rows holds, row by row; behind a clip its last one, without a clip the first."""
    if len(places.starts) > num_rows or max(places.lengths) > width:
        raise RuntimeError(f"{len(places.starts)} clips of up to {max(places.lengths)} steps, but {num_rows} x {width}")
    starts, lengths = np.zeros(num_rows, np.int64), np.ones(num_rows, np.int64)
    starts[: len(places.starts)], lengths[: len(places.starts)] = places.starts, places.lengths
    return (starts[:, None] + np.minimum(np.arange(width), lengths[:, None] - 1)).ravel()


def steps(places: Places, width: int, total: int) -> np.ndarray:
    """The place in the rows at which each step is; some other where it is of no clip."""
    made = np.zeros(total, np.int64)
    for row, (start, length) in enumerate(zip(places.starts, places.lengths, strict=True)):
        made[start : start + length] = row * width + np.arange(length)
    return made


def held(places: Places, num_rows: int, width: int) -> np.ndarray:
    """`[R, W]`: whether a place of the rows is of a clip; of a row without a clip the first is, so that attention has
    something to look at."""
    lengths = np.ones(num_rows, np.int64)
    lengths[: len(places.lengths)] = places.lengths
    return np.arange(width) < lengths[:, None]


def turned(places: Places, width: int, num_rows: int) -> np.ndarray:
    """`[T, R]`: for each place of the rows the one whose value is there when each clip is turned around."""
    lengths = np.zeros(num_rows, np.int64)
    lengths[: len(places.lengths)] = places.lengths
    steps = np.arange(width)[:, None]
    return np.where(steps < lengths, lengths - 1 - steps, steps)
