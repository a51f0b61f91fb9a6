"""Hostile input: what people's folders hold beside sound files that are whole.

Each case is a name in the folder, what puts it there, and what must become of it: `Heard`, the codes of the closed form
that went in, or the reason for which it is left out.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from slm.types import TokenizerSpec
from tests.fakes import ArithmeticTokenizer

DURATION_S = 0.6


class LevelTokenizer(ArithmeticTokenizer):
    """Mean and root mean square of each frame of 20 ms, in thousandths (the mean plus 1000)."""

    def __init__(self) -> None:
        super().__init__(2, 8192)
        self.spec = TokenizerSpec(**{**self.spec.__dict__, "name": "level", "fingerprint": "level"})

    def _encode_one(self, signal: np.ndarray) -> np.ndarray:
        return levels(signal)


def levels(signal: np.ndarray) -> np.ndarray:
    """Codes `[T, 2]` of a signal at 8 kHz."""
    frames = signal[: len(signal) // 160 * 160].reshape(-1, 160).astype(np.float64)
    means, powers = frames.mean(axis=1), (frames**2).mean(axis=1)
    return np.rint(np.stack([1000 + 1000 * means, 1000 * np.sqrt(powers)], axis=1)).astype(np.int64)


@dataclass(frozen=True)
class Heard:
    """Tokenized: the sound of `of`, each code within `tolerance`; of lossy codecs, which may drop what lies below the
    audible, only the second. Decoders put `delay_s` before it where no header tells them not to."""

    of: str
    tolerance: int = 1
    lossy: bool = False
    delay_s: float = 0.0
    duration_s: float = DURATION_S

    def expected(self) -> np.ndarray:
        return levels(sound(self.of, 8000, self.duration_s, self.lossy, self.delay_s))


@dataclass(frozen=True)
class Case:
    put: Callable[[Path], object]
    outcome: Heard | str | None
    """None: not even looked at."""


CASES: dict[str, Case] = {}
"""By path in the folder, as text that may hold escapes of bytes (`os.fsdecode`)."""


def sound(
    name: str, rate_hz: int = 8000, duration_s: float = DURATION_S, lossy: bool = False, delay_s: float = 0.0
) -> np.ndarray:
    """Float64 samples of a sound that is this name's own, from nothing to nothing: a tone, on a wave of 3 Hz that lossy
    codecs would take away."""
    pitch_hz, phase, wobble = np.random.default_rng(zlib.crc32(os.fsencode(name))).uniform([300, 0, 2], [700, 6, 6])
    t = np.arange(round(duration_s * rate_hz)) / rate_hz - delay_s
    shape = np.where((t > 0) & (t < duration_s), np.sin(np.pi * t / duration_s) ** 2, 0)
    tone = 0.3 * (1 + 0.5 * np.sin(2 * np.pi * wobble * t + phase)) * np.sin(2 * np.pi * pitch_hz * t)
    return shape * (tone + (0 if lossy else 0.2 * np.sin(2 * np.pi * 3 * t + phase)))


def encoded(samples: np.ndarray, rate_hz: int = 8000, format: str = "WAV", **settings: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=format, **settings)
    return file.getvalue()


def case(name: str, data: bytes | Callable[[Path], object], outcome: Heard | str | None = None) -> None:
    """A file of these bytes, or what is put there; without an outcome its own sound must be heard."""
    assert name not in CASES, name
    put = data if callable(data) else lambda path: path.write_bytes(data)
    CASES[name] = Case(put, Heard(name) if outcome is None else outcome)


def replaced(data: bytes, at: int, value: int, size: int = 4) -> bytes:
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def then_cut(path: Path, share: float) -> None:
    """Leave the file without its end, as an interrupted copy does."""
    os.truncate(path, int(path.stat().st_size * share))
