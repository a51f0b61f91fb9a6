"""Segments by voice activity: what holds speech is kept, cut at pauses."""

from __future__ import annotations

from typing import Any

import numpy as np

from slm.audio import AudioInfo
from slm.corpus.reading import read_clip_blocks
from slm.corpus.segmenters._silero import (
    FRAME_SAMPLES,
    RATE_HZ,
    Region,
    model_path,
    model_version,
    speech_probabilities,
    speech_regions,
)
from slm.corpus.segmenters.base import SEGMENTERS, NoSpeechError, Segmenter, Span
from slm.corpus.sources.base import SourceClip
from slm.errors import UsageError


@SEGMENTERS.register("vad")
class VoiceActivity(Segmenter):
    """Speech as Silero VAD finds it, with the pauses in it up to `max_pause_s`, in segments of at most `window_s`.

    `threshold` (a probability), `min_speech_s`, `min_silence_s` and `pad_s` are the model's own and have its defaults.
    Speech without a pause for longer than `window_s` is cut where the model is least sure of it; the parts touch.
    """

    reads_samples = True

    def __init__(
        self,
        window_s: float,
        threshold: float = 0.5,
        min_speech_s: float = 0.25,
        min_silence_s: float = 0.1,
        pad_s: float = 0.03,
        max_pause_s: float = 1.0,
    ):
        super().__init__(window_s)
        if not 0 < threshold < 1:
            raise UsageError(f"--segmentation.settings.threshold must be between 0 and 1, not {threshold:g}")
        times = {"min_speech_s": min_speech_s, "min_silence_s": min_silence_s, "pad_s": pad_s}
        for name, value in {**times, "max_pause_s": max_pause_s}.items():
            if not 0 <= value <= window_s:
                raise UsageError(f"--segmentation.settings.{name} must be from 0 to window_s, not {value:g}")
        model_path()
        self.max_pause_s = max_pause_s
        self.of_model = {"threshold": threshold, **times}

    def settings(self) -> dict[str, Any]:
        return {**self.of_model, "max_pause_s": self.max_pause_s}

    @property
    def version(self) -> str:
        return model_version()

    def cut(self, clip: SourceClip, info: AudioInfo) -> list[Span]:
        probabilities, num_samples = speech_probabilities(read_clip_blocks(clip, RATE_HZ))
        regions = speech_regions(probabilities, num_samples, **self.of_model)
        if not regions:
            raise NoSpeechError(f"no speech: none found in {num_samples / RATE_HZ:.3f} s")
        longest = int(self.window_s * RATE_HZ)
        parts = [part for region in regions for part in cut_at_doubt(region, longest, probabilities)]
        joined = join(parts, longest, int(self.max_pause_s * RATE_HZ))
        return [_on_samples(part, num_samples, info, clip) for part in joined]


def cut_at_doubt(region: Region, longest: int, probabilities: np.ndarray) -> list[Region]:
    """A region in parts of at most `longest` samples that touch: cut in the middle of the least probable frame between
    half and all of it, and not so that a scrap is left."""
    start, end = region
    parts = []
    while end - start > longest:
        first = -(-(start + longest // 2) // FRAME_SAMPLES)
        last = min(start + longest, end - longest // 4) // FRAME_SAMPLES  # excluded
        frame = first + int(np.argmin(probabilities[first:last])) if first < last else 0
        seam = frame * FRAME_SAMPLES + FRAME_SAMPLES // 2 if first < last else start + longest // 2
        parts.append((start, seam))
        start = seam
    return [*parts, (start, end)]


def join(parts: list[Region], longest: int, max_pause: int) -> list[Region]:
    """Neighbours made one, from the first on, where the pause between them and their length together allow it."""
    joined = parts[:1]
    for start, end in parts[1:]:
        first, last = joined[-1]
        if start - last <= max_pause and end - first <= longest:
            joined[-1] = (first, end)
        else:
            joined.append((start, end))
    return joined


def _on_samples(part: Region, num_samples: int, info: AudioInfo, clip: SourceClip) -> Span:
    """Times in the file, each on one of its samples; what reaches the clip's ends has the clip's ends."""
    start_s, end_s = (
        round((clip.start_s + time / RATE_HZ) * info.sample_rate_hz) / info.sample_rate_hz for time in part
    )
    return clip.start_s if part[0] == 0 else start_s, clip.end_s if part[1] == num_samples else end_s
