"""Whether one shard holds what it should: its bytes, its columns, its codes, its clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm.corpus.columns import RESERVED
from slm.corpus.seal import is_intact
from slm.corpus.shards import ShardRecord, frame_blocks, read_record
from slm.corpus.tools.finished import clip_frames, hash_ids
from slm.types import TokenizerSpec


@dataclass(frozen=True)
class ShardFinding:
    """What is wrong with a shard; what it says of itself (None where it cannot be read; without its counts, which take
    memory); and where its own columns are right, the types of those of its metadata, and the hashes `[clips]` of its
    ids, as this process has them."""

    faults: tuple[str, ...]
    record: ShardRecord | None = None
    columns: Mapping[str, str] | None = None
    hashes: np.ndarray | None = None


def examine_shard(path: Path, spec: TokenizerSpec, planned: Sequence[str] | None) -> ShardFinding:
    """Read all of a shard; `planned` are the ids that belong in it, in order, where there is a plan.

    Nothing is read from a file as Arrow data before its digest has shown that it is what was once written.
    """
    try:
        record = read_record(path)
        if not is_intact(path, record.seal):
            return ShardFinding(("damaged: its bytes are not those that were written (sha256)",))
        if record.tokenizer != spec.fingerprint:
            named = f"[{record.tokenizer[:12]}], and not of {spec.describe()}"
            return ShardFinding((f"it holds codes of another tokenizer {named}",), replace(record, counts=()))
    except (KeyError, TypeError):
        return ShardFinding(("written by another program: it has no record of its clips",))
    except (OSError, ValueError, pa.ArrowException) as error:  # JSON's are ValueErrors
        return ShardFinding((f"damaged: it cannot be read ({_short(error)})",))
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
        if faults := tuple(_column_faults(table.schema, spec)):
            return ShardFinding(faults, record)
        ids = table.column("id").to_pylist()
        faults = (*_content_faults(table, record, spec), *_clip_faults(ids, record, planned))
        columns = {field.name: str(field.type) for field in table.schema if field.name not in RESERVED}
        return ShardFinding(faults, replace(record, counts=()), columns, hash_ids(ids))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:100]


def _column_faults(schema: pa.Schema, spec: TokenizerSpec) -> Iterator[str]:
    own = {
        "id": pa.string(),
        "codes": pa.list_(pa.list_(pa.from_numpy_dtype(spec.code_dtype), spec.num_codebooks)),
        "num_samples": pa.int64(),
        "duration_s": pa.float32(),
    }
    for name, type_ in own.items():
        found = schema.field(name).type if name in schema.names else "absent"
        if found != type_:
            yield f"its column {name} is {found}, and not {type_}"


def _content_faults(table: pa.Table, record: ShardRecord, spec: TokenizerSpec) -> Iterator[str]:
    """What the rows say against the tokenizer, and against the shard's own record."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        yield f"its table is not sound ({_short(error)})"
        return
    if nulls := [name for name in ("id", "codes", "num_samples", "duration_s") if table.column(name).null_count]:
        yield f"it has rows without {' and '.join(nulls)}"
        return
    samples = table.column("num_samples").to_numpy()
    lengths = clip_frames(table)
    expected = np.array([spec.num_frames(n) for n in samples.tolist()], np.int64)
    yield from _of_clips(table, lengths != expected, "have another number of frames than the tokenizer gives them")
    durations = table.column("duration_s").to_numpy()
    wrong = ~np.isclose(durations, samples / spec.sample_rate_hz, rtol=1e-6)
    yield from _of_clips(table, wrong, "have a duration_s that is not num_samples / sample rate")
    found = (table.num_rows, int(samples.sum()), int(lengths.sum()))
    if found != (record.num_clips, record.num_samples, record.num_frames):
        yield f"it holds {found[0]} clips of {found[1]} samples and {found[2]} frames, and its record says otherwise"
    yield from _code_faults(table, record, spec)


def _of_clips(table: pa.Table, wrong: np.ndarray, what: str) -> Iterator[str]:
    if wrong.any():
        example = table.column("id")[int(np.argmax(wrong))].as_py()
        yield f"{int(wrong.sum())} of its clips {what}, such as {example!r}"


def _code_faults(table: pa.Table, record: ShardRecord, spec: TokenizerSpec) -> Iterator[str]:
    counts = [np.zeros(size, np.int64) for size in spec.codebook_sizes]
    for block in frame_blocks(table, spec.num_codebooks):
        for k, count in enumerate(counts):
            if len(block) and (highest := int(block[:, k].max())) >= len(count):
                yield f"codebook {k} has {len(count)} codes, and here is code {highest}"
                return
            count += np.bincount(block[:, k], minlength=len(count))
    if [count.tolist() for count in counts] != [count.tolist() for count in record.counts]:
        yield "its record tells other counts of codes than there are"


def _clip_faults(ids: Sequence[str], record: ShardRecord, planned: Sequence[str] | None) -> Iterator[str]:
    """What the ids say against the plan: each planned clip is a row or a reject, in order."""
    if planned is None:
        return
    left_out = {reject.id for reject in record.rejects}
    expected = [id for id in planned if id not in left_out]
    if list(ids) == expected and left_out <= set(planned):
        return
    missing, extra = set(expected) - set(ids), (set(ids) | left_out) - set(planned)
    doubled = left_out & set(ids)
    if missing:
        yield f"{len(missing)} clips of the plan are neither in it nor among its rejects, such as {_first(missing)}"
    if extra:
        yield f"{len(extra)} clips in it are not planned for it, such as {_first(extra)}"
    if doubled:
        yield f"{len(doubled)} clips are in it and among its rejects, such as {_first(doubled)}"
    if not missing and not extra and not doubled:
        yield "its clips are not in the order of the plan"


def _first(ids: set[str]) -> str:
    return repr(min(ids))
