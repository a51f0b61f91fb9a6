"""Shard after shard through the tokenizer: readers run ahead of it, and its failures are told apart."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from traceback import clear_frames
from typing import TypeVar

from slm.corpus.plan import PlannedClip, PlannedShard, Reject, too_short
from slm.corpus.readers import Batch, Read, Readers, make_batches
from slm.corpus.sources.base import SourceClip, readable
from slm.errors import StoppedError, UsageError, is_out_of_memory
from slm.tokenizers.base import EXACT, Tokenizer
from slm.types import AudioClip, Codes

Made = TypeVar("Made")

_BATCHES_AHEAD = 4
_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class EncodedShard:
    """The codes and rejects of one shard, both in the order of the plan, and its clips by id."""

    shard: PlannedShard
    codes: list[Codes]
    rejects: list[Reject]
    clips: dict[str, SourceClip]


def encode_shards(
    shards: Iterable[tuple[PlannedShard, list[PlannedClip]]],
    tokenizer: Tokenizer,
    batch_seconds: float,
    num_workers: int,
    proven: bool = False,
    on_batch: Callable[[float, tuple[Reject, ...]], None] = lambda duration_s, rejects: None,
    readers: Readers | None = None,
) -> Iterator[EncodedShard]:
    """Encode shard after shard; `on_batch` hears of the seconds of audio dealt with and the clips left out. `readers`
    are used and left as they are; without them `num_workers` are started, and ended with the last shard.

    A clip that cannot be decoded, is too short for a frame or makes the tokenizer fail becomes a reject. Raises
    StoppedError when a file is gone or cannot be opened since it was planned, or memory does not do for a clip;
    RuntimeError when the tokenizer fails on clip after clip, or on all that it gets unless it is `proven` by earlier
    shards: that is a fault of its own.
    """
    members: dict[int, list[PlannedClip]] = {}

    def batches() -> Iterator[Batch]:
        for shard, clips in shards:
            members[shard.index] = clips
            yield from make_batches(shard, clips, batch_seconds)

    encoder = _Encoder(tokenizer, proven)
    with nullcontext(readers) if readers else Readers(tokenizer.spec.sample_rate_hz, num_workers) as reading:
        read = reading.read_ahead(batches(), _BATCHES_AHEAD * batch_seconds)
        for shard, parts in groupby(encoder.encoded(read), key=lambda part: part[0].shard):
            codes: dict[str, Codes] = {}
            rejects: dict[str, Reject] = {}
            for batch, results in parts:
                found = [r for r in results if isinstance(r, Reject)]
                rejects.update((reject.id, reject) for reject in found)
                codes.update((c.id, c) for c in results if isinstance(c, Codes))
                on_batch(batch.duration_s, tuple(found))
            encoder.check_any_success()
            clips = {planned.clip.id: planned.clip for planned in members.pop(shard.index)}
            yield EncodedShard(
                shard,
                [codes[id] for id in clips if id in codes],
                [rejects[id] for id in clips if id in rejects],
                clips,
            )


class _Encoder:
    """A tokenizer that turns its failures on single clips into rejects, and stops when they are not single."""

    def __init__(self, tokenizer: Tokenizer, proven: bool):
        self.tokenizer = tokenizer
        self.failures_in_a_row = 0
        self.succeeded = proven
        self.last_error: Exception | None = None

    def encoded(self, read: Iterable[tuple[Batch, list[Read]]]) -> Iterator[tuple[Batch, list[Codes | Reject]]]:
        """Each batch with what became of its clips, in order. A tokenizer that runs ahead is given the next batch
        before it is asked for this one."""
        begun: deque[tuple[Batch, Callable[[], list[Codes | Reject]]]] = deque()
        for batch, results in read:
            begun.append((batch, self._start(batch, results)))
            results.clear()  # audio, which would be held while the next is read
            while len(begun) > int(self.tokenizer.runs_ahead):
                yield _finished(*begun.popleft())
        while begun:
            yield _finished(*begun.popleft())

    def _start(self, batch: Batch, results: Sequence[Read]) -> Callable[[], list[Codes | Reject]]:
        paths = {clip.id: readable(clip.path) for clip in batch.clips}
        rejects = [r for r in results if isinstance(r, Reject)]
        audio = [r for r in results if isinstance(r, AudioClip)]
        wait = self._attempt(lambda: self.tokenizer.start(audio))

        def finish() -> list[Codes | Reject]:
            made = None if wait is None else self._attempt(wait)
            if made is None:  # here, where the error no longer holds what the batch had in memory
                return [*rejects, *(self._encode_alone(clip, paths[clip.id]) for clip in audio)]
            return [*rejects, *(self._accept(codes, paths[codes.id]) for codes in made)]

        return finish

    def _attempt(self, work: Callable[[], Made]) -> Made | None:
        """None where it fails by what may be the fault of a clip."""
        try:
            return work()
        except Exception as error:
            self._raise_if_not_the_clips_fault(error)
            return None

    def _encode_alone(self, clip: AudioClip, path: str) -> Codes | Reject:
        try:
            (codes,) = self.tokenizer.encode([clip])
        except Exception as error:
            self._raise_if_not_the_clips_fault(error)
            if is_out_of_memory(error):
                whole = f"take mode exact instead of {self.tokenizer.mode}, which codes all in tensors of one size, "
                raise StoppedError(
                    f"no memory to encode {path} ({clip.duration_s:.1f} s): lower --batch_seconds or --processes, "
                    f"{whole if self.tokenizer.mode != EXACT else ''}or cut long recordings by --segmentation"
                ) from None
            # Where in the tokenizer it failed is told, without what its frames held of the clip.
            self.last_error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
            clear_frames(self.last_error.__traceback__)
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= _FAILURES_IN_A_ROW:
                self._give_up(f"failed on {self.failures_in_a_row} clips in a row")
            return Reject(clip.id, path, f"tokenizer failed: {type(error).__name__}: {' '.join(str(error).split())}")
        return self._accept(codes, path)

    def _accept(self, codes: Codes, path: str) -> Codes | Reject:
        self.succeeded, self.failures_in_a_row = True, 0
        if len(codes.codes) == 0:
            return Reject(codes.id, path, too_short(codes.num_samples, self.tokenizer.spec))
        return codes

    @staticmethod
    def _raise_if_not_the_clips_fault(error: Exception) -> None:
        """Wrong use, a full disk, and a CUDA error, after which every later call in this process fails too."""
        if isinstance(error, (UsageError, StoppedError, OSError)) or "CUDA error" in str(error):
            raise error

    def check_any_success(self) -> None:
        if self.last_error is not None and not self.succeeded:
            self._give_up("failed on every clip")

    def _give_up(self, what: str) -> None:
        raise RuntimeError(
            f"the tokenizer {self.tokenizer.spec.name} {what}; the last time: "
            f"{type(self.last_error).__name__}: {self.last_error}"
        ) from self.last_error


def _finished(batch: Batch, finish: Callable[[], list[Codes | Reject]]) -> tuple[Batch, list[Codes | Reject]]:
    return batch, finish()
