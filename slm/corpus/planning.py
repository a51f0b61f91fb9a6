"""Making the plan of a corpus: list, probe in parallel, deal out to shards.

The listing goes in chunks of ten thousand clips. Workers open the headers of a chunk, and what they find is kept in a
part file at once, so that a plan that was stopped goes on where it was. Only one chunk for each worker is in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slm.audio import AudioInfo
from slm.corpus.changes import SourceHash, chunks, file_digest
from slm.corpus.columns import ColumnTypes
from slm.corpus.plan import (
    FORMAT,
    SCHEMA,
    NothingUsableError,
    Plan,
    PlanHead,
    PlannedShard,
    Reject,
    kind_of,
    sort_kinds,
    stored_path,
    too_short,
)
from slm.corpus.reading import probe_clip
from slm.corpus.segmentation import Segmentation
from slm.corpus.segmenters import NoSpeechError, Segmenter
from slm.corpus.sources.base import Source, SourceClip, check_unique, readable
from slm.corpus.workers import CRASHED, worker_processes
from slm.errors import AudioError, UsageError
from slm.files import atomic_file, write_json
from slm.types import TokenizerSpec

_PARTS = "plan.parts"
_DECODED_AT_ONCE = 32  # clips in a part where segmentation decodes them: an hour each, perhaps


@dataclass(frozen=True)
class PlanSettings:
    """What decides, beside the source and the tokenizer's frames, which clips there are and in which shard."""

    shard_hours: float
    segmentation: Segmentation = field(default_factory=Segmentation)

    def to_dict(self) -> dict[str, Any]:
        return {"shard_hours": self.shard_hours, "segmentation": self.segmentation.to_dict()}


def make_plan(
    out: Path,
    source: Source,
    spec: TokenizerSpec,
    settings: PlanSettings,
    num_workers: int,
    on_probed: Callable[[int], None] = lambda probed: None,
) -> Plan:
    """Probe every clip and deal them out, in the source's order, to shards of `shard_hours`; write and return the plan.

    Clips that cannot be opened or are too short for one frame are left out, with the reason. UsageError when none is
    left, when ids are not unique, and for what the source cannot list. `num_workers` processes probe; 0: threads.
    """
    parts = out / _PARTS
    parts.mkdir(exist_ok=True)
    listed, types = SourceHash(source.base), ColumnTypes()
    made = _probed_parts(parts, _listed(source, listed, types, settings), source.base, spec, settings, num_workers)
    dealer = _Dealer(settings.shard_hours * 3600)
    with atomic_file(out / "plan.arrow") as temporary, pa.OSFile(str(temporary), "wb") as file:
        with pa.ipc.new_file(file, SCHEMA) as writer:
            for table in made:
                writer.write_table(table)
                dealer.add(table)
                on_probed(dealer.num_rows)
        dealer.check(source, lambda: _ids(temporary))
    columns = types.result()
    if dealer.any_segment:
        columns = {**columns, "source": "string", "start_s": "float64", "end_s": "float64"}
    kinds, shards = sort_kinds(dealer.rejects), tuple(dealer.shards)
    head = PlanHead(
        FORMAT, settings.to_dict(), listed.hexdigest(), columns, dealer.num_rows, dealer.outside_s, kinds, shards
    )
    write_json(out / "plan.json", head.to_dict())
    shutil.rmtree(parts)
    return Plan(out, source.base)


def _listed(
    source: Source, listed: SourceHash, types: ColumnTypes, settings: PlanSettings
) -> Iterator[list[SourceClip]]:
    decodes = settings.segmentation.segmenter().reads_samples
    for part in chunks(source.clips(), _DECODED_AT_ONCE) if decodes else chunks(source.clips()):
        for clip in part:
            listed.add(clip)
            types.add(clip.metadata)
        yield part


def _ids(path: Path) -> Iterator[str]:
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for i in range(file.num_record_batches):
            yield from file.get_batch(i).column("id").to_pylist()


def _probed_parts(
    parts: Path,
    listed: Iterable[list[SourceClip]],
    base: str,
    spec: TokenizerSpec,
    settings: PlanSettings,
    num_workers: int,
) -> Iterator[pa.Table]:
    """The rows of each chunk, in order: read from its part file where an earlier run left it, else probed."""
    probe_chunk = partial(_probe_chunk, base=base, spec=spec, segmentation=settings.segmentation)
    waiting: deque[tuple[Path, str, pa.Table | Callable[[], pa.Table]]] = deque()
    prober = _Prober(probe_chunk, num_workers)
    try:
        for index, clips in enumerate(listed):
            path, key = parts / f"{index:06d}.arrow", _chunk_key(clips, base, spec, settings)
            waiting.append((path, key, _read_part(path, key) or prober.start(clips)))
            if len(waiting) > num_workers + 1:
                yield _finished_part(*waiting.popleft())
        while waiting:
            yield _finished_part(*waiting.popleft())
    finally:
        prober.shutdown()


