"""What stands at each step of each document of a batch, and which codes may be drawn there.

The schedule is the pattern's own layout: at each step and stream it says which codebook is due, or that BOS or EMPTY
stands there. The end of a document may be drawn where a frame's first code is due; from then on the layout of the now
known length applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slm.patterns import EMPTY, Pattern

KNOWN, MIXED = -1, -2


@dataclass(frozen=True)
class Request:
    """One document to be made: it begins with `prompt [T, K]` and has at most `max_frames` frames in all."""

    prompt: np.ndarray
    max_frames: int
    seed: int


class Plan:
    """Of S steps of B documents in Q streams, int64 arrays `[S, B, Q]`:

    `placed` are the ids that are known (0 for others); `kind` is KNOWN, or the codebook k whose codes may be drawn, or
    K where the end may be drawn as well as a code of codebook 0; `if_ended` are the ids that stand there if the
    document is ended at this very step, KNOWN where that changes nothing. `frames [B]` are the lengths, as far as they
    are known, else the most that there may be.
    """

    def __init__(self, pattern: Pattern, requests: Sequence[Request], may_stop: bool):
        self.pattern, self.requests = pattern, list(requests)
        self.frames = [request.max_frames for request in requests]
        self._ids = [(r.prompt.astype(np.int64) + pattern.id_offsets).reshape(-1) for r in requests]
        self.num_steps = max(pattern.num_steps(frames) for frames in self.frames)
        shape = (self.num_steps, len(self.frames), len(pattern.streams))
        self.placed, self.kind = np.empty(shape, np.int64), np.empty(shape, np.int64)
        self.if_ended = np.full(shape, KNOWN, np.int64)
        self._rows_if_ended: dict[tuple[int, int], np.ndarray] = {}
        for row in range(len(self.frames)):
            layout = self._fill(row)
            if may_stop and pattern.open_ended:
                self._allow_ends(row, layout)
        drawn = (self.kind != KNOWN).any(axis=2)
        self.first_step = int(drawn.any(axis=1).argmax())
        """The first step at which something is drawn in any document."""

    def shared(self, step: int) -> list[int]:
        """Of each stream the `kind` that all documents have at a step; MIXED where they differ."""
        kinds = self.kind[step]
        return np.where((kinds == kinds[0]).all(axis=0), kinds[0], MIXED).tolist()

    def last_step(self, row: int) -> int:
        """One behind the last step of a document, as long as it is now thought to be."""
        return self.pattern.num_steps(self.frames[row])

    def end(self, row: int, step: int, frames: int) -> None:
        """A document has ended at `step` with so many frames: what comes later is laid out anew."""
        self.frames[row] = frames
        self._fill(row, step + 1)

    def frame_due(self, row: int, step: int) -> int:
        """The frame whose codebook 0 may be drawn at a step where `kind` allows the end."""
        layout = self.pattern.layout(self.requests[row].max_frames)[step]
        return int(layout[self.kind[step, row] == self.pattern.num_codebooks][0]) // self.pattern.num_codebooks

    def _fill(self, row: int, start: int = 0) -> np.ndarray:
        """Lay out a document of the length it now has, from step `start` on; the layout `[S, Q]` of all its steps."""
        layout = _pad(self.pattern.layout(self.frames[row]), self.num_steps)
        ids, books = self._ids[row], self.pattern.num_codebooks
        self.placed[start:, row] = self.pattern.place(layout, ids)[start:]
        self.kind[start:, row] = np.where(layout >= len(ids), layout % books, KNOWN)[start:]
        return layout

    def _allow_ends(self, row: int, layout: np.ndarray) -> None:
        books, heard = self.pattern.num_codebooks, len(self.requests[row].prompt)
        may_end = (layout % books == 0) & (layout // books > heard)
        self.kind[:, row][may_end] = books
        for step, stream in zip(*np.nonzero(may_end), strict=True):
            frames = int(layout[step, stream]) // books
            if (layout[step, stream + 1 :] // books >= frames).any():
                self.if_ended[step, row, stream + 1 :] = self._row_if_ended(frames, int(step))[stream + 1 :]

    def _row_if_ended(self, frames: int, step: int) -> np.ndarray:
        """Ids `[Q]` at a step of a document of so many frames: KNOWN where a code stands."""
        if (frames, step) not in self._rows_if_ended:
            row = self.pattern.layout(frames)[step : step + 1]
            ids = self.pattern.place(row, np.zeros(0, np.int64))
            self._rows_if_ended[frames, step] = np.where(row < 0, ids, KNOWN)[0]
        return self._rows_if_ended[frames, step]


def _pad(layout: np.ndarray, num_steps: int) -> np.ndarray:
    return np.pad(layout, ((0, num_steps - len(layout)), (0, 0)), constant_values=EMPTY)
