"""Audio encoded for tests by FFmpeg: what soundfile cannot write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def encode_with_ffmpeg(
    path, samples, source_hz, codec, rate_hz, sample_format, container=None, layout="mono", bit_rate=64_000, **options
):
    """Write mono float samples `[N]` at `source_hz` as a file of the codec, at `rate_hz`; skips the test where PyAV is
    missing."""
    av = pytest.importorskip("av")
    with av.open(f"file:{path}", "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate = bit_rate
        stream.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate = source_hz
        size = stream.codec_context.frame_size or 0
        to_codec = av.AudioResampler(format=sample_format, layout=layout, rate=rate_hz, frame_size=size)
        position = 0
        for part in [*to_codec.resample(frame), *to_codec.resample(None)]:
            part.pts, position = position, position + part.samples
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return Path(path)
