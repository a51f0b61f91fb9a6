"""Shards of a corpus: Arrow IPC streams as `datasets` reads them, each whole or absent.

A shard also carries, in its schema's metadata, its rejects, how often each code occurs and its seal
(`slm.corpus.seal`), so that what is said about a corpus comes from its finished shards and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from slm.corpus.columns import column, features
from slm.corpus.plan import Plan, PlannedShard, Reject
from slm.corpus.seal import BLANK, KEY, seal
from slm.corpus.sources.base import SourceClip
from slm.files import atomic_file
from slm.types import Codes, TokenizerSpec

_BLOCK_FRAMES = 1 << 14  # with 32 codebooks 1 MB, which a processor's cache holds


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard says of itself: `counts[k][c]` is how often code c of codebook k occurs; `tokenizer` is the
    fingerprint of what made its codes; `seal` is empty where another program wrote it."""

    file: str
    num_clips: int
    num_samples: int
    num_frames: int
    counts: tuple[np.ndarray, ...]
    rejects: tuple[Reject, ...]
    tokenizer: str
    seal: str


def shard_name(plan: Plan, shard: PlannedShard) -> str:
    return f"data-{shard.index:05d}-of-{len(plan.shards):05d}.arrow"


def shard_path(out: Path, plan: Plan, shard: PlannedShard) -> Path:
    return out / shard_name(plan, shard)


def plan_features(plan: Plan, spec: TokenizerSpec) -> dict[str, object]:
    return features(plan.columns, spec.num_codebooks, np.dtype(spec.code_dtype).name)


def write_shard(
    path: Path,
    plan: Plan,
    spec: TokenizerSpec,
    codes: Sequence[Codes],
    clips: Mapping[str, SourceClip],
    rejects: Sequence[Reject],
) -> None:
    """Write the rows of one shard, in the order given, with the metadata of their clips."""
    frames = np.concatenate([c.codes for c in codes]) if codes else np.zeros((0, spec.num_codebooks), spec.code_dtype)
    arrays = {
        "id": pa.array([c.id for c in codes], pa.string()),
        "codes": codes_array(frames, [len(c.codes) for c in codes]),
        "num_samples": pa.array([c.num_samples for c in codes], pa.int64()),
        "duration_s": pa.array([c.duration_s for c in codes], pa.float32()),
    }
    for name, type_name in plan.columns.items():
        arrays[name] = column((clips[c.id].metadata.get(name) for c in codes), type_name)
    write_table(path, pa.table(arrays), plan.columns, spec, rejects)


def write_table(
    path: Path, table: pa.Table, columns: Mapping[str, str], spec: TokenizerSpec, rejects: Sequence[Reject] = ()
) -> None:
    """Write rows that are already a table of the corpus's columns (metadata: `columns`) as a sealed shard."""
    num_frames, counts = 0, [np.zeros(size, np.int64) for size in spec.codebook_sizes]
    for block in frame_blocks(table, spec.num_codebooks):
        num_frames += len(block)
        for k, count in enumerate(counts):
            count += np.bincount(block[:, k], minlength=len(count))
    own = {
        "tokenizer": spec.fingerprint,
        "num_clips": table.num_rows,
        "num_samples": int(np.sum(table.column("num_samples").to_numpy(), dtype=np.int64)),
        "num_frames": num_frames,
        "counts": [count.tolist() for count in counts],
        "rejects": [asdict(reject) for reject in rejects],
    }
    known = features(columns, spec.num_codebooks, np.dtype(spec.code_dtype).name)
    metadata = {
        "huggingface": json.dumps({"info": {"features": known}}),
        "slm": json.dumps(own, ensure_ascii=False, separators=(",", ":")),
        KEY: BLANK,
    }
    # One record batch: the codes of a shard are one contiguous array.
    table = table.combine_chunks().replace_schema_metadata(metadata)
    with atomic_file(path) as temporary:
        # A Python file, so that a full disk is an OSError with its errno.
        with open(temporary, "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        seal(temporary)


def frame_blocks(table: pa.Table, num_codebooks: int) -> Iterator[np.ndarray]:
    """The frames of all rows in blocks `[at most 2^14, K]`: views, so that a pass over them needs little memory."""
    for chunk in table.column("codes").chunks:
        frames = flat_frames(chunk, num_codebooks)
        for start in range(0, len(frames), _BLOCK_FRAMES):
            yield frames[start : start + _BLOCK_FRAMES]


def flat_frames(codes: pa.ListArray, num_codebooks: int) -> np.ndarray:
    """The frames `[sum T, K]` of one chunk of the codes column, viewed in place."""
    return codes.flatten().flatten().to_numpy(zero_copy_only=True).reshape(-1, num_codebooks)


def codes_array(frames: np.ndarray, lengths: Sequence[int]) -> pa.ListArray:
    """`[sum T, K]` and T of each clip -> list<fixed_size_list<uint>[K]>."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(frames.reshape(-1)), frames.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def read_record(path: Path) -> ShardRecord:
    with pa.memory_map(str(path)) as source:
        return record_of(source, path.name)


def record_of(file: IO[bytes] | pa.NativeFile, name: str) -> ShardRecord:
    """The record of a shard that is open; only its beginning is read."""
    metadata = pa.ipc.open_stream(file).schema.metadata
    own = json.loads(metadata[b"slm"])
    return ShardRecord(
        file=name,
        num_clips=own["num_clips"],
        num_samples=own["num_samples"],
        num_frames=own["num_frames"],
        counts=tuple(np.array(count, np.int64) for count in own["counts"]),
        rejects=tuple(Reject(**reject) for reject in own["rejects"]),
        tokenizer=own["tokenizer"],
        seal=metadata.get(KEY.encode(), b"").decode(),
    )
