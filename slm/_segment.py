"""Lengths of audio files and segments of them, whatever decodes them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from math import floor, inf

import numpy as np

from slm.errors import AudioError

# Lengths in headers and manifests are rounded, and lossy codecs pad: a difference below this is no fault.
LENGTH_TOLERANCE_S = 0.1
_AROUND_S = 0.25

Blocks = Generator[tuple[int, np.ndarray], None, None]
"""(sample rate, mono float32 `[n]`) block by block, so that a long file is never held with all its channels."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a file says; `num_frames` counts samples per channel."""

    num_frames: int
    sample_rate_hz: int
    channels: int

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.sample_rate_hz

    def segment(self, start_s: float, end_s: float | None) -> tuple[int, int]:
        """First and last (excluded) sample of a segment (None: to the end); AudioError for one that is not there."""
        check_times(start_s, end_s)
        if start_s >= self.duration_s or (end_s or 0) > self.duration_s + LENGTH_TOLERANCE_S:
            raise AudioError(f"segment outside the file: {_shown(start_s, end_s)} of {self.duration_s:.3f} s")
        last = self.num_frames if end_s is None else min(round(end_s * self.sample_rate_hz), self.num_frames)
        return round(start_s * self.sample_rate_hz), last


def mix_down(block: np.ndarray, channel: int | None = None) -> np.ndarray:
    """Float32 `[n, channels]` -> the mean of the channels, or the one asked for, `[n]`."""
    if channel is not None:
        if channel >= block.shape[1]:
            raise AudioError(f"no channel {channel}: it has {block.shape[1]}, counted from 0")
        return block[:, channel]
    return block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]


def check_times(start_s: float, end_s: float | None) -> None:
    """AudioError for times that no file can have: negative, reversed, equal, NaN, infinite."""
    if not 0 <= start_s < (inf if end_s is None else end_s) or end_s == inf:
        raise AudioError(f"not a segment: {_shown(start_s, end_s)}")


def _shown(start_s: float, end_s: float | None) -> str:
    return f"{start_s:g} s to the end" if end_s is None else f"{start_s:g} to {end_s:g} s"


def with_surroundings(start_s: float, end_s: float | None) -> tuple[float, float | None]:
    """What a resampler must hear so that a segment comes out as the same part of the whole file would: a bit more on
    both sides, from a whole second on, where the samples of any two rates meet."""
    return max(0.0, floor(start_s - _AROUND_S)), None if end_s is None else end_s + _AROUND_S


def check_length(got: int, promised: int, rate_hz: int) -> None:
    if got < promised - LENGTH_TOLERANCE_S * rate_hz:
        raise AudioError(f"truncated or corrupt: {got / rate_hz:.3f} of {promised / rate_hz:.3f} s can be decoded")


def cut(blocks: Blocks, start_s: float, end_s: float | None, to_hz: int | None = None) -> Blocks:
    """A segment of a stream whose length is known only at its end, with its surroundings where it is to be resampled
    (`to_hz`); nothing behind it is decoded."""
    position = rate_hz = 0
    with closing(blocks):
        for rate_hz, block in blocks:
            from_s, until_s = (start_s, end_s) if to_hz in (None, rate_hz) else with_surroundings(start_s, end_s)
            end = None if until_s is None else round(until_s * rate_hz)
            part = block[max(0, round(from_s * rate_hz) - position) : None if end is None else end - position]
            position += len(block)
            if len(part):
                yield rate_hz, part
            if end is not None and position >= end:
                return
    if position:
        AudioInfo(position, rate_hz, 1).segment(start_s, end_s)
