"""The audio of a clip, wherever its source keeps it: in a file, in a part of one, on a server."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from slm.audio import AudioInfo, AudioInput, AudioStream, probe, read_audio, read_blocks
from slm.corpus.containers import open_member
from slm.corpus.remote import is_remote, open_binary, read_bytes
from slm.corpus.sources.base import SourceClip
from slm.corpus.workers import sign_of_life


def probe_clip(clip: SourceClip) -> AudioInfo:
    """What the header of its recording says; AudioError as `slm.audio.probe`. Of a remote file only the blocks that
    hold the header are fetched."""
    sign_of_life()
    return probe(_input_of(clip, whole=False))


def read_clip(clip: SourceClip, sample_rate_hz: int) -> np.ndarray:
    """Mono float32 samples of the clip at that rate; AudioError as `slm.audio.read_audio`."""
    sign_of_life()
    whole = clip.start_s == 0 and clip.end_s is None
    return read_audio(_input_of(clip, whole), sample_rate_hz, clip.start_s, clip.end_s, _channel(clip))


def read_clip_blocks(clip: SourceClip, sample_rate_hz: int) -> Iterator[np.ndarray]:
    """The same in blocks, so that a recording of hours is never held whole."""
    for block in read_blocks(_input_of(clip, whole=False), sample_rate_hz, clip.start_s, clip.end_s, _channel(clip)):
        sign_of_life()
        yield block


def _channel(clip: SourceClip) -> int | None:
    kind, _, channel = clip.member.partition(":")
    return int(channel) if kind == "channel" else None


def _input_of(clip: SourceClip, whole: bool) -> AudioInput:
    """`whole`: all of it will be read, so that one request does for a remote file."""
    if clip.member and _channel(clip) is None:
        return open_member(clip.path, clip.member)
    if not is_remote(clip.path):
        return clip.path
    if whole:
        return AudioStream.in_memory(clip.path, lambda: read_bytes(clip.path))
    return AudioStream(clip.path, lambda: open_binary(clip.path))
