"""The audio of a clip, wherever its source keeps it."""

from __future__ import annotations

import numpy as np

from slm.audio import AudioInfo, probe, read_audio
from slm.corpus.sources.base import SourceClip


def probe_clip(clip: SourceClip) -> AudioInfo:
    """What the header of its recording says; AudioError as `slm.audio.probe`."""
    return probe(clip.path)


def read_clip(clip: SourceClip, sample_rate_hz: int) -> np.ndarray:
    """Mono float32 samples of the clip at that rate; AudioError as `slm.audio.read_audio`."""
    return read_audio(clip.path, sample_rate_hz, clip.start_s, clip.end_s)
