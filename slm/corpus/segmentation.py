"""The options that cut long recordings into segments, and limits on the length of what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from slm.corpus.segmenters import SEGMENTERS, Segmenter
from slm.errors import UsageError

_SHORTEST_WINDOW_S = 0.1


@dataclass(frozen=True)
class Segmentation:
    """How recordings are cut, and which segments are kept."""

    kind: str = "none"
    """none: each clip whole; windows: in parts of equal length, as few as keep to window_s; vad: the speech in it by
    Silero VAD, cut at pauses, without the silence."""
    window_s: float = 30.0
    """The longest segment that windows and vad make."""
    min_s: float = 0.0
    """Shorter segments are left out."""
    max_s: float | None = None
    """Longer segments are left out."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the kind; of vad: threshold 0.5, min_speech_s 0.25, min_silence_s 0.1, pad_s 0.03 (Silero VAD's),
    max_pause_s 1.0 (a longer pause ends a segment)."""

    def __post_init__(self) -> None:
        if not _SHORTEST_WINDOW_S <= self.window_s < inf:
            raise UsageError(f"--segmentation.window_s must be {_SHORTEST_WINDOW_S:g} or more, not {self.window_s:g}")
        for name, limit_s in {"min_s": self.min_s, "max_s": self.max_s}.items():
            if limit_s is not None and not 0 <= limit_s < inf:
                raise UsageError(f"--segmentation.{name} must be 0 or more, not {limit_s:g}")
        if self.max_s is not None and not self.max_s > self.min_s:
            raise UsageError(f"--segmentation.max_s {self.max_s:g} must be above --segmentation.min_s {self.min_s:g}")
        self.segmenter()

    def segmenter(self) -> Segmenter:
        """UsageError for an unknown kind or setting, and where what it needs is not installed."""
        return SEGMENTERS.create(self.kind, {"window_s": self.window_s}, **self.settings)

    def to_dict(self) -> dict[str, Any]:
        """With all settings of the kind, so that plans by other defaults are told apart."""
        own = {"kind": self.kind, "window_s": self.window_s, "min_s": self.min_s, "max_s": self.max_s}
        return {**own, "settings": self.segmenter().settings()}

    def complaint(self, duration_s: float) -> str | None:
        """Why a segment of this length is left out, if it is."""
        if duration_s < self.min_s:
            return f"shorter than asked for: {duration_s:.3f} s, below {self.min_s:g} s"
        if self.max_s is not None and duration_s > self.max_s:
            return f"longer than asked for: {duration_s:.3f} s, above {self.max_s:g} s"
        return None
