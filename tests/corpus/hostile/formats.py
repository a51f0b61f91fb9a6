"""Formats, depths, channels, rates and names of formats, all of them sound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.corpus.hostile.base import Heard, case, encoded, sound
from tests.encode import encode_with_ffmpeg

AAC, OPUS = ("aac", 48_000, "fltp"), ("libopus", 48_000, "flt")


def depths_channels_and_rates() -> None:
    depths = {"PCM_U8": 6, "PCM_16": 1, "PCM_24": 1, "PCM_32": 1, "FLOAT": 1, "DOUBLE": 1, "ULAW": 8, "ALAW": 8}
    for subtype, tolerance in {**depths, "IMA_ADPCM": 8, "MS_ADPCM": 8, "G721_32": 15}.items():
        name = f"depth {subtype}.wav"
        case(name, encoded(sound(name), subtype=subtype), Heard(name, tolerance))
    name = "depth GSM610.wav"
    case(name, encoded(sound(name, lossy=True), subtype="GSM610"), Heard(name, 60, lossy=True))
    for count in (2, 3, 8):
        name = f"{count} channels.wav"
        shares = np.arange(count) / np.arange(count).mean()
        case(name, encoded(sound(name)[:, None] * shares, subtype="FLOAT"))
    for rate_hz in (11_025, 12_345, 44_100, 96_000, 192_000):
        name = f"rate {rate_hz}.flac"
        case(name, encoded(sound(name, rate_hz), rate_hz, "FLAC", subtype="PCM_24"))
    for samples, outcome in {0: "empty", 1: "too short", 159: "too short", 160: None}.items():
        name = f"{samples} samples.wav"
        heard = Heard(name, duration_s=samples / 8000) if outcome is None else outcome
        case(name, encoded(sound(name, 8000, max(samples, 1) / 8000)[:samples], subtype="FLOAT"), heard)


def formats_of_sndfile() -> None:
    others = {
        "aiff": ("AIFF", "PCM_S8", 6), "aif": ("AIFF", "PCM_24", 1), "aifc": ("AIFF", "FLOAT", 1),
        "au": ("AU", "ULAW", 8), "snd": ("AU", "DOUBLE", 1), "caf": ("CAF", "ALAC_16", 1), "w64": ("W64", "PCM_16", 1),
        "rf64": ("RF64", "PCM_24", 1), "sph": ("NIST", "PCM_16", 1), "voc": ("VOC", "PCM_U8", 6),
        "flac": ("FLAC", "PCM_S8", 6),
    }  # fmt: skip
    for suffix, (format, subtype, tolerance) in others.items():
        name = f"format.{suffix}"
        case(name, encoded(sound(name), 8000, format, subtype=subtype), Heard(name, tolerance))
    name = "big endian (RIFX).wav"
    case(name, encoded(sound(name), subtype="PCM_16", endian="BIG"))
    name = "UPPER.WAV"
    case(name, encoded(sound(name)))
    for suffix, subtype, rate_hz in [("ogg", "VORBIS", 44_100), ("opus", "OPUS", 48_000), ("mp3", None, 44_100)]:
        name = f"lossy.{suffix}"
        data = encoded(sound(name, rate_hz, lossy=True), rate_hz, "MP3" if subtype is None else "OGG", subtype=subtype)
        case(name, data, Heard(name, 20, lossy=True))


def by_ffmpeg(
    name: str,
    settings: tuple,
    outcome: str | None = None,
    delay_s: float = 0.0,
    then: Callable[[Path], None] = lambda path: None,
    tolerance: int = 40,
    **options: str,
) -> None:
    """A file of FFmpeg's, of its codec, rate, sample format and container; `then` something is done to it."""

    def put(path: Path) -> None:
        encode_with_ffmpeg(path, sound(name, 48_000, lossy=True), 48_000, *settings, **options)
        then(path)

    case(name, put, outcome or Heard(name, tolerance, lossy=True, delay_s=delay_s))


def formats_of_ffmpeg() -> None:
    import av

    by_ffmpeg("lossy.m4a", (*AAC, "ipod"))
    for name, container in {"a tag that is no text.m4a": "ipod", "a tag that is no text.mka": "matroska"}.items():
        by_ffmpeg(name, (*AAC, container), then=_spoil_tag)
    by_ffmpeg("in fragments.mp4", (*AAC, "mp4"), delay_s=1024 / 48_000, movflags="frag_keyframe+empty_moov")
    by_ffmpeg("lossless.m4a", ("alac", 48_000, "s16p", "ipod"))
    by_ffmpeg("lossy.aac", (*AAC, "adts"), delay_s=1024 / 48_000, tolerance=80)
    by_ffmpeg("lossy.webm", (*OPUS, "webm"))
    by_ffmpeg("of another program.opus", (*OPUS, "ogg"))
    by_ffmpeg("live without length.webm", (*OPUS, "webm"), live="1")
    by_ffmpeg("lossless.mka", ("flac", 48_000, "s16", "matroska"))
    by_ffmpeg("headerless.g722", ("g722", 16_000, "s16", "g722"), delay_s=22 / 16_000)
    if "libopencore_amrnb" in av.codecs_available:  # not in PyAV 19
        by_ffmpeg("telephone.amr", ("libopencore_amrnb", 8_000, "s16", "amr"), delay_s=0.006, tolerance=90)
    by_ffmpeg("an m4a called.wav", (*AAC, "ipod"))
    by_ffmpeg("a webm called.mp3", (*OPUS, "webm"))
    by_ffmpeg("colon: a name, no protocol.m4a", (*AAC, "ipod"))
    by_ffmpeg("g722 in a.wav", ("g722", 16_000, "s16", "wav"), "corrupt or not audio")


def _spoil_tag(path: Path) -> None:
    """The name of the encoder is no UTF-8."""
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xff\xfe\xfd\xfc"))
