"""Segments that keep all of a recording: one, or windows of one length."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

from slm.audio import AudioInfo
from slm.corpus.segmenters.base import SEGMENTERS, Segmenter, Span
from slm.corpus.sources.base import SourceClip


@SEGMENTERS.register("none")
class Whole(Segmenter):
    """Each clip is one segment."""

    def cut(self, clip: SourceClip, info: AudioInfo, span: Span) -> list[Span]:
        return [span]


@SEGMENTERS.register("windows")
class Windows(Segmenter):
    """Parts of equal length, as few as keep to `window_s`, so that no scrap is left. They touch: each seam is the end
    of one and the start of the next, so that nothing is lost or doubled."""

    def cut(self, clip: SourceClip, info: AudioInfo, span: Span) -> list[Span]:
        rate = info.sample_rate_hz
        first, last = (round(time_s * rate) for time_s in span)
        count = max(1, ceil((last - first) / (self.window_s * rate)))
        seams = [first + (last - first) * i // count for i in range(count + 1)]
        return [(a / rate, b / rate) for a, b in pairwise(seams)]
