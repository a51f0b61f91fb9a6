"""The audio of a clip, wherever its source keeps it: in a file, in a part of one, on a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from slm.audio import (
    AudioInfo,
    AudioInput,
    AudioStream,
    Blocks,
    DecodedAudio,
    can_seek,
    decode,
    joined,
    probe,
    read_blocks,
)
from slm.corpus.containers import Identity, identity, open_member
from slm.corpus.remote import is_remote, open_binary, read_bytes
from slm.corpus.sources.base import SourceClip
from slm.corpus.spool import spooled
from slm.corpus.workers import sign_of_life
from slm.errors import AudioError, UnreadableError

if TYPE_CHECKING:
    import pyarrow as pa

_DECODED_ANEW_S = 60.0  # of what is before a segment
_ROW_SAMPLES = 1 << 17
_OPEN, _KNOWN = 2, 4096  # recordings in each process: decoded and mapped; of which it is known if they seek


def probe_clip(clip: SourceClip) -> AudioInfo:
    """What the header of its recording says; AudioError as `slm.audio.probe`. Of a remote file only the blocks that
    hold the header are fetched."""
    sign_of_life()
    return probe(_input_of(clip, whole=False))


def read_clip(clip: SourceClip, sample_rate_hz: int) -> np.ndarray:
    """Mono float32 samples of the clip at that rate; AudioError as `slm.audio.read_audio`."""
    sign_of_life()
    return joined(read_clip_blocks(clip, sample_rate_hz, at_once=True))


def read_clip_blocks(clip: SourceClip, sample_rate_hz: int, at_once: bool = False) -> Iterator[np.ndarray]:
    """The same in blocks, so that a recording of hours is never held whole; `at_once`: all will be read without delay,
    so that one request does for a remote file."""
    source = _best_input_of(clip, whole=at_once and clip.start_s == 0 and clip.end_s is None)
    for block in read_blocks(source, sample_rate_hz, clip.start_s, clip.end_s, _channel(clip)):
        sign_of_life()
        yield block


def _channel(clip: SourceClip) -> int | None:
    kind, _, channel = clip.member.partition(":")
    return int(channel) if kind == "channel" else None


def _best_input_of(clip: SourceClip, whole: bool) -> AudioInput | DecodedAudio:
    """For a segment from the midst of a recording that only decodes from its start on: what was decoded before."""
    if clip.start_s >= _DECODED_ANEW_S:
        with suppress(OSError):  # reading will say so
            recording = (clip.path, identity(clip.path), clip.member)
            if not _can_seek(*recording):
                return _decoded_once(*recording)
    return _input_of(clip, whole)


@lru_cache(_KNOWN)
def _can_seek(path: str, its_identity: Identity, member: str) -> bool:
    return can_seek(_input_of(SourceClip("", path, member=member), whole=False))


@lru_cache(_OPEN)
def _decoded_once(path: str, its_identity: Identity, member: str) -> DecodedAudio:
    """All of a recording, decoded by the first process that asks for it and mapped from disk, or why it cannot be."""
    import pyarrow as pa

    clip = SourceClip("", path, member=member)
    schema = pa.schema([("rate_hz", pa.int32()), ("samples", pa.list_(pa.float32())), ("fault", pa.string())])

    def batches() -> Iterator[pa.RecordBatch]:
        fault = "empty: no samples"
        try:
            for rate_hz, block in _joined(decode(_input_of(clip, whole=True), _channel(clip))):
                fault = ""
                samples = pa.ListArray.from_arrays([0, len(block)], pa.array(block))
                yield pa.record_batch([pa.array([rate_hz], pa.int32()), samples, pa.array([""])], schema)
        except UnreadableError:  # it may pass
            raise
        except AudioError as error:
            fault = str(error)
        if fault:
            yield pa.RecordBatch.from_pylist([{"fault": fault}], schema)

    table = spooled(json.dumps(["decoded", *its_identity, member]), batches)
    if fault := table["fault"][-1].as_py():
        raise AudioError(fault)
    return DecodedAudio(lambda: _blocks_of(table))


def _joined(blocks: Blocks) -> Blocks:
    """Frames of a codec, of 20 ms or so, as seconds."""
    held: list[np.ndarray] = []
    for rate_hz, block in blocks:
        held.append(block)
        if sum(map(len, held)) >= _ROW_SAMPLES:
            yield rate_hz, np.concatenate(held)
            held = []
    if held:
        yield rate_hz, np.concatenate(held)


def _blocks_of(table: pa.Table) -> Blocks:
    for batch in table.to_batches():
        yield batch["rate_hz"][0].as_py(), batch["samples"].flatten().to_numpy()


def _input_of(clip: SourceClip, whole: bool) -> AudioInput:
    """`whole`: all of it will be read, so that one request does for a remote file."""
    if clip.member and _channel(clip) is None:
        return open_member(clip.path, clip.member)
    if not is_remote(clip.path):
        return clip.path
    if whole:
        return AudioStream.in_memory(clip.path, lambda: read_bytes(clip.path))
    return AudioStream(clip.path, lambda: open_binary(clip.path))
