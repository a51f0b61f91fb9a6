"""Rows into batches: the same global order for any number of processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np

from slm.data.mixture import Division, Mixture
from slm.data.sequence import RowSequence
from slm.data.source import Source
from slm.errors import UsageError
from slm.patterns import Pattern
from slm.types import Batch

_STEPS_AHEAD = 2

Row = tuple[Source, np.ndarray, np.ndarray]
"""A source, pieces `[P, 4]` of its documents, and the steps `[P]` that each takes."""


def collate_rows(rows: Sequence[Row], pattern: Pattern, row_length: int) -> Batch:
    """Lay the pieces of each row one after the other. Padding is a document of its own (id -1), never predicted."""
    ids = np.empty((len(rows), row_length, len(pattern.streams)), np.int64)
    loss_mask = np.zeros(ids.shape, bool)
    padding = [stream.empty_id for stream in pattern.streams]
    for source, numbers in _by_source(rows):
        laid = source.steps(pattern, np.concatenate([rows[b][1] for b in numbers]))
        at = 0
        for b in numbers:
            used = int(rows[b][2].sum())
            ids[b, :used], loss_mask[b, :used] = laid.steps[at : at + used], laid.valid[at : at + used]
            ids[b, used:] = padding
            at += used
    positions, document_ids = _places([lengths.tolist() for _, _, lengths in rows], row_length)
    return Batch(ids, loss_mask, positions, document_ids)


def _places(rows: Sequence[list[int]], row_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and document ids `[B, L]` of rows of documents of these lengths."""
    lengths, numbers = [], []
    for row in rows:
        lengths += [*row, row_length - sum(row)]
        numbers += [*range(len(row)), -1]
    bounds = np.array(lengths)
    starts = np.repeat(np.cumsum(bounds) - bounds, bounds)
    shape = (len(rows), row_length)
    return (np.arange(len(starts)) - starts).reshape(shape), np.repeat(numbers, bounds).reshape(shape)


def _by_source(rows: Sequence[Row]) -> list[tuple[Source, list[int]]]:
    found: dict[int, tuple[Source, list[int]]] = {}
    for b, (source, _, _) in enumerate(rows):
        found.setdefault(id(source), (source, []))[1].append(b)
    return list(found.values())


class TrainLoader:
    """Micro-batches of optimizer step s for one process, computed from s alone.

    The rows of all sources form one endless sequence; step s takes its next `rows_per_step` rows whatever the number
    of processes, which divide them among themselves. UsageError where there is nothing to train on, or a row cannot
    hold a frame.
    """

    def __init__(self, sources: Mixture | Source, pattern: Pattern, row_length: int, rows_per_batch: int,
                 accumulation: int, rank: int, world_size: int, seed: int, packing: str = "best-fit"):  # fmt: skip
        mixture = sources if isinstance(sources, Mixture) else Mixture([sources])
        if not all(len(source) for source in mixture.sources):
            raise UsageError("a corpus leaves no clip to train on")
        self.pattern, self.row_length, self.rows_per_batch = pattern, row_length, rows_per_batch
        self.accumulation, self.rank, self.world_size = accumulation, rank, world_size
        self.rows_per_step = rows_per_batch * accumulation * world_size
        self._sequences = [
            RowSequence(source, pattern, row_length, (seed, number), packing)
            for number, source in enumerate(mixture.sources)
        ]
        several = len(self._sequences) > 1
        self._sizes = [sequence.size for sequence in self._sequences] if several else [1.0]
        self._division = Division(mixture.shares(self._sizes))

    def batches(self, step: int) -> list[Batch]:
        """The `accumulation` micro-batches of this process at `step` (0-based)."""
        made = []
        for a in range(self.accumulation):
            first = step * self.rows_per_step + (a * self.world_size + self.rank) * self.rows_per_batch
            made.append(collate_rows(self._rows(first, self.rows_per_batch), self.pattern, self.row_length))
        return made

    def stream(self, first_step: int) -> Iterator[list[Batch]]:
        """`batches` of `first_step` and all after it; the next ones are made by a thread in the meantime."""
        pool = ThreadPoolExecutor(1, "loader")
        try:
            ahead = deque(pool.submit(self.batches, first_step + i) for i in range(_STEPS_AHEAD))
            for step in count(first_step + _STEPS_AHEAD):
                made = ahead.popleft().result()
                ahead.append(pool.submit(self.batches, step))
                yield made
        finally:
            pool.shutdown(cancel_futures=True)

    def epochs_at(self, step: int) -> list[float]:
        """How often each source has been heard once `step` steps are done."""
        counts = self._division.counts(step * self.rows_per_step)
        return [sequence.epochs(rows) for sequence, rows in zip(self._sequences, counts, strict=True)]

    def epoch_at(self, step: int) -> float:
        """Epochs completed once `step` steps are done: of several sources, all that was heard over all there is."""
        heard = zip(self._sizes, self.epochs_at(step), strict=True)
        return sum(size * epochs for size, epochs in heard) / sum(self._sizes)

    def epochs_of_each(self, steps: int) -> list[float]:
        """About how often each of several sources is heard in so many steps, without laying out their epochs."""
        counts = self._division.counts(steps * self.rows_per_step)
        return [rows / size for rows, size in zip(counts, self._sizes, strict=True)]

    def codes_and_audio_s(self, step: int) -> tuple[int, float]:
        """Codes, and seconds of audio, that all processes together are trained on at `step`."""
        found = self._pieces(step)
        return sum(s.num_codes(pieces) for s, pieces in found), sum(s.audio_s(pieces) for s, pieces in found)

    def _pieces(self, step: int) -> list[tuple[Source, np.ndarray]]:
        rows = self._rows(step * self.rows_per_step, self.rows_per_step)
        return [(source, np.concatenate([rows[b][1] for b in numbers])) for source, numbers in _by_source(rows)]

    def _rows(self, first: int, number: int) -> list[Row]:
        made = []
        for index in range(first, first + number):
            which, row = self._division.place(index)
            sequence = self._sequences[which]
            made.append((sequence.source, *sequence.row(row)))
        return made


def eval_batches(source: Source, pattern: Pattern, row_length: int, rows_per_batch: int, rank: int = 0,
                 world_size: int = 1, evenly: bool = False, whole: bool = False) -> Iterator[Batch]:  # fmt: skip
    """Every document once, unshuffled; each process takes every `world_size`-th batch. `evenly` gives each as many,
    the last perhaps one of which nothing is predicted: for processes that can only go on together. `whole` fills up
    the last one with rows of which nothing is: for models compiled for one shape."""
    sequence = RowSequence(source, pattern, row_length, seed=None)
    total = sequence.rows_of_epoch() if len(source) else 0
    stride = rows_per_batch * world_size
    end = -(-total // stride) * stride if evenly else total
    for start in range(rank * rows_per_batch, end, stride):
        rows = [(source, *sequence.row(r)) for r in range(start, min(start + rows_per_batch, total))]
        size = rows_per_batch if whole else max(1, len(rows))
        filled = rows + [(source, *sequence.row(0)) for _ in range(size - len(rows))]
        batch = collate_rows(filled, pattern, row_length)
        batch.loss_mask[len(rows) :] = False
        yield batch
