"""Hours in one clip: memory does not grow with it, beyond the clip itself and what it becomes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slm.tokenizers import TOKENIZERS
from tests.tokenizers.light_codecs import ENCODEC

ROOT = Path(__file__).parents[2]
MEASURE = """
import json, sys
import numpy as np
from slm.tokenizers import load_tokenizer
from slm.types import AudioClip

def kilobytes(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))

name, settings, hours = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
tokenizer = load_tokenizer(name, **settings)
rate = tokenizer.spec.sample_rate_hz
samples = np.random.default_rng(0).standard_normal(int(3600 * rate * hours), np.float32)
samples *= 0.1
before = kilobytes("VmRSS")
[codes] = tokenizer.encode([AudioClip("hours", samples, rate)])
assert len(codes.codes) == tokenizer.spec.num_frames(len(samples))
print(json.dumps([(kilobytes("VmHWM") - before) / 1024, len(np.unique(codes.codes[:1000], axis=0))]))
"""

# Narrower still than in other tests: hours are what matters here.
FORMS: dict[str, dict[str, Any]] = {
    "logmel-kmeans": {},
    "encodec": {**ENCODEC, "num_filters": 2},
}


HOURS = {"logmel-kmeans": 3.0, "encodec": 1.0}


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", FORMS)
def test_hours_need_no_more_memory_than_minutes(name: str, tmp_path: Path) -> None:
    """One pass would hold the first layer alone, several times the samples."""
    settings = {}
    if FORMS[name]:
        TOKENIZERS.get(name).write_untrained(tmp_path / name, **FORMS[name])  # type: ignore[attr-defined]
        settings = {"checkpoint": str(tmp_path / name)}
    measured = []
    hours_long = HOURS[name]
    for hours in (0.2, hours_long):
        command = [sys.executable, "-c", MEASURE, name, json.dumps(settings), str(hours)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        measured.append(json.loads(run.stdout.splitlines()[-1]))
    (short_mb, _), (long_mb, codes) = measured
    assert codes > 1
    assert long_mb < short_mb + 250, f"{short_mb:.0f} MB for 12 minutes, {long_mb:.0f} MB for {hours_long:g} hours"
