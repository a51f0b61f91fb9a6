"""The plan of a corpus: which clips are in which shard, and which are left out before any is read.

It is made once (`slm.corpus.planning`) and kept in two files: `plan.json` (settings, metadata columns, the rows of each
shard) and `plan.arrow` (a row a clip, in the source's order), which is mapped, not loaded: a plan of millions of clips
opens in no time.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from slm.corpus.sources.base import SourceClip, readable
from slm.errors import UsageError
from slm.files import read_json
from slm.types import TokenizerSpec

FORMAT = 3
PLAN_FILES = ("plan.arrow", "plan.json")
"""In the order in which they are written: the second says that both are there."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.binary()),  # as the system names it (not always UTF-8), below the source's base where it lies there
        ("member", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("metadata", pa.string()),  # JSON
        ("duration_s", pa.float64()),
        ("outside_s", pa.float64()),  # of its recording, in no segment: told by the recording's first row
        ("reason", pa.string()),  # why the clip is left out; null for those in a shard
        ("num_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("digest", pa.string()),
    ]
)


@dataclass(frozen=True)
class Reject:
    """A clip that is left out, and why: the part of the reason before a colon names the kind of fault."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class PlannedShard:
    """Rows `start`..`stop` of the plan; those that are left out lie between, and do not count."""

    index: int
    start: int
    stop: int
    num_clips: int
    duration_s: float


@dataclass(frozen=True)
class PlannedClip:
    """A clip of a shard with its length by its header."""

    clip: SourceClip
    duration_s: float


@dataclass(frozen=True)
class PlanHead:
    """`plan.json`. `source_hash` covers ids, relative paths, segments and metadata of all clips; `columns` are types of
    metadata; `settings` are those that decide which clips there are and where they go; `outside_s` is what segmentation
    left out of the recordings (silence, by voice activity)."""

    format: int
    settings: Mapping[str, Any]
    source_hash: str
    columns: Mapping[str, str]
    num_rows: int
    outside_s: float
    rejects: Mapping[str, int]
    shards: tuple[PlannedShard, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlanHead:
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}")
        return cls(**{**values, "shards": tuple(PlannedShard(**shard) for shard in values["shards"])})


class Plan:
    """The plan in a folder; relative paths are below `base`, where the source lies now.

    Raises UsageError where another version wrote it, FileNotFoundError where there is none.
    """

    def __init__(self, folder: Path | str, base: str = ""):
        self.base = base
        path = Path(folder) / "plan.json"
        try:
            self.head = PlanHead.from_dict(read_json(path))
            with pa.memory_map(str(path.with_name("plan.arrow"))) as source:
                self.table = pa.ipc.open_file(source).read_all()
        except (ValueError, KeyError, TypeError, pa.ArrowInvalid):
            raise UsageError(f"{path} is not a plan that this version wrote: give another --out") from None
        if self.table.num_rows != self.head.num_rows or self.table.schema != SCHEMA:
            raise UsageError(f"{path} and plan.arrow do not belong together: give another --out")

    @property
    def shards(self) -> tuple[PlannedShard, ...]:
        return self.head.shards

    @property
    def columns(self) -> Mapping[str, str]:
        return self.head.columns

    @property
    def duration_s(self) -> float:
        return sum(shard.duration_s for shard in self.shards)

    @property
    def outside_s(self) -> float:
        return self.head.outside_s

    def clips(self, shard: PlannedShard) -> list[PlannedClip]:
        """The clips of a shard, in the order of its rows."""
        rows = self.table.slice(shard.start, shard.stop - shard.start).to_pylist()
        return [PlannedClip(self._clip(row), row["duration_s"]) for row in rows if row["reason"] is None]

    def rejects(self) -> Iterator[Reject]:
        """The clips that are left out by the plan, in the source's order."""
        import pyarrow.compute as pc

        left_out = self.table.select(["id", "path", "reason"]).filter(pc.is_valid(self.table["reason"]))
        for row in left_out.to_pylist():
            yield Reject(row["id"], readable(self.path(row["path"])), row["reason"])

    def ids(self) -> list[str]:
        """All ids, rejects included, in the source's order."""
        return self.table["id"].to_pylist()

    def in_order(self, ids: Sequence[str]) -> list[str]:
        """These ids, in the source's order."""
        import pyarrow.compute as pc

        column = self.table["id"]
        return column.filter(pc.is_in(column, pa.array(ids, pa.string()))).to_pylist()

    def source_ids(self) -> list[str]:
        """The ids that the source gave, of which segments were made."""
        if self.head.settings["segmentation"]["kind"] == "none":
            return self.ids()
        return [re.sub(r"#\d+$", "", id) for id in self.ids()]

    def path(self, stored: bytes) -> str:
        """Where a file is that the plan calls so."""
        return located(stored, self.base)

    def _clip(self, row: Mapping[str, Any]) -> SourceClip:
        metadata = json.loads(row["metadata"]) if row["metadata"] else {}
        return SourceClip(row["id"], self.path(row["path"]), row["start_s"], row["end_s"], metadata, row["member"])


class NothingUsableError(UsageError):
    """Not one clip of the source can be used. `finding` is the message without its advice."""

    def __init__(self, kinds: Mapping[str, int], first: Reject):
        self.finding = (
            f"none of the {sum(kinds.values())} clips can be used ({describe_kinds(kinds)}); the first is "
            f"{first.path}: {first.reason}"
        )
        super().__init__(f"{self.finding}; check --audio")


def kind_of(reason: str) -> str:
    """The kind of fault that a reason names."""
    return reason.partition(":")[0]


def count_kinds(rejects: Iterable[Reject]) -> dict[str, int]:
    """Kind of fault -> number of clips, the most frequent first."""
    return sort_kinds(Counter(kind_of(reject.reason) for reject in rejects))


def sort_kinds(kinds: Mapping[str, int]) -> dict[str, int]:
    """The most frequent first."""
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def describe_kinds(kinds: Mapping[str, int]) -> str:
    """`"12 truncated, 3 silent"`."""
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def stored_path(path: str, base: str) -> bytes:
    """A path as the plan keeps it: relative where it lies below `base`, so that both may move together."""
    below = base if base.endswith(os.sep) or not base else base + os.sep
    return os.fsencode(path.removeprefix(below) if "://" not in path else path)


def located(stored: bytes, base: str) -> str:
    """The way back."""
    path = os.fsdecode(stored)
    return path if "://" in path else os.path.join(base, path)


def too_short(num_samples: int, spec: TokenizerSpec) -> str:
    return f"too short: {num_samples} samples at {spec.sample_rate_hz} Hz are less than one frame"