class _Prober:
    """Runs `probe(clips, fault=None)` in processes (0: a thread). A file that takes its process with it is found by
    halving the chunk, and probed no more: its rows say so by `fault`."""

    def __init__(self, probe: Callable[..., pa.Table], num_workers: int):
        self.probe, self.num_workers = probe, num_workers
        self._pool = self._new_pool()

    def _new_pool(self) -> Executor:
        return worker_processes(self.num_workers) if self.num_workers else ThreadPoolExecutor(1)

    def start(self, clips: list[SourceClip]) -> Callable[[], pa.Table]:
        """Begin; what is returned waits for the end."""
        try:
            future, pool = self._pool.submit(self.probe, clips), self._pool
        except BrokenProcessPool:
            self._pool = self._new_pool()
            future, pool = self._pool.submit(self.probe, clips), self._pool
        return partial(self._result, clips, future, pool)

    def _result(self, clips: list[SourceClip], future: Future[pa.Table], pool: Executor) -> pa.Table:
        try:
            return future.result()
        except BrokenProcessPool:
            if pool is self._pool:
                self._pool = self._new_pool()
            return self._alone(clips)

    def _alone(self, clips: list[SourceClip]) -> pa.Table:
        with worker_processes(1) as pool:
            try:
                return pool.submit(self.probe, clips).result()
            except BrokenProcessPool:
                if len(clips) == 1:
                    return self.probe(clips, fault=CRASHED)
        half = len(clips) // 2
        return pa.concat_tables([self._alone(clips[:half]), self._alone(clips[half:])])

    def shutdown(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _chunk_key(clips: list[SourceClip], base: str, spec: TokenizerSpec, settings: PlanSettings) -> str:
    listed = SourceHash(base)
    for clip in clips:
        listed.add(clip)
    frames = [spec.sample_rate_hz, spec.hop_samples, spec.frame_offset_samples]
    version = settings.segmentation.segmenter().version
    return hashlib.sha256(json.dumps([listed.hexdigest(), frames, settings.to_dict(), version]).encode()).hexdigest()


def _read_part(path: Path, key: str) -> pa.Table | None:
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowInvalid):
        return None
    metadata = table.schema.metadata or {}
    return table.replace_schema_metadata(None) if metadata.get(b"key") == key.encode() else None


def _finished_part(path: Path, key: str, made: pa.Table | Callable[[], pa.Table]) -> pa.Table:
    if isinstance(made, pa.Table):
        return made
    table = made()
    kept = table.replace_schema_metadata({"key": key})
    with (
        atomic_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, kept.schema) as writer,
    ):
        writer.write_table(kept)
    return table


@dataclass(frozen=True)
class _File:
    """What is known of a file: its header, or why it has none, and its identity."""

    info: AudioInfo | str
    num_bytes: int
    mtime_ns: int
    digest: str


def _probe_chunk(
    clips: list[SourceClip], base: str, spec: TokenizerSpec, segmentation: Segmentation, fault: str | None = None
) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    segmenter = segmentation.segmenter()
    key, file = None, None
    for clip in clips:
        if file is None or key != (clip.path, clip.member):
            key, file = (clip.path, clip.member), _look_into(clip, fault)
        rows += _rows(clip, file, base, spec, segmentation, segmenter)
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _look_into(clip: SourceClip, fault: str | None) -> _File:
    info: AudioInfo | str
    try:
        info = fault or probe_clip(clip)
    except AudioError as error:
        info = str(error)
    try:
        found = os.stat(clip.path)
        return _File(info, found.st_size, found.st_mtime_ns, file_digest(clip.path))
    except (OSError, ValueError):
        return _File(info, -1, -1, "")


def _rows(
    clip: SourceClip, file: _File, base: str, spec: TokenizerSpec, segmentation: Segmentation, segmenter: Segmenter
) -> Iterator[tuple[Any, ...]]:
    for piece, found, outside_s in _segments(clip, file.info, segmenter):
        reason = found if isinstance(found, str) else segmentation.complaint(found) or _too_short(found, spec)
        metadata = json.dumps(dict(piece.metadata), ensure_ascii=False, default=str) if piece.metadata else ""
        yield (
            *(piece.id, stored_path(piece.path, base), piece.member, piece.start_s, piece.end_s, metadata),
            *(0.0 if isinstance(found, str) else found, outside_s, reason),
            *(file.num_bytes, file.mtime_ns, file.digest),
        )


