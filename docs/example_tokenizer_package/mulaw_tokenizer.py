"""Samples on the mu-law scale of telephony (ITU-T G.711, here as the smooth curve) as audio tokens.

A frame is some samples beside each other, each with a codebook of its own of 256 levels: 64 kbit/s at 8 kHz. No
language model would want to read them; the point is a whole tokenizer on one page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from slm.errors import UsageError
from slm.tokenizers.base import Tokenizer, fingerprint
from slm.types import TokenizerSpec

MU = 255


class MuLawTokenizer(Tokenizer):
    """Mu-law samples at 8 kHz, `samples_per_frame` of them in a frame: T = floor(N / samples_per_frame).

    Raises UsageError for frames that hold no sample.
    """

    about: ClassVar[Mapping[str, str]] = {"mulaw": "256 x 8 at 1000 Hz from 8 kHz; decodes; needs nothing"}
    facts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mulaw": {
            "quantizer": "SQ",
            "streamable": True,
            "domains": ["speech"],
            "sample_rate_hz": 8000,
            "hop_samples": 8,
            "codebooks": "256 x 8",
        }
    }

    def __init__(self, samples_per_frame: int = 8, device: str = "cpu"):
        # `device` is part of the contract; what runs on the CPU alone accepts and ignores it.
        if samples_per_frame < 1:
            raise UsageError(f"samples_per_frame must be at least 1, not {samples_per_frame}")
        settings = {"samples_per_frame": samples_per_frame}
        self.spec = TokenizerSpec(
            name="mulaw",
            fingerprint=fingerprint({"family": "mulaw", "version": 1, "mu": MU, **settings}),  # and weights, if any
            sample_rate_hz=8000,
            hop_samples=samples_per_frame,
            codebook_sizes=(MU + 1,) * samples_per_frame,
            settings=settings,  # load_tokenizer(spec) builds the same tokenizer of these
            taxonomy={"quantizer": "SQ", "bitrate": "fixed", "streamable": "yes", "domains": "speech"},
        )

    def _encode(self, signals: Sequence[np.ndarray]) -> list[np.ndarray]:
        # One by one: whatever the other clips of the batch are, a clip's codes stay the same.
        return [self._encode_one(signal) for signal in signals]

    def _encode_one(self, signal: np.ndarray) -> np.ndarray:
        whole = signal[: len(signal) // self.spec.hop_samples * self.spec.hop_samples].astype(np.float64)
        level = np.sign(whole) * np.log1p(MU * np.minimum(np.abs(whole), 1)) / np.log1p(MU)
        return np.rint((level + 1) / 2 * MU).astype(np.int64).reshape(-1, self.spec.hop_samples)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        level = codes.reshape(-1) / MU * 2 - 1
        return (np.sign(level) * np.expm1(np.abs(level) * np.log1p(MU)) / MU).astype(np.float32)
