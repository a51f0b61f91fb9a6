"""Where the two items of a pair part: what they share is the prompt, what follows each one's continuation.

It is found in the units that the model reads. What follows is also scored alone, in the same pass, for normalized
scores (arXiv 2601.06329); shared beginnings are computed once (see `slm.scoring`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slm.errors import UsageError
from slm.types import Codes, MinimalPair
from slm.units import Units


@dataclass(frozen=True)
class Parting:
    """The first unit of an item that its partner does not share, and the frame at which that unit begins. A byte pair
    of several codebooks may begin within a frame, and no clip does: there it is the last unit before that begins one,
    so that what follows is the same units alone as after what is shared."""

    row: int
    frame: int


def unit_starts(units: Units, codes: np.ndarray, document: np.ndarray) -> np.ndarray:
    """Codes `[T, K]` and the units `[R, K']` made of them -> int64 `[R + 1]`: the frame at which each unit begins
    (of several that begin within a frame: that frame), and T."""
    durations = units.durations(codes)
    starts = np.cumsum(durations) - durations
    if units.bpe is not None:
        lengths = units.bpe.codebooks()[1][document[:, 0].astype(np.int64)]
        starts = starts[(np.cumsum(lengths) - lengths) // codes.shape[1]]
    return np.append(starts, len(codes)).astype(np.int64)


def find_partings(units: Units, codes: Mapping[str, Codes], pairs: Sequence[MinimalPair]) -> dict[str, Parting]:
    """Item -> where it parts from the other item of its pair. Items of the same units part at their start, so that
    they tie in every convention. UsageError for an item that parts from its partners in different places."""
    made: dict[str, Parting] = {}
    for pair in pairs:
        a, b = (units.apply(codes[item].codes) for item in (pair.positive, pair.negative))
        least = min(len(a), len(b))
        differ = (a[:least] != b[:least]).any(axis=1)
        row = _whole_frames(units, a, int(differ.argmax()) if differ.any() else least if len(a) != len(b) else 0)
        for item, document in ((pair.positive, a), (pair.negative, b)):
            frame = int(unit_starts(units, codes[item].codes, document)[row])
            if made.setdefault(item, Parting(row, frame)).row != row:
                raise UsageError(
                    f"{item} stands in several pairs, and parts from its partners in different places: where it begins "
                    "to count (local-, normalized) is not one place; leave these conventions out, or give each pair a "
                    "recording of its own"
                )
    return made


def _whole_frames(units: Units, document: np.ndarray, row: int) -> int:
    """The last unit up to `row` before which all frames are whole."""
    if units.bpe is None:
        return row
    before = np.append(0, np.cumsum(units.bpe.codebooks()[1][document[:row, 0].astype(np.int64)]))
    return int(np.flatnonzero(before % len(units.codebook_sizes) == 0)[-1])


def continuations(codes: Mapping[str, Codes], partings: Mapping[str, Parting]) -> dict[str, Codes]:
    """Item -> the codes that follow where it parts, as a clip of its own; items that end there have none."""
    made: dict[str, Codes] = {}
    for item, parting in partings.items():
        whole = codes[item]
        if parting.frame < len(whole.codes):
            rest = max(0, whole.num_samples - parting.frame * whole.spec.hop_samples)
            made[item] = Codes(f"{item} (alone, from frame {parting.frame})", whole.codes[parting.frame :], rest,
                               whole.spec)  # fmt: skip
    return made
