"""What a voice can do, and how a reading becomes a file: trimmed, 16 kHz, 16 bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

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

    language: str
    """"en", "fr": without region."""

    def learn(self, words: Iterable[str]) -> None:
        """Told once of all words that there are, before `ipa` and `spoken` are asked."""
        ...

    def phonemize(self, text: str) -> str:
        """In the voice's own alphabet; empty for what it cannot read."""
        ...

    def synthesize(self, phonemes: str, speed: float, seed: int) -> np.ndarray:
        """float32 `[N]` at `rate_hz`."""
        ...

    def pronunciations(self) -> list[str]:
        """Its lexicon, in its own alphabet: what counts as a real word. Empty where it has none."""
        ...

    def ipa(self, phonemes: str) -> tuple[str, ...]:
        """Its own alphabet -> IPA phonemes, stress before the vowel."""
        ...

    def spoken(self, pronunciation: Sequence[str]) -> str | None:
        """IPA phonemes -> its own alphabet; None where it lacks one."""
        ...


def render(voice: Voice, phonemes: str, speed: float, seed: int) -> np.ndarray:
    """int16 `[N]` at 16 kHz, silence at both ends cut to 40 ms."""
    import soxr

    samples = soxr.resample(voice.synthesize(phonemes, speed, seed), voice.rate_hz, RATE_HZ)
    return (np.clip(trim(samples), -1, 1) * 32767).astype(np.int16)


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut what is quieter than 40 dB below the loudest 10 ms at both ends, all but 40 ms. Nothing of pure silence."""
    hop = RATE_HZ // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    energy = np.square(frames).mean(axis=1)
    if not energy.any():
        return samples
    loud = np.flatnonzero(energy > energy.max() * 10 ** (SILENCE_DB / 10))
    margin = round(MARGIN_S * RATE_HZ)
    return samples[max(0, loud[0] * hop - margin) : (loud[-1] + 1) * hop + margin]
