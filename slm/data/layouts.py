"""Many documents under a pattern at once: what `Pattern.apply` makes of each, laid one after another."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from slm.patterns import BOS, EMPTY, EOS, Pattern
from slm.types import Steps

_SHORT = 1 << 13
_AT_ONCE = 1 << 13  # places: larger arrays are new memory each time, which costs more than what is done in it


def lay_out(pattern: Pattern, codes: np.ndarray, lengths: np.ndarray, ends: np.ndarray) -> Steps:
    """Documents of `lengths [P]` frames, whose codes `[sum T, K]` lie one after another -> their steps likewise;
    `ends [P]`: whether each one's end is there (see `Pattern.apply`)."""
    specials, books = _specials(pattern), pattern.num_codebooks
    kinds = list(zip(lengths.tolist(), ends.tolist(), strict=True))
    layouts = {kind: (_kept if kind[0] * books <= _SHORT else _made)(pattern, *kind) for kind in {*kinds}}
    found = [layouts[kind] for kind in kinds]
    frames, steps = (np.cumsum([0, *sizes]) for sizes in (lengths, map(len, found)))
    made = np.empty((steps[-1], len(specials) // 3), np.int64)
    valid = np.empty(made.shape, bool)
    firsts = np.unique(made.shape[1] * steps[:-1] // _AT_ONCE, return_index=True)[1]
    for first, last in pairwise([*firsts, len(found)]):
        span = slice(steps[first], steps[last])
        _lay(found[first:last], codes[frames[first] : frames[last]], frames[first:last] - frames[first],
             specials, pattern.id_offsets, made[span], valid[span])  # fmt: skip
    return Steps(made, valid)


def _lay(layouts: list[np.ndarray], codes: np.ndarray, starts: np.ndarray, specials: np.ndarray,
         offsets: np.ndarray, steps: np.ndarray, valid: np.ndarray) -> None:  # fmt: skip
    """Documents that begin at frames `starts [P]`, laid into `steps` and `valid`."""
    numbers = np.concatenate(layouts)
    before = np.repeat(starts * codes.shape[1], [len(layout) for layout in layouts])
    table = np.empty(len(specials) + codes.size, np.int64)
    table[: len(specials)] = specials
    np.add(codes, offsets, out=table[len(specials) :].reshape(codes.shape), casting="unsafe")
    places = np.where(numbers >= len(specials), before[:, None], 0)
    places += numbers
    table.take(places, out=steps, mode="clip")  # or it would be made elsewhere first, and copied
    np.greater_equal(numbers, len(specials) // 3 * 2, out=valid)


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
