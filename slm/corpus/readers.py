"""Reading ahead of the tokenizer: processes decode and resample, and their death is no more than a clip's.

A decoder that crashes on a file takes its process with it. The pool is then made anew, what it was reading is read
again, and a clip that alone brings a process down is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from math import ceil

from slm.corpus.plan import PlannedClip, PlannedShard, Reject
from slm.corpus.reading import read_clip
from slm.corpus.sources.base import SourceClip, readable
from slm.corpus.workers import CRASHED, worker_processes
from slm.errors import AudioError, UnreadableError, UsageError
from slm.types import AudioClip

_THREADS = 4  # where no processes are asked for

Read = AudioClip | Reject


@dataclass(frozen=True)
class Batch:
    """Clips of about one length, of one shard; `padded_s` is their number times the longest."""

    shard: PlannedShard
    clips: tuple[SourceClip, ...]
    duration_s: float
    padded_s: float


def make_batches(shard: PlannedShard, clips: Sequence[PlannedClip], batch_seconds: float) -> Iterator[Batch]:
    """The clips of a shard, longest first (so that a lack of memory shows early), in batches of `batch_seconds`."""
    part: list[PlannedClip] = []
    for planned in sorted(clips, key=lambda planned: -planned.duration_s):
        if part and (len(part) + 1) * part[0].duration_s > batch_seconds:
            yield _batch(shard, part)
            part = []
        part.append(planned)
    yield _batch(shard, part)


def _batch(shard: PlannedShard, part: Sequence[PlannedClip]) -> Batch:
    clips = tuple(planned.clip for planned in part)
    return Batch(shard, clips, sum(planned.duration_s for planned in part), len(part) * part[0].duration_s)


@dataclass
class _Task:
    clips: Sequence[SourceClip]
    future: Future[list[Read]]
    pool: Executor


class Readers:
    """`num_workers` processes (0: threads of this one) that read clips at one rate. A context manager."""

    def __init__(self, sample_rate_hz: int, num_workers: int):
        self.sample_rate_hz, self.num_workers = sample_rate_hz, num_workers
        self._pool = self._new_pool()

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read_ahead(self, batches: Iterable[Batch], ahead_s: float) -> Iterator[tuple[Batch, list[Read]]]:
        """Each batch with its audio, in order, while reading goes on: at most `ahead_s` seconds (or a batch) ahead.

        Raises UsageError for a file that could be opened when it was planned, and cannot now.
        """
        waiting: deque[tuple[Batch, list[_Task]]] = deque()
        for batch in batches:
            while waiting and sum(ahead.padded_s for ahead, _ in waiting) + batch.padded_s > ahead_s:
                yield self._collect(*waiting.popleft())
            waiting.append((batch, self._submit(batch.clips)))
        while waiting:
            yield self._collect(*waiting.popleft())

    def _new_pool(self) -> Executor:
        return worker_processes(self.num_workers) if self.num_workers else ThreadPoolExecutor(_THREADS)

    def _submit(self, clips: Sequence[SourceClip]) -> list[_Task]:
        """The clips of a batch dealt out evenly, a task for each worker."""
        size = ceil(len(clips) / (self.num_workers or _THREADS))
        return [self._task(clips[i : i + size]) for i in range(0, len(clips), size)]

    def _task(self, clips: Sequence[SourceClip]) -> _Task:
        try:
            future = self._pool.submit(read_all, clips, self.sample_rate_hz)
        except BrokenProcessPool:
            self._pool = self._new_pool()
            future = self._pool.submit(read_all, clips, self.sample_rate_hz)
        return _Task(clips, future, self._pool)

    def _collect(self, batch: Batch, tasks: Sequence[_Task]) -> tuple[Batch, list[Read]]:
        return batch, [read for task in tasks for read in self._result(task)]

    def _result(self, task: _Task) -> list[Read]:
        try:
            return task.future.result()
        except BrokenProcessPool:
            if task.pool is self._pool:
                self._pool = self._new_pool()
            return [self._read_alone(clip) for clip in task.clips]

    def _read_alone(self, clip: SourceClip) -> Read:
        with worker_processes(1) as pool:
            try:
                return pool.submit(read_all, [clip], self.sample_rate_hz).result()[0]
            except BrokenProcessPool:
                return Reject(clip.id, readable(clip.path), CRASHED)


def read_all(clips: Sequence[SourceClip], sample_rate_hz: int) -> list[Read]:
    return [_read(clip, sample_rate_hz) for clip in clips]


def _read(clip: SourceClip, sample_rate_hz: int) -> Read:
    try:
        samples = read_clip(clip, sample_rate_hz)
    except UnreadableError as error:
        # A disk that went away, or a fault that may pass, must not become a reject for ever.
        raise UsageError(
            f"{readable(clip.path)} could be read when the shards were planned, but not now ({error}): "
            "mend that and run the same command again to go on"
        ) from None
    except AudioError as error:
        return Reject(clip.id, readable(clip.path), str(error))
    return AudioClip(clip.id, samples, sample_rate_hz)
