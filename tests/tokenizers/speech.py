"""A few real clips of the repository, for tests of tokenizers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from slm.types import AudioClip

SPEECH = Path(__file__).parents[1] / "data" / "speech"


@cache
def real_clips(sample_rate_hz: int, count: int = 4) -> tuple[AudioClip, ...]:
    """`count` clips spread over the languages, at most 2.5 s of each."""
    rows = [json.loads(line) for line in (SPEECH / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    clips = []
    for row in rows[:: max(1, len(rows) // count)][:count]:
        samples, rate = soundfile.read(SPEECH / row["path"], dtype="float32")
        samples = soxr.resample(samples, rate, sample_rate_hz).astype(np.float32)[: int(2.5 * sample_rate_hz)]
        clips.append(AudioClip(row["id"], samples, sample_rate_hz, {"text": row["text"]}))
    return tuple(clips)
