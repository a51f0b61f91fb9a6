"""The shipped clips are what their manifest says."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

FOLDER = Path(__file__).parent / "speech"
ROWS = [json.loads(line) for line in (FOLDER / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def test_counts_per_language_speaker_and_licence():
    assert Counter(row["language"] for row in ROWS) == {"en": 60, "es": 12, "fr": 12, "it": 12, "ru": 12}
    people = {(row["language"], row["speaker"], row["licence"]) for row in ROWS}
    assert people == {
        ("en", "allison", "CC-BY-SA-3.0"), ("es", "allison", "CC-BY-SA-3.0"), ("fr", "june", "CC-BY-SA-3.0"),
        ("it", "carlo", "CC-BY-3.0"), ("ru", "ivrvoice", "CC-BY-3.0"),
    }  # fmt: skip
    assert len({row["id"] for row in ROWS}) == len(ROWS)


def test_manifest_lists_every_file_and_no_other():
    on_disk = {path.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*")}
    assert on_disk == {row["path"] for row in ROWS}
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.opus")) < 1_600_000


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_clip_opens_at_16_khz_with_the_stated_duration(row):
    samples, rate_hz = sf.read(FOLDER / row["path"], dtype="float32")
    assert rate_hz == 16_000
    assert samples.ndim == 1
    assert abs(len(samples) / rate_hz - row["duration_s"]) < 1e-4
    assert 1.2 <= row["duration_s"] <= 9
    assert len(row["text"].split()) >= 3
    # Speech, not silence: the loudest 10 % of 20-ms frames stand well above the quietest.
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    low, high = np.quantile(np.sqrt((frames**2).mean(axis=1)), (0.1, 0.9))
    assert high > 0.02
    assert high > 3 * low


def test_cyrillic_and_accents_survived():
    assert all(any("а" <= c.lower() <= "я" for c in row["text"]) for row in ROWS if row["language"] == "ru")
    assert any("é" in row["text"] for row in ROWS if row["language"] == "fr")


def test_attribution_names_every_speaker_and_licence():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for needed in (
        "Allison Smith",
        "June Wallack",
        "Carlo Flora",
        "Maxim Topal",
        "licenses/by-sa/3.0",
        "licenses/by/3.0",
    ):
        assert needed in text
