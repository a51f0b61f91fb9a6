"""What a plan finds out about each clip: its length or why it has none, its segments, the identity of its file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, groupby
from typing import Any

import pyarrow as pa

from slm.audio import AudioInfo, plain_info
from slm.corpus.changes import FileState, file_state
from slm.corpus.columns import OF_SEGMENTS
from slm.corpus.plan import SCHEMA, stored_path, too_short
from slm.corpus.reading import probe_clip
from slm.corpus.segmentation import Segmentation
from slm.corpus.segmenters import NoSpeechError, Segmenter
from slm.corpus.sources.base import SourceClip, readable
from slm.errors import AudioError
from slm.types import TokenizerSpec

_ASKED_AT_ONCE = 1024  # files: of each the first few kilobytes are held
_ASKED_ALONE = 64
_SLOW_S = 2e-4  # for a file: five times of what one takes that the system has in memory
_THREADS = 4


def probe_clips(
    clips: Sequence[SourceClip], base: str, spec: TokenizerSpec, segmentation: Segmentation, fault: str | None = None
) -> list[pa.Table]:
    """A table (of `slm.corpus.plan.SCHEMA`) with a row for each clip or segment; no clip is opened where there is a
    `fault`, which is then their reason."""
    rows: list[tuple[Any, ...]] = []
    segmenter = segmentation.segmenter()
    for of_file, file in _with_file_states(clips):
        member = None
        for clip in of_file:
            if clip.member != member:
                member, info = clip.member, _look_into(clip, file, fault)
            rows += _rows(clip, info, file, base, spec, segmentation, segmenter)
    columns = zip(*rows, strict=True) if rows else ([] for _ in SCHEMA)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    return [pa.Table.from_arrays(arrays, schema=SCHEMA)]


def _with_file_states(clips: Sequence[SourceClip]) -> Iterator[tuple[list[SourceClip], FileState]]:
    """The clips of each file and its state."""
    files = [list(found) for _, found in groupby(clips, lambda clip: clip.path)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _ASKED_AT_ONCE):
            asked = files[start : start + _ASKED_AT_ONCE]
            yield from zip(asked, _ask([found[0].path for found in asked], pool), strict=True)


def _ask(paths: Sequence[str], pool: ThreadPoolExecutor) -> Iterator[FileState]:
    """The state of each file. Where the first few take long, several threads ask for the rest: a disk or a network that
    has to look for files answers several questions in hardly more time than one. Else threads would only be in each
    other's way."""
    begun = time.perf_counter()
    alone, rest = _file_states(paths[:_ASKED_ALONE]), paths[_ASKED_ALONE:]
    slow = time.perf_counter() - begun > _SLOW_S * len(alone)
    if not slow:
        return chain(alone, map(file_state, rest))
    share = -(-len(rest) // _THREADS) or 1
    parts = [rest[i : i + share] for i in range(0, len(rest), share)]
    return chain(alone, chain.from_iterable(pool.map(_file_states, parts)))


def _file_states(paths: Sequence[str]) -> list[FileState]:
    return [file_state(path) for path in paths]


def _look_into(clip: SourceClip, file: FileState, fault: str | None) -> AudioInfo | str:
    """The header of a recording, or why it has none."""
    try:
        plain = None if clip.member else plain_info(clip.path, file.head, file.num_bytes)
        return fault or plain or probe_clip(clip)
    except AudioError as error:
        return str(error)


def _rows(
    clip: SourceClip,
    info: AudioInfo | str,
    file: FileState,
    base: str,
    spec: TokenizerSpec,
    segmentation: Segmentation,
    segmenter: Segmenter,
) -> Iterator[tuple[Any, ...]]:
    for piece, found, outside_s in _segments(clip, info, segmenter):
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


def _with_times(piece: SourceClip, end_s: float, of: str | None = None) -> SourceClip:
    """A segment tells in its metadata of what it is one, and which; nothing else does."""
    if not piece.metadata and piece.start_s == 0 and piece.end_s is None:
        return piece
    metadata = {name: value for name, value in piece.metadata.items() if name not in OF_SEGMENTS}
    if piece.start_s > 0 or piece.end_s is not None:
        metadata |= {"segment_of": of or readable(piece.path), "start_s": piece.start_s, "end_s": end_s}
    return replace(piece, metadata=metadata)


def _too_short(duration_s: float, spec: TokenizerSpec) -> str | None:
    """Sure only below a margin of one sample: resampling rounds. The rest is seen when the clip is read."""
    num_samples = round(duration_s * spec.sample_rate_hz)
    return too_short(num_samples, spec) if spec.num_frames(num_samples + 1) == 0 else None
