"""Shards of a corpus: Arrow IPC streams as `datasets` reads them, each whole or absent.

A shard also carries, in its schema's metadata, its rejects and how often each code occurs, so that what is said about
a corpus comes from its finished shards and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from slm.corpus.columns import column, features
from slm.corpus.plan import Plan, PlannedShard, Reject
from slm.corpus.sources.base import SourceClip
from slm.files import atomic_file
from slm.types import Codes, TokenizerSpec


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard says of itself: `counts[k][c]` is how often code c of codebook k occurs."""

    num_clips: int
    num_samples: int
    num_frames: int
    counts: tuple[np.ndarray, ...]
    rejects: tuple[Reject, ...]


def shard_path(out: Path, plan: Plan, shard: PlannedShard) -> Path:
    return out / f"data-{shard.index:05d}-of-{len(plan.shards):05d}.arrow"


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
        "codes": _codes_array(frames, [len(c.codes) for c in codes]),
        "num_samples": pa.array([c.num_samples for c in codes], pa.int64()),
        "duration_s": pa.array([c.duration_s for c in codes], pa.float32()),
    }
    for name, type_name in plan.columns.items():
        arrays[name] = column((clips[c.id].metadata.get(name) for c in codes), type_name)
    counts = [np.bincount(frames[:, k], minlength=size).tolist() for k, size in enumerate(spec.codebook_sizes)]
    own = {"num_frames": len(frames), "counts": counts, "rejects": [asdict(reject) for reject in rejects]}
    metadata = {
        "huggingface": json.dumps({"info": {"features": plan_features(plan, spec)}}),
        "slm": json.dumps(own, ensure_ascii=False),
    }
    table = pa.table(arrays).replace_schema_metadata(metadata)
    # A Python file, so that a full disk is an OSError with its errno.
    with (
        atomic_file(path) as temporary,
        open(temporary, "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table)


def _codes_array(frames: np.ndarray, lengths: Sequence[int]) -> pa.ListArray:
    """`[sum T, K]` and T of each clip -> list<fixed_size_list<uint>[K]>."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(frames.reshape(-1)), frames.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)


def read_record(path: Path) -> ShardRecord:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_stream(source).read_all()
        own = json.loads(table.schema.metadata[b"slm"])
        return ShardRecord(
            num_clips=table.num_rows,
            num_samples=int(np.sum(table.column("num_samples").to_numpy(), dtype=np.int64)),
            num_frames=own["num_frames"],
            counts=tuple(np.array(count, np.int64) for count in own["counts"]),
            rejects=tuple(Reject(**reject) for reject in own["rejects"]),
        )
