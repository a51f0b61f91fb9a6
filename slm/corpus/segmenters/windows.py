"""Segments that keep all of a recording: one, or windows of one length."""

from __future__ import annotations

from math import ceil

from slm.audio import AudioInfo
from slm.corpus.segmenters.base import SEGMENTERS, Segmenter, Span
from slm.corpus.sources.base import SourceClip


@SEGMENTERS.register("none")
class Whole(Segmenter):
    """Each clip is one segment."""

    def cut(self, clip: SourceClip, info: AudioInfo) -> list[Span]:
        return [(clip.start_s, clip.end_s)]


@SEGMENTERS.register("windows")
class Windows(Segmenter):
    """Parts of equal length, as few as keep to `window_s`, so that no scrap is left. They touch: each seam is the end
    of one and the start of the next, so that nothing is lost or doubled."""

    def cut(self, clip: SourceClip, info: AudioInfo) -> list[Span]:
        rate = info.sample_rate_hz
        first, last = info.segment(clip.start_s, clip.end_s)
        count = max(1, ceil((last - first) / (self.window_s * rate)))
        seams = [(first + (last - first) * i // count) / rate for i in range(1, count)]
        return list(zip([clip.start_s, *seams], [*seams, clip.end_s], strict=True))
