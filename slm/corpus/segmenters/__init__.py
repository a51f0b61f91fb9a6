"""How recordings are cut into segments; each kind is one small class."""

from slm.corpus.segmenters.base import SEGMENTERS, NoSpeechError, Segmenter, Span

__all__ = ["SEGMENTERS", "NoSpeechError", "Segmenter", "Span"]
