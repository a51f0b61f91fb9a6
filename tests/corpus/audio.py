"""Small folders of audio for the tests of the corpus."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import soundfile


def write_clip(path: Path, duration_s: float, rate_hz: int = 8000, channels: int = 1, seed: int = 0) -> Path:
    """Steps of random level, 20 ms each: every frame of the arithmetic tokenizer gets its own code."""
    rng = np.random.default_rng(seed)
    num_samples = round(duration_s * rate_hz)
    levels = rng.uniform(-0.9, 0.9, num_samples // (rate_hz // 50) + 1)
    samples = np.repeat(levels, rate_hz // 50)[:num_samples].astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), np.stack([samples] * channels, 1), rate_hz, subtype="FLOAT")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a corpus by name, but for the logs, which tell of runs."""
    files = (path for path in folder.iterdir() if path.is_file() and not fnmatch(path.name, "log*.jsonl"))
    return {path.name: path.read_bytes() for path in files}


def good_folder(folder: Path, clips: int = 7) -> Path:
    """Clips of 0.3, 0.5, 0.7, ... s."""
    for i in range(clips):
        write_clip(folder / f"clip-{i}.wav", 0.3 + 0.2 * i, seed=i)
    return folder


def bad_folder(folder: Path) -> dict[str, str]:
    """Add a file of each fault; id -> the kind of its reason."""
    write_clip(folder / "hundred-samples.wav", 100 / 8000)
    write_clip(folder / "nan.wav", 0.5)
    samples = np.full(4000, 0.5)
    soundfile.write(str(folder / "nan.wav"), np.append(samples, np.nan), 8000, subtype="FLOAT")
    soundfile.write(str(folder / "silent.wav"), np.zeros(4000), 8000)
    soundfile.write(str(folder / "no-samples.wav"), np.zeros(0), 8000)
    (folder / "zero-bytes.flac").touch()
    (folder / "text.mp3").write_text("this is no audio " * 50)
    (folder / "link.wav").symlink_to(folder / "gone.wav")
    whole = write_clip(folder / "truncated.wav", 1.0).read_bytes()
    (folder / "truncated.wav").write_bytes(whole[:9000])
    return {
        "hundred-samples": "too short",
        "link": "missing file",
        "nan": "NaN or infinite samples",
        "no-samples": "empty",
        "silent": "silent",
        "text": "not audio",
        "truncated": "truncated",
        "zero-bytes": "empty",
    }
