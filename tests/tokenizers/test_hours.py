"""Hours in one clip: memory does not grow with it, beyond the clip itself and what it becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slm.tokenizers import TOKENIZERS
from slm.tokenizers._untrained_encoders import write_untrained_units
from tests.tokenizers.light_codecs import ENCODEC

ROOT = Path(__file__).parents[2]
MEASURE = """
import json, sys
import numpy as np
from slm.tokenizers import load_tokenizer
from slm.types import AudioClip

def megabytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024

def beyond(run):
    # What is held at most while it runs, above what was held before.
    before = megabytes("VmRSS")
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    made = run()
    return made, megabytes("VmHWM") - before

source, settings, hours = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
tokenizer = load_tokenizer(source, **settings)
rate = tokenizer.spec.sample_rate_hz
samples = np.random.default_rng(0).standard_normal(int(3600 * rate * hours), np.float32)
samples *= 0.1
[codes], encoding_mb = beyond(lambda: tokenizer.encode([AudioClip("hours", samples, rate)]))
assert len(codes.codes) == tokenizer.spec.num_frames(len(samples))
decoding_mb = 0.0
if tokenizer.spec.has_decoder:
    audio, decoding_mb = beyond(lambda: tokenizer.decode(codes))
    decoding_mb -= audio.samples.nbytes / 1e6
print(json.dumps([encoding_mb, decoding_mb, len(np.unique(codes.codes[:1000], axis=0))]))
"""

# Narrower still than in other tests: hours are what matters here.
UNITS: dict[str, Any] = {
    "conv_dim": (16,) * 7,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_conv_pos_embedding_groups": 4,
}
FORMS: dict[str, dict[str, Any]] = {
    "logmel-kmeans": {},
    "encodec": {**ENCODEC, "num_filters": 2},
    "sq-codec": {"init_channel": 4},
    "hubert-base": UNITS,
}
HOURS = {"logmel-kmeans": 3.0, "encodec": 0.5, "sq-codec": 0.5, "hubert-base": 0.5}
MORE_MB = {"logmel-kmeans": 250, "encodec": 150, "sq-codec": 150, "hubert-base": 150}
"""What may be added by the additional audio: results, and what the allocator keeps."""


def written(name: str, folder: Path) -> tuple[str, dict[str, str]]:
    """An untrained tokenizer -> what loads it."""
    if name == "hubert-base":
        return str(write_untrained_units(folder / name, name, [1], k=50, **FORMS[name])), {}
    if not FORMS[name]:
        return name, {}
    TOKENIZERS.get(name).write_untrained(folder / name, **FORMS[name])  # type: ignore[attr-defined]
    return name, {"checkpoint": str(folder / name)}


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", FORMS)
def test_hours_need_no_more_memory_than_minutes(name: str, tmp_path: Path) -> None:
    """One pass would hold the first layer alone, several times the samples."""
    source, settings = written(name, tmp_path)
    measured = []
    for hours in (0.2, HOURS[name]):
        command = [sys.executable, "-c", MEASURE, source, json.dumps(settings), str(hours)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        measured.append(json.loads(run.stdout.splitlines()[-1]))
    *short_mb, _ = measured[0]
    *long_mb, codes = measured[1]
    assert codes > 1
    for way, short, long in zip(("encoding", "decoding"), short_mb, long_mb, strict=True):
        told = f"{way}: {short:.0f} MB for 12 minutes, {long:.0f} MB for {HOURS[name]:g} hours"
        assert long < short + MORE_MB[name], told