def _segments(
    clip: SourceClip, info: AudioInfo | str, segmenter: Segmenter
) -> Iterator[tuple[SourceClip, float | str, float]]:
    """The clip or what it is cut into, each with its length in seconds, or the reason why it has none, and with the
    seconds that are in no segment, told by the first."""
    if isinstance(info, str):
        yield clip, info, 0.0
        return
    try:
        info.segment(clip.start_s, clip.end_s)
        end_s = info.duration_s if clip.end_s is None else min(clip.end_s, info.duration_s)
        cuts = segmenter.cut(clip, info)
    except NoSpeechError as error:
        yield clip, str(error), end_s - clip.start_s
        return
    except AudioError as error:
        yield clip, str(error), 0.0
        return
    spans = [(start_s, end_s if stop_s is None else min(stop_s, end_s)) for start_s, stop_s in cuts]
    if cuts == [(clip.start_s, clip.end_s)]:
        yield _with_times(clip, end_s), end_s - clip.start_s, 0.0
        return
    outside_s = max(0.0, end_s - clip.start_s - sum(stop_s - start_s for start_s, stop_s in spans))
    for i, (cut, span) in enumerate(zip(cuts, spans, strict=True)):
        piece = replace(clip, id=f"{clip.id}#{i}", start_s=cut[0], end_s=cut[1])
        yield _with_times(piece, span[1], clip.id), span[1] - span[0], 0.0 if i else outside_s


def _with_times(piece: SourceClip, end_s: float, source: str | None = None) -> SourceClip:
    """A segment tells in its metadata of what it is one, and which."""
    if piece.start_s == 0 and piece.end_s is None:
        return piece
    own = {"source": source or piece.metadata.get("source") or readable(piece.path)}
    return replace(piece, metadata={**piece.metadata, **own, "start_s": piece.start_s, "end_s": end_s})


def _too_short(duration_s: float, spec: TokenizerSpec) -> str | None:
    """Sure only below a margin of one sample: resampling rounds. The rest is seen when the clip is read."""
    num_samples = round(duration_s * spec.sample_rate_hz)
    return too_short(num_samples, spec) if spec.num_frames(num_samples + 1) == 0 else None


class _Dealer:
    """Deals clips out, in their order, to shards: the next one where `shard_s` would be passed; a longer clip has a
    shard of its own. Counts what is left out, and keeps a hash of each id to see that none comes twice."""

    def __init__(self, shard_s: float):
        self.shard_s = shard_s
        self.shards: list[PlannedShard] = []
        self.rejects: Counter[str] = Counter()
        self.first_reject: Reject | None = None
        self.num_rows = 0
        self.outside_s = 0.0
        self.any_segment = False
        self._hashes: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        columns = (table[name].to_pylist() for name in ("id", "path", "duration_s", "reason", "start_s", "end_s"))
        self.outside_s += sum(table["outside_s"].to_pylist())
        hashes = []
        for id, path, duration_s, reason, start_s, end_s in zip(*columns, strict=True):
            hashes.append(hash(id))
            if reason is None:
                self._deal(duration_s)
                self.any_segment |= start_s > 0 or end_s is not None
            else:
                self.rejects[kind_of(reason)] += 1
                self.first_reject = self.first_reject or Reject(id, readable(path), reason)
            self.num_rows += 1
        self._hashes.append(np.array(hashes, np.int64))

    def _deal(self, duration_s: float) -> None:
        row = self.num_rows
        if not self.shards or self.shards[-1].duration_s + duration_s > self.shard_s:
            self.shards.append(PlannedShard(len(self.shards), row, row + 1, 1, duration_s))
            return
        last = self.shards[-1]
        whole = last.duration_s + duration_s
        self.shards[-1] = PlannedShard(last.index, last.start, row + 1, last.num_clips + 1, whole)

    def check(self, source: Source, ids: Callable[[], Iterable[str]]) -> None:
        """UsageError where nothing can be used, or an id comes twice."""
        if not self.num_rows:
            raise UsageError(f"no audio files in {source.location}; give {source.about}")
        if not self.shards and self.first_reject:
            raise NothingUsableError(sort_kinds(self.rejects), self.first_reject)
        found, counts = np.unique(np.concatenate(self._hashes), return_counts=True)
        doubtful = set(found[counts > 1].tolist())
        if doubtful:
            seen = Counter(id for id in ids() if hash(id) in doubtful)
            check_unique(source.location, [id for id, count in seen.items() if count > 1])
