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
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from slm.corpus.changes import SourceHash, are_as_found, chunks
from slm.corpus.columns import OF_SEGMENTS, ColumnTypes
from slm.corpus.plan import (
    FORMAT,
    SCHEMA,
    NothingUsableError,
    Plan,
    PlanHead,
    PlannedShard,
    Reject,
    kind_of,
    located,
    sort_kinds,
)
from slm.corpus.probing import probe_clips
from slm.corpus.segmentation import Segmentation
from slm.corpus.sources.base import Source, SourceClip, describe_nothing, readable
from slm.corpus.workers import CRASHED, Workers
from slm.errors import UsageError
from slm.files import atomic_file, write_json
from slm.types import TokenizerSpec

PARTS = "plan.parts"
MAX_CODES = 2**31 - 1
"""Of all codebooks, in a shard: what Arrow writes in one array."""
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

    Clips that cannot be opened, are too short for one frame or have the id of one before them are left out, with the
    reason. UsageError when none is left, and for what the source cannot list. `num_workers` processes probe; 0: a
    thread.
    """
    parts = out / PARTS
    parts.mkdir(exist_ok=True)
    listed, types = SourceHash(source.base), ColumnTypes()
    made = _probed_parts(parts, _listed(source, listed, types, settings), source.base, spec, settings, num_workers)
    with atomic_file(out / "plan.arrow") as temporary:
        dealer = _deal_out(temporary, made, settings, on_probed)
        if twice := dealer.twice(temporary):
            dealer = _deal_out(parts / "unique.arrow", _first_of_each(temporary, twice), settings, on_probed)
            os.replace(parts / "unique.arrow", temporary)
        dealer.check(source)
        check_sizes(dealer.shards, spec)
    columns = {name: kind for name, kind in types.result().items() if name not in OF_SEGMENTS}
    if dealer.any_segment:
        columns |= OF_SEGMENTS
    kinds, shards, outside_s = sort_kinds(dealer.rejects), tuple(dealer.shards), round(dealer.outside_s, 3)
    head = PlanHead(FORMAT, settings.to_dict(), listed.hexdigest(), columns, dealer.num_rows, outside_s, kinds, shards)
    write_json(out / "plan.json", head.to_dict())
    shutil.rmtree(parts, ignore_errors=True)
    return Plan(out, source.base)


def check_sizes(shards: Iterable[PlannedShard], spec: TokenizerSpec) -> None:
    """UsageError for a shard that would hold more codes than can be written: a frame too many of each clip counts."""
    for shard in shards:
        frames = shard.duration_s * spec.frame_rate_hz + shard.num_clips
        if frames * spec.num_codebooks <= MAX_CODES:
            continue
        hours = shard.duration_s / 3600
        if shard.num_clips == 1:
            raise UsageError(f"a clip of {hours:,.0f} h has more codes than a shard can hold: cut it by --segmentation")
        fits = 0.99 * hours * MAX_CODES / (frames * spec.num_codebooks)
        raise UsageError(
            f"a shard of {hours:,.0f} h would hold more codes of {spec.name} than can be written in one: give "
            f"--shard_hours {fits:.4g} or less"
        )


def _listed(
    source: Source, listed: SourceHash, types: ColumnTypes, settings: PlanSettings
) -> Iterator[tuple[list[SourceClip], str]]:
    """Clips by the chunk, each with a digest."""
    decodes = settings.segmentation.segmenter().reads_samples
    for part in chunks(source.clips(), _DECODED_AT_ONCE) if decodes else chunks(source.clips()):
        for clip in part:
            types.add(clip.metadata)
        yield part, listed.add(part)


def _deal_out(
    path: Path, tables: Iterable[pa.Table], settings: PlanSettings, on_probed: Callable[[int], None]
) -> _Dealer:
    """Write the rows of a plan while they are dealt out."""
    dealer = _Dealer(settings.shard_hours * 3600)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)
            dealer.add(table)
            on_probed(dealer.num_rows)
    dealer.end()
    return dealer


def _tables(path: Path) -> Iterator[pa.Table]:
    with pa.memory_map(str(path)) as source:
        file = pa.ipc.open_file(source)
        for i in range(file.num_record_batches):
            yield pa.Table.from_batches([file.get_batch(i)])


def _first_of_each(path: Path, twice: set[str]) -> Iterator[pa.Table]:
    """The same rows; of those that share an id, all behind the first that can be used are left out."""
    seen: set[str] = set()
    for table in _tables(path):
        reasons = table["reason"].to_pylist()
        for row, id in enumerate(table["id"].to_pylist()):
            if id in twice and reasons[row] is None:
                reasons[row] = "id not unique: a clip before it has the same" if id in seen else None
                seen.add(id)
        column = SCHEMA.get_field_index("reason")
        yield table.set_column(column, SCHEMA.field(column), pa.array(reasons, pa.string()))


def _probed_parts(
    parts: Path,
    listed: Iterable[tuple[list[SourceClip], str]],
    base: str,
    spec: TokenizerSpec,
    settings: PlanSettings,
    num_workers: int,
) -> Iterator[pa.Table]:
    """The rows of each chunk, in order: read from its part file where an earlier run left it, else probed."""
    probe = partial(probe_clips, base=base, spec=spec, segmentation=settings.segmentation)
    waiting: deque[tuple[Path, str, pa.Table | Callable[[], list[pa.Table]]]] = deque()
    workers = Workers(probe, partial(_crashed, probe), num_workers, num_threads=1)
    try:
        for index, (clips, digest) in enumerate(listed):
            path, key = parts / f"{index:06d}.arrow", _chunk_key(digest, spec, settings)
            waiting.append((path, key, _read_part(path, key, base) or workers.start(clips)))
            if len(waiting) > num_workers + 1:
                yield _finished_part(*waiting.popleft())
        while waiting:
            yield _finished_part(*waiting.popleft())
    finally:
        workers.shutdown()


def _crashed(probe: Callable[..., list[pa.Table]], clip: SourceClip) -> pa.Table:
    """The rows of a clip that is not probed: its file brought down the process that did."""
    return probe([clip], fault=CRASHED)[0]


def _chunk_key(digest: str, spec: TokenizerSpec, settings: PlanSettings) -> str:
    """Changes with all that decides the rows of a chunk, but for the files themselves."""
    frames = [spec.sample_rate_hz, spec.hop_samples, spec.frame_offset_samples]
    version = settings.segmentation.segmenter().version
    return hashlib.sha256(json.dumps([digest, frames, settings.to_dict(), version]).encode()).hexdigest()


def _read_part(path: Path, key: str, base: str) -> pa.Table | None:
    """What an earlier run found, if it was asked the same of files that are as they were."""
    try:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowInvalid):
        return None
    same = (table.schema.metadata or {}).get(b"key") == key.encode() and are_as_found(table, base)
    return table.replace_schema_metadata(None) if same else None


def _finished_part(path: Path, key: str, made: pa.Table | Callable[[], list[pa.Table]]) -> pa.Table:
    if isinstance(made, pa.Table):
        return made
    table = pa.concat_tables(made()).combine_chunks()
    kept = table.replace_schema_metadata({"key": key})
    with (
        atomic_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as file,
        pa.ipc.new_file(file, kept.schema) as writer,
    ):
        writer.write_table(kept)
    return table


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
        self._start = self._stop = self._num_clips = 0  # the shard that is filled
        self._duration_s = 0.0
        self._hashes: list[np.ndarray] = []

    def add(self, table: pa.Table) -> None:
        usable = table["reason"].is_null()
        used, outside_s = table.filter(usable), table["outside_s"].to_numpy()
        self.outside_s += sum(outside_s[outside_s != 0].tolist())
        self.any_segment |= bool((used["start_s"].to_numpy() > 0).any()) or used["end_s"].null_count < len(used)
        self._hashes.append(np.array(list(map(hash, table["id"].to_pylist())), np.int64))
        for row, (is_usable, duration_s) in enumerate(
            zip(usable.to_pylist(), table["duration_s"].to_pylist(), strict=True)
        ):
            if is_usable:
                self._deal(duration_s)
            else:
                self._leave_out(*(table[name][row].as_py() for name in ("id", "path", "reason")))
            self.num_rows += 1

    def _leave_out(self, id: str, path: bytes, reason: str) -> None:
        self.rejects[kind_of(reason)] += 1
        self.first_reject = self.first_reject or Reject(id, os.fsdecode(path), reason)

    def _deal(self, duration_s: float) -> None:
        if not self._num_clips or self._duration_s + duration_s > self.shard_s:
            self.end()
            self._start, self._num_clips, self._duration_s = self.num_rows, 0, 0.0
        self._stop = self.num_rows + 1
        self._num_clips += 1
        self._duration_s += duration_s

    def end(self) -> None:
        """The shard that is filled is done."""
        if self._num_clips:
            made = PlannedShard(len(self.shards), self._start, self._stop, self._num_clips, self._duration_s)
            self.shards.append(made)
        self._num_clips = 0

    def twice(self, path: Path) -> set[str]:
        """The ids that come more than once in the rows that were written there."""
        found, counts = np.unique(np.concatenate(self._hashes or [np.zeros(0)]), return_counts=True)
        doubtful, seen = set(found[counts > 1].tolist()), Counter[str]()
        for table in _tables(path) if doubtful else ():
            seen.update(id for id in table["id"].to_pylist() if hash(id) in doubtful)
        return {id for id, count in seen.items() if count > 1}

    def check(self, source: Source) -> None:
        """UsageError where nothing can be used."""
        if not self.num_rows:
            raise UsageError(describe_nothing(source))
        if not self.shards and self.first_reject:
            path = located(os.fsencode(self.first_reject.path), source.base)
            raise NothingUsableError(sort_kinds(self.rejects), replace(self.first_reject, path=readable(path)))
