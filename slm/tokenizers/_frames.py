"""Frames of features from audio: what every encoder under a k-means tokenizer gives, and how a long clip is cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from slm.tokenizers._modes import inference

if TYPE_CHECKING:
    import torch


class FrameEncoder(ABC):
    """A signal in; out, for each of `layers`, one feature vector of `width` per frame.

    The frame rule is that of `TokenizerSpec`: T = floor((N + frame_offset_samples) / hop_samples). A clip of more than
    `max_window_frames` frames is encoded as the fewest windows of equal length (within a frame), each as a clip of its
    own: with attention over the whole clip nothing else is bounded, and the features near a cut are not those of the
    clip in one piece. Windows overlap by what the first frame reads beyond its hop, so that no frame is lost.
    """

    sample_rate_hz: int
    hop_samples: int
    frame_offset_samples: int = 0
    width: int
    layers: tuple[int, ...] = (0,)
    max_window_frames: int | None = None
    padding_samples: int = 0

    @abstractmethod
    def features_of(self, part: np.ndarray) -> torch.Tensor:
        """One of the signals of `cut` -> features `[layers, T, width]`, in one piece; fp32 but in mode bf16."""

    def prepared(self, part: np.ndarray) -> np.ndarray:
        """What is done to the whole of a window before the encoder sees it."""
        return part

    @abstractmethod
    def identity(self, layer: int) -> dict[str, Any]:
        """What decides the features of a layer, for a fingerprint: settings and digests of the weights up to it, not
        where they come from."""

    def num_frames(self, num_samples: int) -> int:
        return max(0, (num_samples + self.frame_offset_samples) // self.hop_samples)

    @property
    def window_samples(self) -> int:
        """What a frame is computed from."""
        return self.hop_samples + 2 * self.padding_samples - self.frame_offset_samples

    def features(self, signal: np.ndarray) -> torch.Tensor:
        """Float32 signal `[N]` of at least one frame -> fp32 features `[layers, T, width]` on the encoder's device."""
        import torch

        return torch.cat(list(self.windows(signal)), dim=1)

    def windows(self, signal: np.ndarray) -> Iterator[torch.Tensor]:
        """`features` in consecutive parts, so that the whole of a long clip is never held."""
        for part in self.cut(signal):
            with inference():
                window = self.features_of(part)
            yield window

    def cut(self, signal: np.ndarray) -> Iterator[np.ndarray]:
        """The signals of these parts, `prepared`, each to be taken for a clip of its own."""
        frames = self.num_frames(len(signal))
        if self.padding_samples:
            signal = np.pad(signal, self.padding_samples)
        count = ceil(frames / (self.max_window_frames or frames))
        edges = np.linspace(0, frames, count + 1).round().astype(int)
        for start, end in pairwise(edges):
            stop = len(signal) if end == frames else (end - 1) * self.hop_samples + self.window_samples
            yield self.prepared(signal[start * self.hop_samples : stop])

    def cut_at(self, max_window_s: float, padding_samples: int = 0) -> None:
        """Bound the windows, and put `padding_samples` zeros before and behind each clip, which moves its frames."""
        frames = max(1, int(max_window_s * self.sample_rate_hz / self.hop_samples))
        self.max_window_frames = min(frames, self.max_window_frames or frames)
        self.frame_offset_samples += 2 * (padding_samples - self.padding_samples)
        self.padding_samples = padding_samples
