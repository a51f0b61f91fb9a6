"""The plan of a corpus: which clips are in which shard. Made once, from headers only, the same for any number of
workers; `plan.json` keeps it, and holds the source and the settings to it when a run goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slm.audio import AudioInfo, probe
from slm.corpus.columns import column_types
from slm.corpus.contents import relative_paths
from slm.corpus.sources import SourceClip, readable
from slm.errors import AudioError, UsageError
from slm.types import TokenizerSpec, stable_hash

_PROBED_AT_ONCE = 10_000


@dataclass(frozen=True)
class Reject:
    """A clip that is left out, and why: the part of the reason before a colon names the kind of fault."""

    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class PlannedShard:
    """Clips in the order of their rows, with their lengths by their headers."""

    index: int
    ids: tuple[str, ...]
    durations_s: tuple[float, ...]

    @property
    def duration_s(self) -> float:
        return sum(self.durations_s)


@dataclass(frozen=True)
class Plan:
    """`source_hash` covers ids, relative paths, segments and metadata of all clips, `files` (relative path ->
    `file_digest`) what they hold; `columns` are metadata types."""

    source_hash: str
    files: Mapping[str, str]
    shard_hours: float
    columns: Mapping[str, str]
    shards: tuple[PlannedShard, ...]
    rejects: tuple[Reject, ...]

    @property
    def duration_s(self) -> float:
        return sum(shard.duration_s for shard in self.shards)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        shards = [PlannedShard(s["index"], tuple(s["ids"]), tuple(s["durations_s"])) for s in values["shards"]]
        rejects = [Reject(**reject) for reject in values["rejects"]]
        return cls(**{**values, "shards": tuple(shards), "rejects": tuple(rejects)})


def make_plan(
    clips: Sequence[SourceClip],
    source_hash: str,
    files: Mapping[str, str],
    spec: TokenizerSpec,
    shard_hours: float,
    num_workers: int,
    on_probed: Callable[[int], None] = lambda probed: None,
) -> Plan:
    """Probe every clip and deal them out, in their order, to shards of `shard_hours`.

    Clips that cannot be opened or are too short for one frame become rejects. UsageError when none is left.
    """
    usable: list[tuple[str, float]] = []
    rejects: list[Reject] = []
    for clip, found in _probe_all(clips, num_workers, on_probed):
        reason = found if isinstance(found, str) else _too_short(found, spec)
        if reason:
            rejects.append(Reject(clip.id, readable(clip.path), reason))
        elif not isinstance(found, str):
            usable.append((clip.id, found))
    if not usable:
        raise NothingUsableError(rejects)
    shards = tuple(_deal(usable, shard_hours * 3600))
    return Plan(source_hash, files, shard_hours, column_types(clips), shards, tuple(rejects))


class NothingUsableError(UsageError):
    """Not one clip of the source can be used. `finding` is the message without its advice."""

    def __init__(self, rejects: Sequence[Reject]):
        first, reasons = rejects[0], count_reasons(rejects)
        self.finding = (
            f"none of the {len(rejects)} clips can be used ({reasons}); the first is {first.path}: {first.reason}"
        )
        super().__init__(f"{self.finding}; check --audio")


def count_reasons(rejects: Iterable[Reject]) -> str:
    """`"12 truncated, 3 silent"`: how many of each kind, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in reasons(rejects).items())


def reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Kind of fault -> number of clips."""
    kinds = Counter(reject.reason.partition(":")[0] for reject in rejects)
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def too_short(num_samples: int, spec: TokenizerSpec) -> str:
    return f"too short: {num_samples} samples at {spec.sample_rate_hz} Hz are less than one frame"


def _too_short(duration_s: float, spec: TokenizerSpec) -> str | None:
    """Sure only below a margin of one sample: resampling rounds. The rest is seen when the clip is read."""
    num_samples = round(duration_s * spec.sample_rate_hz)
    return too_short(num_samples, spec) if spec.num_frames(num_samples + 1) == 0 else None


def _probe_all(
    clips: Sequence[SourceClip], num_workers: int, on_probed: Callable[[int], None]
) -> Iterator[tuple[SourceClip, float | str]]:
    """Each clip with its length in seconds, or the reason why it has none; segments of a file probe it once."""
    probed: dict[Path, AudioInfo | str] = {}
    with ThreadPoolExecutor(num_workers) as pool:
        for start in range(0, len(clips), _PROBED_AT_ONCE):
            part = clips[start : start + _PROBED_AT_ONCE]
            new = [path for path in dict.fromkeys(clip.path for clip in part) if path not in probed]
            probed.update(zip(new, pool.map(_probe, new), strict=True))
            for clip in part:
                yield clip, _length(clip, probed[clip.path])
            on_probed(start + len(part))


def _probe(path: Path) -> AudioInfo | str:
    try:
        return probe(path)
    except AudioError as error:
        return str(error)


def _length(clip: SourceClip, info: AudioInfo | str) -> float | str:
    if isinstance(info, str):
        return info
    end_s = info.duration_s if clip.end_s is None else min(clip.end_s, info.duration_s)
    # A segment that does not fit its file is refused, with the reason, when it is read.
    return max(0.0, end_s - clip.start_s) if clip.start_s < end_s else info.duration_s


def _deal(clips: Sequence[tuple[str, float]], shard_s: float) -> Iterator[PlannedShard]:
    """Consecutive clips until the next one would pass `shard_s`; a longer clip has a shard of its own."""
    index, total_s, part = 0, 0.0, list[tuple[str, float]]()
    for id, duration_s in clips:
        if part and total_s + duration_s > shard_s:
            yield _shard(index, part)
            index, total_s, part = index + 1, 0.0, []
        part.append((id, duration_s))
        total_s += duration_s
    yield _shard(index, part)


def _shard(index: int, part: Sequence[tuple[str, float]]) -> PlannedShard:
    return PlannedShard(index, tuple(id for id, _ in part), tuple(seconds for _, seconds in part))


def hash_source(source: Path | str, clips: Sequence[SourceClip]) -> str:
    """What a plan depends on; not where the source lies, so that a folder may move between two runs."""
    rows = [
        [clip.id, path, clip.start_s, clip.end_s, dict(clip.metadata)]
        for clip, path in zip(clips, relative_paths(source, clips), strict=True)
    ]
    return stable_hash(rows)
