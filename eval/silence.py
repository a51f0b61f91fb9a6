"""Recordings that a model or a codec made: of those, silence is an answer, and counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slm.audio import probe, read_audio
from slm.errors import SilentError


def read_made(path: Path, rate_hz: int, start_s: float = 0.0, end_s: float | None = None) -> np.ndarray:
    """As `read_audio`, but one that is silent throughout is not refused."""
    try:
        return read_audio(path, rate_hz, start_s, end_s)
    except SilentError:
        duration_s = probe(path).duration_s
        end_s = duration_s if end_s is None else min(end_s, duration_s)  # which may be rounded
        return np.zeros(round((end_s - start_s) * rate_hz), np.float32)
