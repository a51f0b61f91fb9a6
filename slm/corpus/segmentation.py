"""Long recordings into segments: not at all, in windows of one length; and limits on the length of what is kept."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Literal

from slm.audio import AudioInfo
from slm.errors import UsageError

SegmentKind = Literal["none", "windows"]


@dataclass(frozen=True)
class Segmentation:
    """How recordings are cut. `kind` none: each clip whole; windows: in parts of equal length, as few as keep to
    `window_s`, so that no scrap is left. What is then shorter than `min_s` or longer than `max_s` is left out."""

    kind: SegmentKind = "none"
    window_s: float = 30.0
    min_s: float = 0.0
    max_s: float | None = None

    def __post_init__(self) -> None:
        if not self.window_s > 0:
            raise UsageError(f"--window_s must be above 0, not {self.window_s}")
        if self.max_s is not None and not self.max_s > self.min_s:
            raise UsageError(f"--max_s {self.max_s:g} must be above --min_s {self.min_s:g}")

    def cut(self, start_s: float, end_s: float, info: AudioInfo) -> list[tuple[float, float]]:
        """Segments of start_s..end_s that touch: each seam is on a sample of the file, the end of one and the start of
        the next, so that nothing is lost or doubled."""
        if self.kind == "none":
            return [(start_s, end_s)]
        rate = info.sample_rate_hz
        first, last = round(start_s * rate), round(end_s * rate)
        count = max(1, ceil((last - first) / (self.window_s * rate)))
        seams = [first + (last - first) * i // count for i in range(count + 1)]
        return [(a / rate, b / rate) for a, b in pairwise(seams)]

    def complaint(self, duration_s: float) -> str | None:
        """Why a segment of this length is left out, if it is."""
        if duration_s < self.min_s:
            return f"shorter than asked for: {duration_s:.3f} s, below {self.min_s:g} s"
        if self.max_s is not None and duration_s > self.max_s:
            return f"longer than asked for: {duration_s:.3f} s, above {self.max_s:g} s"
        return None
