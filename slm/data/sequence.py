"""The endless packed rows of one source, each computed from its number alone.

The pieces of an epoch are shuffled and taken in blocks of even size; each block is packed by itself, so that only the
block that is needed is ever planned. All of it follows from the documents' lengths, the seed and the number of the row:
every process finds the same rows, and nothing is replayed when a run goes on.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import numpy as np

from slm.data.hashing import shuffled
from slm.data.packing import check_packing, count_rows, max_frames, pack
from slm.data.source import DOCUMENT, END, START, Source
from slm.errors import UsageError
from slm.patterns import Pattern

BLOCK_PIECES = 1 << 16


class Pieces:
    """Documents `[N]` cut into pieces of at most `longest` frames, nothing dropped. Piece i < N is the first of
    document i; those of the long documents that are left come after them, in order."""

    def __init__(self, num_frames: np.ndarray, longest: int):
        self.num_frames, self.longest = num_frames, longest
        self.cut = np.flatnonzero(num_frames > longest)
        self._after = np.cumsum(-(-num_frames[self.cut] // longest) - 1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.num_frames) + (int(self._after[-1]) if len(self._after) else 0)

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Pieces `[P, 4]` (see `slm.data.source`) of these numbers."""
        document, start = numbers.copy(), np.zeros_like(numbers)
        later = np.flatnonzero(numbers >= len(self.num_frames))
        if len(later):
            beyond = numbers[later] - len(self.num_frames)
            which = np.searchsorted(self._after, beyond, side="right")
            document[later] = self.cut[which]
            start[later] = (1 + beyond - np.where(which > 0, self._after[which - 1], 0)) * self.longest
        total = self.num_frames[document].astype(np.int64)
        end = np.minimum(start + self.longest, total)
        return np.stack([document, start, end, end == total], axis=1)


class Plan:
    """A block's pieces `[P, 4]`, row after row, and the steps `[P]` that each takes."""

    def __init__(self, pieces: np.ndarray, steps: np.ndarray, row_of: np.ndarray, num_rows: int):
        order = np.argsort(row_of, kind="stable")
        self.pieces, self.steps, self.num_rows = pieces[order], steps[order], num_rows
        self._starts = np.searchsorted(row_of[order], np.arange(num_rows + 1)).tolist()

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(self._starts[index], self._starts[index + 1])
        return self.pieces[span], self.steps[span]


class RowSequence:
    """Epoch after epoch of the rows of `source`, in an order that `seed` chooses (None: unshuffled).

    UsageError where a row cannot hold one frame.
    """

    def __init__(self, source: Source, pattern: Pattern, row_length: int, seed: Sequence[int] | None,
                 packing: str = "best-fit"):  # fmt: skip
        check_packing(packing)
        self.source, self.row_length, self.packing, self.seed = source, row_length, packing, seed
        room = row_length - int(np.max(source.prefix_steps, initial=0))
        if pattern.num_steps(1) > room:
            raise UsageError(f"row_length {row_length} cannot hold one frame of pattern {pattern.name!r}")
        longest = max_frames(pattern, room)
        self.pieces = Pieces(source.num_frames, longest)
        self._steps_of = np.array([pattern.num_steps(n) for n in range(longest + 1)])
        self.blocks = max(1, -(-len(self.pieces) // BLOCK_PIECES))
        self._first_rows, self._counting = [0], Lock()
        self._plan = lru_cache(maxsize=4)(self._make_plan)

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Row `index`: its pieces `[P, 4]` and the steps `[P]` that each takes."""
        block = self._block_of(index)
        return self._plan(block).row(index - self._first_rows[block])

    def epochs(self, rows: int) -> float:
        """How often the source has been heard after so many rows."""
        block = self._block_of(rows)
        epoch, within = divmod(block, self.blocks)
        start, end = self._span(within)
        share = (rows - self._first_rows[block]) / (self._first_rows[block + 1] - self._first_rows[block])
        return epoch + (start + share * (end - start)) / len(self.pieces)

    @property
    def size(self) -> float:
        """About how many rows an epoch has: as many for each piece as in the first block."""
        return self._first_row(1) * len(self.pieces) / self._span(0)[1]

    def rows_of_epoch(self) -> int:
        return self._first_row(self.blocks)

    def _block_of(self, row: int) -> int:
        with self._counting:
            while self._first_rows[-1] <= row:
                self._count_block()
        return bisect_right(self._first_rows, row) - 1

    def _first_row(self, block: int) -> int:
        with self._counting:
            while len(self._first_rows) <= block:
                self._count_block()
        return self._first_rows[block]

    def _count_block(self) -> None:
        steps = self._num_steps(self._pieces_of(len(self._first_rows) - 1))
        self._first_rows.append(self._first_rows[-1] + count_rows(steps, self.row_length, self.packing))

    def _make_plan(self, block: int) -> Plan:
        pieces = self._pieces_of(block)
        steps = self._num_steps(pieces)
        row_of, num_rows = pack(steps, self.row_length, self.packing)
        if self.seed is not None and self.packing == "best-fit":  # which opens the rows of the longest first
            row_of = shuffled(row_of, num_rows, (*self.seed, block, 1))
        return Plan(pieces, steps, row_of, num_rows)

    def _span(self, within: int) -> tuple[int, int]:
        return len(self.pieces) * within // self.blocks, len(self.pieces) * (within + 1) // self.blocks

    def _pieces_of(self, block: int) -> np.ndarray:
        epoch, within = divmod(block, self.blocks)
        numbers = np.arange(*self._span(within))
        if self.seed is not None:
            numbers = shuffled(numbers, len(self.pieces), (*self.seed, epoch, 0))
        return self.pieces[numbers]

    def _num_steps(self, pieces: np.ndarray) -> np.ndarray:
        prefix = self.source.prefix_steps
        own = self._steps_of[pieces[:, END] - pieces[:, START]]
        return own + (prefix if isinstance(prefix, int) else prefix[pieces[:, DOCUMENT]])
