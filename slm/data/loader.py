"""Rows into batches: the same global order for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from slm.data.documents import Documents
from slm.data.packing import PackPlan, plan_epoch
from slm.errors import UsageError
from slm.patterns import Pattern
from slm.types import Batch


def collate_rows(rows: Sequence[np.ndarray], documents: Documents, pattern: Pattern, row_length: int) -> Batch:
    """Lay the pieces of each row one after the other. Padding is a document of its own (id -1), never predicted."""
    shape = (len(rows), row_length)
    ids = np.empty((*shape, len(pattern.streams)), np.int64)
    ids[:] = [v.empty_id for v in pattern.streams]
    loss_mask = np.zeros(ids.shape, bool)
    positions, document_ids = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    for b, pieces in enumerate(rows):
        at = 0
        for number, (document, start, end, ends) in enumerate(pieces):
            steps = pattern.apply(documents.codes(document)[start:end], ends=bool(ends))
            span = slice(at, at + len(steps.steps))
            ids[b, span], loss_mask[b, span] = steps.steps, steps.valid
            positions[b, span], document_ids[b, span] = np.arange(len(steps.steps)), number
            at = span.stop
        positions[b, at:] = np.arange(row_length - at)
    return Batch(ids, loss_mask, positions, document_ids)


class TrainLoader:
    """Micro-batches of optimizer step s for one process, computed from s alone.

    Epoch after epoch of rows forms one endless sequence; step s takes its next `rows_per_step` rows whatever the
    number of processes, which divide them among themselves.
    """

    def __init__(self, documents: Documents, pattern: Pattern, row_length: int, rows_per_batch: int,
                 accumulation: int, rank: int, world_size: int, seed: int):  # fmt: skip
        if not len(documents):
            raise UsageError(f"{documents.store.path} leaves no clip to train on")
        if pattern.num_steps(1) > row_length:
            raise UsageError(f"row_length {row_length} cannot hold one frame of pattern {pattern.name!r}")
        self.documents, self.pattern, self.row_length, self.seed = documents, pattern, row_length, seed
        self.rows_per_batch, self.accumulation, self.rank, self.world_size = (
            rows_per_batch,
            accumulation,
            rank,
            world_size,
        )
        self.rows_per_step = rows_per_batch * accumulation * world_size
        self._epoch, self._first_row, self._plan = 0, 0, self._plan_epoch(0)

    def _plan_epoch(self, epoch: int) -> PackPlan:
        return plan_epoch(self.documents.num_frames, self.pattern, self.row_length, (self.seed, epoch))

    def _row(self, index: int) -> np.ndarray:
        """Row `index` of the endless sequence."""
        if index < self._first_row:
            self._epoch, self._first_row, self._plan = 0, 0, self._plan_epoch(0)
        while index >= self._first_row + self._plan.num_rows:
            self._first_row += self._plan.num_rows
            self._epoch += 1
            self._plan = self._plan_epoch(self._epoch)
        return self._plan.row(index - self._first_row)

    def epoch_at(self, step: int) -> float:
        """Epochs completed once `step` steps are done."""
        self._row(step * self.rows_per_step)
        return self._epoch + (step * self.rows_per_step - self._first_row) / self._plan.num_rows

    def batches(self, step: int) -> list[Batch]:
        """The `accumulation` micro-batches of this process at `step` (0-based)."""
        first = step * self.rows_per_step
        made = []
        for a in range(self.accumulation):
            start = first + (a * self.world_size + self.rank) * self.rows_per_batch
            rows = [self._row(start + i) for i in range(self.rows_per_batch)]
            made.append(collate_rows(rows, self.documents, self.pattern, self.row_length))
        return made


def eval_batches(documents: Documents, pattern: Pattern, row_length: int, rows_per_batch: int,
                 rank: int = 0, world_size: int = 1) -> Iterator[Batch]:  # fmt: skip
    """Every document once, in order; each process takes every `world_size`-th batch."""
    plan = plan_epoch(documents.num_frames, pattern, row_length, shuffle=None)
    for start in range(rank * rows_per_batch, plan.num_rows, rows_per_batch * world_size):
        rows = [plan.row(r) for r in range(start, min(start + rows_per_batch, plan.num_rows))]
        yield collate_rows(rows, documents, pattern, row_length)
