"""Log-mel spectrograms as PNG: one pixel a frame and band, loud in light colours."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

BANDS, COLUMNS = 80, 600
RANGE_DB = 70.0
# Dark blue to pale yellow with even steps of lightness, so that it reads in grey and to the colour-blind.
COLOURS = ((13, 8, 35), (59, 18, 98), (122, 33, 106), (185, 53, 92), (232, 92, 65), (249, 152, 58), (252, 216, 120),
           (252, 253, 214))  # fmt: skip


def log_mel_db(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """`[N]` -> `[BANDS, frames]`: power in dB below the loudest of it, at least -RANGE_DB; high bands last.

    Frames of 40 ms; as many as COLUMNS at most. Silence is -RANGE_DB everywhere. Slaney's filters of `transformers`.
    """
    from transformers.audio_utils import mel_filter_bank

    size = max(256, int(2 ** np.ceil(np.log2(0.04 * rate_hz))))
    hop = max(size // 4, -(-len(samples) // COLUMNS))
    padded = np.pad(np.asarray(samples, np.float64), size // 2)
    starts = np.arange(0, max(1, len(samples)), hop)[:COLUMNS]
    frames = np.stack([padded[s : s + size] for s in starts])
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    filters = mel_filter_bank(size // 2 + 1, BANDS, 0.0, rate_hz / 2, rate_hz, norm=None, mel_scale="slaney")
    mel = power @ filters
    loudest = float(mel.max())
    if loudest <= 1e-10:
        return np.full((BANDS, len(starts)), -RANGE_DB)
    return np.maximum(10 * np.log10(np.maximum(mel, 1e-20) / loudest), -RANGE_DB).T


def write_spectrogram(samples: np.ndarray, rate_hz: int, path: Path) -> None:
    """The picture of a recording, low bands at its bottom."""
    shares = 1 + log_mel_db(samples, rate_hz)[::-1] / RANGE_DB
    at = np.linspace(0, 1, len(COLOURS))
    pixels = np.stack([np.interp(shares, at, [c[i] for c in COLOURS]) for i in range(3)], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.round(pixels).astype(np.uint8)))


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 `[height, width, 3]` -> the bytes of a PNG (8-bit RGB, no filter)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
