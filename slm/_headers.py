"""The two headers that most files of corpora have, read here: opening a million files with a decoder takes minutes.

Only the plainest form of each is taken; all else, and all that looks wrong, is left to the decoders.
"""

from __future__ import annotations

import struct

from slm._segment import AudioInfo

HEADER_BYTES = 64

_WAV = struct.Struct("<4sI4s4sIHHIIHH4sI")
_WAV_BYTES = 44


def info_of_header(head: bytes, num_bytes: int) -> AudioInfo | None:
    """What the first `HEADER_BYTES` of a file of `num_bytes` tell, or None."""
    if head[:4] == b"RIFF" and len(head) >= _WAV_BYTES:
        return _of_wav(head, num_bytes)
    return _of_flac(head) if head[:4] == b"fLaC" and len(head) >= 26 else None


def _of_wav(head: bytes, num_bytes: int) -> AudioInfo | None:
    """PCM, format and samples the only chunks, of the size that the file has."""
    riff = _WAV.unpack(head[:_WAV_BYTES])
    _, _, wave, fmt, fmt_size, tag, channels, rate_hz, _, frame_bytes, bits, data, data_bytes = riff
    plain = (wave, fmt, fmt_size, tag, data) == (b"WAVE", b"fmt ", 16, 1, b"data") and bits in (8, 16, 24, 32)
    whole = data_bytes == num_bytes - _WAV_BYTES and frame_bytes == channels * bits // 8 > 0
    if not (plain and whole and rate_hz and data_bytes % frame_bytes == 0):
        return None
    return AudioInfo(data_bytes // frame_bytes, rate_hz, channels)


def _of_flac(head: bytes) -> AudioInfo | None:
    """STREAMINFO, which comes first (RFC 9639, 8.2); no samples there means that it does not say."""
    if head[4] & 0x7F != 0 or int.from_bytes(head[5:8], "big") != 34:
        return None
    fields = int.from_bytes(head[18:26], "big")  # 20 bits rate, 3 channels - 1, 5 bits a sample - 1, 36 samples
    rate_hz, channels, num_frames = fields >> 44, (fields >> 41 & 7) + 1, fields & (1 << 36) - 1
    return AudioInfo(num_frames, rate_hz, channels) if rate_hz and num_frames else None
