"""Formats that libsndfile does not know, through PyAV (FFmpeg; the extra `formats`): M4A, AAC, G.722, WebM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from slm.errors import AudioError


@contextmanager
def _open(path: Path | str) -> Iterator[Any]:
    try:
        import av
    except ImportError:
        raise AudioError('needs PyAV to be read: pip install "slm-toolkit[formats]"') from None
    headerless = "g722" if str(path).lower().endswith(".g722") else None
    try:
        with av.open(str(path), format=headerless) as container:
            if not container.streams.audio:
                raise AudioError("not audio: no audio stream in the file")
            yield container
    except av.FFmpegError as error:
        raise AudioError(f"corrupt or not audio: {error.strerror}") from None


def probe_ffmpeg(path: Path | str) -> tuple[int, int, int]:
    """(samples per channel, sample rate, channels); by decoding where the header does not tell the length."""
    with _open(path) as container:
        stream = container.streams.audio[0]
        rate_hz, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        # FFmpeg guesses the length of headerless streams (raw AAC, G.722) from their bitrate.
        if container.format.name not in ("aac", "g722") and (stream.duration or container.duration):
            seconds = float(stream.duration * stream.time_base) if stream.duration else container.duration / 1e6
            return round(seconds * rate_hz), rate_hz, channels
    blocks = list(decode_ffmpeg(path))
    return sum(len(block) for _, block in blocks), blocks[0][0] if blocks else rate_hz, channels


def decode_ffmpeg(path: Path | str) -> Iterator[tuple[int, np.ndarray]]:
    """(sample rate, float32 `[n, channels]`) of each decoded frame."""
    with _open(path) as container:
        import av

        to_float = av.AudioResampler(format="fltp")  # the sample format only: rate and channels stay
        for frame in container.decode(audio=0):
            for part in to_float.resample(frame):
                yield part.sample_rate, part.to_ndarray().T
