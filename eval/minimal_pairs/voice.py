"""The voice that reads everything, and how a reading becomes a file: trimmed, 16 kHz, 16 bits."""

from __future__ import annotations

import gzip
import json
from importlib.metadata import version
from importlib.resources import files
from typing import Protocol

import numpy as np

from slm.errors import UsageError

RATE_HZ = 16_000
FRAME_SAMPLES = 320  # 20 ms: the step of most semantic tokenizers
SILENCE_DB = -40.0  # below the loudest frame: what is trimmed at both ends
MARGIN_S = 0.04  # what is left of it
SPEEDS = (0.85, 1.05)  # utterances are read at speeds drawn from this range; above it hibari hardly gets faster


class Voice(Protocol):
    """A speech synthesizer that takes phonemes and a seed and is deterministic."""

    name: str
    """Name of the speaker."""
    engine: str
    """Package and version."""
    rate_hz: int

    def phonemize(self, text: str) -> str: ...

    def synthesize(self, phonemes: str, speed: float, seed: int) -> np.ndarray:
        """float32 `[N]` at `rate_hz`."""
        ...

    def pronunciations(self) -> list[str]:
        """Its lexicon: what counts as a real word."""
        ...


class HibariVoice:
    """hibari-tts, voice "heart" (Apache-2.0, in the wheel). UsageError when the package is missing."""

    name = "heart"
    rate_hz = 24_000

    def __init__(self) -> None:
        try:
            from hibari import Hibari
        except ImportError as error:
            raise UsageError("minimal pairs need the package hibari-tts: pip install hibari-tts==0.2.1") from error
        self.engine = f"hibari-tts {version('hibari-tts')}"
        self._tts = Hibari(voice=self.name, threads=1)

    def phonemize(self, text: str) -> str:
        return " ".join(self._tts.phonemize(text))

    def synthesize(self, phonemes: str, speed: float, seed: int) -> np.ndarray:
        return self._tts.from_phonemes(phonemes, speed=speed, seed=seed)

    def pronunciations(self) -> list[str]:
        found: list[str] = []
        for name in ("lexicon_us_gold.json.gz", "lexicon_us_silver.json.gz"):
            entries = json.loads(gzip.decompress(files("hibari").joinpath("assets", name).read_bytes()))
            for entry in entries.values():
                found += [p for p in (entry.values() if isinstance(entry, dict) else [entry]) if p]
        return found


def render(voice: Voice, phonemes: str, speed: float, seed: int) -> np.ndarray:
    """int16 `[N]` at 16 kHz, silence at both ends cut to 40 ms."""
    import soxr

    samples = soxr.resample(voice.synthesize(phonemes, speed, seed), voice.rate_hz, RATE_HZ)
    return (np.clip(trim(samples), -1, 1) * 32767).astype(np.int16)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut what is quieter than 40 dB below the loudest 10 ms at both ends, all but 40 ms."""
    hop = RATE_HZ // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    energy = np.square(frames).mean(axis=1)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (SILENCE_DB / 10))
    margin = round(MARGIN_S * RATE_HZ)
    return samples[max(0, loud[0] * hop - margin) : (loud[-1] + 1) * hop + margin]
