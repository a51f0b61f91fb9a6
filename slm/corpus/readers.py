"""Reading ahead of the tokenizer: processes decode and resample, and their death is no more than a clip's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil

from slm.corpus.handover import SentTogether, gathered
from slm.corpus.plan import PlannedClip, PlannedShard, Reject
from slm.corpus.reading import read_clip_blocks
from slm.corpus.sources.base import SourceClip, readable
from slm.corpus.workers import CRASHED, Workers, sign_of_life
from slm.errors import AudioError, StoppedError, UnreadableError
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


class Readers:
    """`num_workers` processes (0: threads of this one) that read clips at one rate. A context manager."""

    def __init__(self, sample_rate_hz: int, num_workers: int):
        read = partial(read_all, sample_rate_hz=sample_rate_hz)
        self.workers: Workers[SourceClip, Read] = Workers(read, _crashed, num_workers, _THREADS)
        self.num_parts = num_workers or _THREADS

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.shutdown()

    def read_ahead(self, batches: Iterable[Batch], ahead_s: float) -> Iterator[tuple[Batch, list[Read]]]:
        """Each batch with its audio, in order, while reading goes on: at most `ahead_s` seconds (or a batch) ahead.

        Raises StoppedError for a file that could be opened when it was planned, and cannot now.
        """
        waiting: deque[tuple[Batch, list[Callable[[], list[Read]]]]] = deque()
        for batch in batches:
            while waiting and sum(ahead.padded_s for ahead, _ in waiting) + batch.padded_s > ahead_s:
                yield _collect(*waiting.popleft())
            waiting.append((batch, self._start(batch.clips)))
        while waiting:
            yield _collect(*waiting.popleft())

    def _start(self, clips: Sequence[SourceClip]) -> list[Callable[[], list[Read]]]:
        """The clips of a batch dealt out evenly, a part for each worker."""
        size = ceil(len(clips) / self.num_parts)
        return [self.workers.start(clips[i : i + size]) for i in range(0, len(clips), size)]


def _collect(batch: Batch, parts: Sequence[Callable[[], list[Read]]]) -> tuple[Batch, list[Read]]:
    return batch, [read for part in parts for read in part()]


def _crashed(clip: SourceClip) -> Read:
    return Reject(clip.id, readable(clip.path), CRASHED)


def read_all(clips: Sequence[SourceClip], sample_rate_hz: int) -> list[Read]:
    return SentTogether(_read(clip, sample_rate_hz) for clip in clips)


def _read(clip: SourceClip, sample_rate_hz: int) -> Read:
    sign_of_life()
    try:
        samples = gathered(read_clip_blocks(clip, sample_rate_hz, at_once=True))
    except UnreadableError as error:
        # A disk that went away, or a fault that may pass, must not become a reject for ever.
        raise StoppedError(
            f"{readable(clip.path)} could be read when the shards were planned, but not now ({error}): "
            "mend that and run the same command again to go on"
        ) from None
    except AudioError as error:
        return Reject(clip.id, readable(clip.path), str(error))
    return AudioClip(clip.id, samples, sample_rate_hz)
