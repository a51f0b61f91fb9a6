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
    specials, books = _specials(pattern), pattern.num_codebooks
    streams = len(specials) // 3
    kinds = list(zip(lengths.tolist(), ends.tolist(), strict=True))
    layouts = {kind: (_kept if kind[0] * books <= _SHORT else _made)(pattern, *kind) for kind in {*kinds}}
    found = [layouts[kind] for kind in kinds]
    numbers = np.concatenate(found)
    before = np.repeat((np.cumsum(lengths) - lengths) * books, [len(layout) for layout in found])
    table = np.empty(len(specials) + codes.size, np.int64)
    table[: len(specials)] = specials
    np.add(codes, pattern.id_offsets, out=table[len(specials) :].reshape(codes.shape), casting="unsafe")
    places = np.where(numbers >= len(specials), before[:, None], 0)
    places += numbers
    return Steps(table.take(places), numbers >= 2 * streams)


def _made(pattern: Pattern, num_frames: int, ends: int) -> np.ndarray:
    """A layout `[S, Q]` as places in the table of `lay_out`: first BOS of all streams, then EMPTY, then EOS, then the
    codes of all documents."""
    layout = pattern.layout(num_frames)
    streams = np.arange(layout.shape[1])
    special = {BOS: 0, EMPTY: 1, EOS: 2 if ends else 1}
    numbers = (layout + 3 * layout.shape[1]).astype(np.int32)
    for name, number in special.items():
        numbers = np.where(layout == name, (number * layout.shape[1] + streams).astype(np.int32), numbers)
    return numbers


@lru_cache(maxsize=8)
def _specials(pattern: Pattern) -> np.ndarray:
    return np.array([getattr(v, name) for name in ("bos_id", "empty_id", "eos_id") for v in pattern.streams])


# Of short documents, whose layouts cost most by the code.
_kept = lru_cache(maxsize=2048)(_made)
