"""Many documents under a pattern at once: what `Pattern.apply` makes of each, laid one after another."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from slm.patterns import BOS, EMPTY, EOS, Pattern
from slm.types import Steps

_SHORT = 1 << 13


def lay_out(pattern: Pattern, codes: np.ndarray, lengths: np.ndarray, ends: np.ndarray) -> Steps:
    """Documents of `lengths [P]` frames, whose codes `[sum T, K]` lie one after another -> their steps likewise;
    `ends [P]`: whether each one's end is there (see `Pattern.apply`)."""
    streams, books = len(pattern.streams), pattern.num_codebooks
    found = [_numbered(pattern, n, e) for n, e in zip(lengths.tolist(), ends.tolist(), strict=True)]
    numbers = np.concatenate(found)
    before = np.repeat((np.cumsum(lengths) - lengths) * books, [len(layout) for layout in found])
    # A table of all ids: each stream's BOS, its EMPTY, its EOS, and then the codes of all documents.
    table = np.empty(3 * streams + codes.size, np.int64)
    table[: 3 * streams] = [getattr(v, name) for name in ("bos_id", "empty_id", "eos_id") for v in pattern.streams]
    np.add(codes, pattern.id_offsets, out=table[3 * streams :].reshape(codes.shape), casting="unsafe")
    places = np.where(numbers >= 3 * streams, before[:, None], 0)
    places += numbers
    return Steps(table.take(places), numbers >= 2 * streams)


def _numbered(pattern: Pattern, num_frames: int, ends: bool) -> np.ndarray:
    """A layout `[S, Q]` as places in the table of `lay_out`. Those of short documents, which cost most by the code, are
    kept."""
    short = num_frames * pattern.num_codebooks <= _SHORT
    return (_kept if short else _made)(pattern, num_frames, bool(ends))


def _made(pattern: Pattern, num_frames: int, ends: bool) -> np.ndarray:
    layout = pattern.layout(num_frames)
    streams = np.arange(layout.shape[1])
    special = {BOS: 0, EMPTY: 1, EOS: 2 if ends else 1}
    numbers = (layout + 3 * layout.shape[1]).astype(np.int32)
    for name, number in special.items():
        numbers = np.where(layout == name, (number * layout.shape[1] + streams).astype(np.int32), numbers)
    return numbers


_kept = lru_cache(maxsize=2048)(_made)
