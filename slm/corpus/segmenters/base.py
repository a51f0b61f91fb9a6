"""The contract of a segmenter: where a recording is cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from slm.audio import AudioInfo
from slm.corpus.sources.base import SourceClip
from slm.errors import AudioError
from slm.registry import Registry

Span = tuple[float, float | None]
"""Start and end in seconds of the file; None: its end, wherever decoding finds it."""


class NoSpeechError(AudioError):
    """A recording that can be decoded and holds nothing to keep."""


class Segmenter(ABC):
    """Cuts recordings into segments of at most `window_s`. A subclass is registered with `@SEGMENTERS.register`."""

    reads_samples: ClassVar[bool] = False
    """Decodes what it cuts: a plan by it takes long, and is kept in smaller parts."""

    def __init__(self, window_s: float):
        self.window_s = window_s

    @abstractmethod
    def cut(self, clip: SourceClip, info: AudioInfo) -> list[Span]:
        """The segments of a clip, in order; none overlap, and each start and end is on a sample of the file. What
        reaches the end of the clip ends as the clip does. What lies in no segment is left out. Raises AudioError for a
        clip that cannot be decoded.
        """

    def settings(self) -> dict[str, Any]:
        """All settings of its own: with others a plan is another."""
        return {}

    @property
    def version(self) -> str:
        """Changes with what decides the cuts beside the settings, such as a model."""
        return ""


SEGMENTERS: Registry[Segmenter] = Registry("segmentation", package="slm.corpus.segmenters", group="slm.segmenters")
