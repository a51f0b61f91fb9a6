"""Decoding by FFmpeg (PyAV; the extra `formats`): what libsndfile does not know, such as M4A, AAC, WMA, AMR, WebM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from slm._segment import AudioInfo, Blocks, check_length, mix_down
from slm._stream import AudioInput, AudioStream, suffix_of
from slm.errors import AudioError

# FFmpeg guesses the length of these headerless streams from their bitrate, or not at all.
_WITHOUT_LENGTH = {"aac", "ac3", "amr", "flac", "g722"}


@contextmanager
def _open(source: AudioInput) -> Iterator[Any]:
    try:
        import av
    except ImportError:
        raise AudioError("needs PyAV to be read: pip install 'slm-toolkit[formats]'") from None
    headerless = "g722" if suffix_of(source) == ".g722" else None
    try:
        with ExitStack() as stack:
            # Without `file:` a name with a colon would be a URL.
            file = stack.enter_context(source.open()) if isinstance(source, AudioStream) else f"file:{source}"
            # PyAV 19 reads tags that are no UTF-8 by itself, and no longer takes the argument.
            lenient: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
            container = stack.enter_context(av.open(file, format=headerless, **lenient))
            if not container.streams.audio:
                raise AudioError("not audio: no audio stream in the file")
            yield container
    except av.FFmpegError as error:
        raise AudioError(f"corrupt or not audio: {error.strerror}") from None


def _length_s(container: Any) -> float | None:
    """What the header says, if anything."""
    stream = container.streams.audio[0]
    if container.format.name in _WITHOUT_LENGTH or not (stream.duration or container.duration):
        return None
    return float(stream.duration * stream.time_base) if stream.duration else container.duration / 1e6


def probe_ffmpeg(source: AudioInput) -> AudioInfo:
    """From the header, or by decoding where it does not tell the length. AudioError as `slm.audio.probe`."""
    with _open(source) as container:
        codec, length_s = container.streams.audio[0].codec_context, _length_s(container)
        rate_hz, channels = codec.sample_rate, codec.channels
        if length_s is not None and rate_hz:
            return AudioInfo(round(length_s * rate_hz), rate_hz, channels)
    num_frames = 0
    for rate_hz, block in ffmpeg_blocks(source):  # noqa: B007 (the rate that is decoded, not the header's)
        num_frames += len(block)
    return AudioInfo(num_frames, rate_hz, channels)


def ffmpeg_blocks(source: AudioInput, channel: int | None = None) -> Blocks:
    """The whole file; raises AudioError where it is corrupt, shorter than its header says, or changes its rate."""
    got = rate_hz = 0
    with _open(source) as container:
        promised_s = _length_s(container)
        for frame in container.decode(audio=0):
            # HE-AAC decodes at twice the rate of its header: what frames say counts.
            if rate_hz and frame.sample_rate != rate_hz:
                raise AudioError(f"the sample rate changes inside the file: {rate_hz} to {frame.sample_rate} Hz")
            rate_hz = frame.sample_rate
            block = _to_float(frame)
            got += len(block)
            yield rate_hz, mix_down(block, channel)
    if rate_hz and promised_s is not None:
        check_length(got, round(promised_s * rate_hz), rate_hz)


def _to_float(frame: Any) -> np.ndarray:
    """Float32 `[n, channels]`; the number of channels may change between frames, which AudioResampler refuses."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype == np.uint8:
        values = values.astype(np.float32) - 128
        return (values / 128).T
    full_scale = -float(np.iinfo(values.dtype).min) if values.dtype.kind == "i" else 1.0
    return (values / full_scale).astype(np.float32, copy=False).T
