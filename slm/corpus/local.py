"""The engine of one machine: threads read and resample ahead of the device, the tokenizer encodes batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from slm.audio import read_audio
from slm.corpus.plan import PlannedShard, Reject, too_short
from slm.corpus.sources import SourceClip, readable
from slm.errors import AudioError, UnreadableError, UsageError
from slm.tokenizers.base import Tokenizer
from slm.types import AudioClip, Codes

_BATCHES_AHEAD = 4
_FAILURES_IN_A_ROW = 20


@dataclass(frozen=True)
class Batch:
    """Clips of about one length, of one shard; `padded_s` is their number times the longest."""

    shard: PlannedShard
    clips: tuple[SourceClip, ...]
    duration_s: float
    padded_s: float


@dataclass(frozen=True)
class EncodedShard:
    """The codes and rejects of one shard, both in the order of the plan."""

    shard: PlannedShard
    codes: list[Codes]
    rejects: list[Reject]


def encode_shards(
    shards: Sequence[PlannedShard],
    clips: Mapping[str, SourceClip],
    tokenizer: Tokenizer,
    batch_seconds: float,
    num_workers: int,
    proven: bool = False,
    on_batch: Callable[[float, int], None] = lambda seconds, rejects: None,
) -> Iterator[EncodedShard]:
    """Encode shard after shard; `on_batch` hears of the seconds of audio dealt with and the clips left out.

    A clip that cannot be decoded, is too short for a frame or makes the tokenizer fail becomes a reject. Raises
    UsageError when a file is gone or cannot be opened since it was planned; RuntimeError when the tokenizer fails on
    clip after clip, or on all that it gets unless it is `proven` by earlier shards: that is a fault of its own.
    """
    rate_hz = tokenizer.spec.sample_rate_hz
    batches = (batch for shard in shards for batch in make_batches(shard, clips, batch_seconds))
    read = read_ahead(batches, rate_hz, num_workers, _BATCHES_AHEAD * batch_seconds)
    encoder = _Encoder(tokenizer, proven)
    for shard, parts in groupby(read, key=lambda part: part[0].shard):
        codes: dict[str, Codes] = {}
        rejects: dict[str, Reject] = {}
        for batch, results in parts:
            found = [r for r in results if isinstance(r, Reject)]
            made = encoder.encode(batch, [r for r in results if isinstance(r, AudioClip)])
            found += [r for r in made if isinstance(r, Reject)]
            rejects.update((reject.id, reject) for reject in found)
            codes.update((c.id, c) for c in made if isinstance(c, Codes))
            on_batch(batch.duration_s, len(found))
        encoder.check_any_success()
        yield EncodedShard(
            shard,
            [codes[id] for id in shard.ids if id in codes],
            [rejects[id] for id in shard.ids if id in rejects],
        )


def make_batches(shard: PlannedShard, clips: Mapping[str, SourceClip], batch_seconds: float) -> Iterator[Batch]:
    """The clips of a shard, longest first (so that a lack of memory shows early), in batches of `batch_seconds`."""
    by_length = sorted(zip(shard.ids, shard.durations_s, strict=True), key=lambda clip: -clip[1])
    part: list[tuple[str, float]] = []
    for id, duration_s in by_length:
        if part and (len(part) + 1) * part[0][1] > batch_seconds:
            yield _batch(shard, clips, part)
            part = []
        part.append((id, duration_s))
    yield _batch(shard, clips, part)


def _batch(shard: PlannedShard, clips: Mapping[str, SourceClip], part: Sequence[tuple[str, float]]) -> Batch:
    members = tuple(clips[id] for id, _ in part)
    return Batch(shard, members, sum(seconds for _, seconds in part), len(part) * part[0][1])


Read = AudioClip | Reject


def read_ahead(
    batches: Iterable[Batch], sample_rate_hz: int, num_workers: int, ahead_s: float
) -> Iterator[tuple[Batch, list[Read]]]:
    """Each batch with its audio, in order, while threads read on: at most `ahead_s` seconds (or one batch) ahead."""
    pending: deque[tuple[Batch, list[Future[Read]]]] = deque()
    pool = ThreadPoolExecutor(num_workers)
    try:
        for batch in batches:
            while pending and sum(waiting.padded_s for waiting, _ in pending) + batch.padded_s > ahead_s:
                yield _collect(pending.popleft())
            pending.append((batch, [pool.submit(_read, clip, sample_rate_hz) for clip in batch.clips]))
        while pending:
            yield _collect(pending.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collect(waiting: tuple[Batch, list[Future[Read]]]) -> tuple[Batch, list[Read]]:
    batch, futures = waiting
    return batch, [future.result() for future in futures]


def _read(clip: SourceClip, sample_rate_hz: int) -> Read:
    try:
        samples = read_audio(clip.path, sample_rate_hz, clip.start_s, clip.end_s)
    except UnreadableError as error:
        # A disk that went away, or a fault that may pass, must not become a reject for ever.
        raise UsageError(
            f"{readable(clip.path)} could be read when the shards were planned, but not now ({error}): "
            "mend that and run the same command again to go on"
        ) from None
    except AudioError as error:
        return Reject(clip.id, readable(clip.path), str(error))
    return AudioClip(clip.id, samples, sample_rate_hz)


class _Encoder:
    """A tokenizer that turns its failures on single clips into rejects, and stops when they are not single."""

    def __init__(self, tokenizer: Tokenizer, proven: bool):
        self.tokenizer = tokenizer
        self.failures_in_a_row = 0
        self.succeeded = proven
        self.last_error: Exception | None = None

    def encode(self, batch: Batch, audio: Sequence[AudioClip]) -> list[Codes | Reject]:
        paths = {clip.id: readable(clip.path) for clip in batch.clips}
        try:
            made = self.tokenizer.encode(audio)
        except Exception as error:
            self._raise_if_not_the_clips_fault(error)
            return [self._encode_alone(clip, paths[clip.id]) for clip in audio]
        return [self._accept(codes, paths[codes.id]) for codes in made]

    def _encode_alone(self, clip: AudioClip, path: str) -> Codes | Reject:
        try:
            (codes,) = self.tokenizer.encode([clip])
        except Exception as error:
            self._raise_if_not_the_clips_fault(error)
            self.last_error = error
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
        if isinstance(error, (UsageError, OSError)) or "CUDA error" in str(error):
            raise error

    def check_any_success(self) -> None:
        if self.last_error is not None and not self.succeeded:
            self._give_up("failed on every clip")

    def _give_up(self, what: str) -> None:
        raise RuntimeError(
            f"the tokenizer {self.tokenizer.spec.name} {what}; the last time: {self.last_error}"
        ) from self.last_error
