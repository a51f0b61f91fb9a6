"""Headers that lie, files that are cut or damaged, samples that are none, and what is no audio at all."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.corpus.hostile.base import Heard, case, encoded, sound, then_cut
from tests.corpus.hostile.formats import AAC, OPUS, by_ffmpeg
from tests.encode import encode_with_ffmpeg


def headers_that_lie() -> None:
    def lying(name: str, at: int, value: int, size: int = 4, outcome: Heard | str | None = None) -> None:
        case(name, _replaced(encoded(sound(name)), at, value, size), outcome)

    lying("riff size 0.wav", 4, 0)
    lying("riff size max.wav", 4, 0xFFFFFFFF)
    lying("data size 0.wav", 40, 0, 4, "empty")
    lying("data size max.wav", 40, 0xFFFFFFFF)
    lying("data size of a pipe.wav", 40, 0x7FFFF000)
    lying("data size too large.wav", 40, 50_000, 4, "truncated")
    lying("no channels.wav", 22, 0, 2, "corrupt or not audio")
    lying("65535 channels.wav", 22, 0xFFFF, 2, "corrupt or not audio")
    lying("rate 0.wav", 24, 0, 4, "corrupt or not audio")
    lying("rate 1.wav", 24, 1, 4, "not audio")
    lying("rate 2147483647.wav", 24, 2**31 - 1, 4, "not audio")
    lying("no bits.wav", 34, 0, 2, "corrupt or not audio")
    lying("unknown codec.wav", 20, 0x1234, 2, "corrupt or not audio")
    large = b"junk\0\0\4\0" + bytes(1 << 18)
    for name, chunk in {"odd chunk.wav": b"LIST\5\0\0\0abcde\0", "large chunk.wav": large}.items():
        data = encoded(sound(name))
        case(name, data[:36] + chunk + data[36:])
    name = "odd chunk, no padding.wav"
    data = encoded(sound(name))
    case(name, data[:36] + b"LIST\5\0\0\0abcde" + data[36:], "corrupt or not audio")
    case("no data.wav", data[:36], "corrupt or not audio")
    case("data before fmt.wav", data[:12] + data[36:] + data[12:36], "corrupt or not audio")
    name = "junk behind.wav"
    case(name, encoded(sound(name)) + b"junk" * 1000)
    name = "ID3 before.flac"
    case(name, b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + encoded(sound(name), format="FLAC"))
    name = "no length.flac"
    data = bytearray(encoded(sound(name), format="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    case(name, bytes(data))


def _replaced(data: bytes, at: int, value: int, size: int = 4) -> bytes:
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def _noise(format: str, subtype: str | None = None, rate_hz: int = 48_000) -> bytes:
    """Two seconds that do not compress: cut anywhere, much is missing."""
    return encoded(0.1 * np.random.default_rng(0).standard_normal(2 * rate_hz), rate_hz, format, subtype=subtype)


def _damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 200]) + data[middle + 200 :]


def cut_and_damaged() -> None:
    told = {"wav": "WAV", "aiff": "AIFF", "au": "AU", "w64": "W64", "rf64": "RF64", "voc": "VOC"}
    found = {"flac": "FLAC", "mp3": "MP3", "sph": "NIST"}
    for suffix, format in {**told, **found, "caf": "CAF"}.items():
        data = _noise(format)
        kind = "truncated" if suffix in told else "truncated or corrupt" if suffix in found else "corrupt or not audio"
        case(f"cut.{suffix}", data[: len(data) * 2 // 3], kind)
    for suffix, subtype in {"ogg": "VORBIS", "opus": "OPUS"}.items():
        data = _noise("OGG", subtype)
        case(f"cut in a page.{suffix}", data[: len(data) * 2 // 3], "truncated")
        pages = [found.start() for found in re.finditer(b"OggS", data)]
        case(f"cut between pages.{suffix}", data[: pages[-2]], "truncated")
        case(f"cut before its last page.{suffix}", data[: pages[-1]], "truncated")
        case(f"damaged page.{suffix}", _damaged(data), "corrupt")
        case(f"chained.{suffix}", data + data, "chained Ogg")
        case(f"headers only.{suffix}", data[: data.index(b"OggS", 4)], "corrupt or not audio")
    case("broken frame.flac", _damaged(_noise("FLAC", rate_hz=16_000)), "truncated or corrupt")
    case("header only.flac", _noise("FLAC")[:86], "truncated or corrupt")
    case("header only.wav", encoded(np.zeros(0)), "empty")
    for suffix in ("wav", "flac", "mp3", "opus", "g722", "m4a", "webm"):
        case(f"nothing in it.{suffix}", b"", "empty")
    by_ffmpeg("cut.m4a", (*AAC, "ipod"), "corrupt or not audio", then=lambda path: then_cut(path, 0.5))
    by_ffmpeg("cut.webm", (*OPUS, "webm"), "truncated or corrupt", then=lambda path: then_cut(path, 0.5))
    by_ffmpeg(
        "of another program, cut.opus", (*OPUS, "ogg"), "truncated", then=_without_last_page, page_duration="100000"
    )
    by_ffmpeg("changes its rate.aac", (*AAC, "adts"), "the sample rate changes inside the file", then=_then_slower)


def _without_last_page(path: Path) -> None:
    data = path.read_bytes()
    assert data.count(b"OggS") > 4
    path.write_bytes(data[: data.rindex(b"OggS")])


def _then_slower(path: Path) -> None:
    first = path.read_bytes()
    encode_with_ffmpeg(path, sound("slow", 48_000), 48_000, "aac", 24_000, "fltp", "adts")
    path.write_bytes(first + path.read_bytes())


def around_an_mp3() -> None:
    def mp3(name: str, around: Callable[[bytes], bytes], outcome: Heard | str | None = None) -> None:
        data = encoded(sound(name, 44_100, lossy=True), 44_100, "MP3", bitrate_mode="VARIABLE")
        case(name, around(data), outcome or Heard(name, 20, lossy=True))

    cover = b"ID3\4\0\0\0\10\0\0" + np.random.default_rng(0).bytes(8 << 14)
    tail = b"TAG" + bytes(125)
    mp3("tags.mp3", lambda data: cover + data + tail)
    mp3("zeros before.mp3", lambda data: bytes(3000) + data)
    mp3("junk before.mp3", lambda data: b"<html>junk</html>" * 200 + data)
    mp3("an mp3 called.wav", lambda data: data)
    mp3("an mp3 called.m4a", lambda data: data)
    name = "no length.mp3"
    mp3(name, _without_length, Heard(name, 20, lossy=True, delay_s=1105 / 44_100))
    name = "no length, junk before.mp3"
    mp3(name, lambda data: bytes(700) + _without_length(data), Heard(name, 20, lossy=True, delay_s=1105 / 44_100))


def _without_length(mp3: bytes) -> bytes:
    """Without its first frame, which tells it."""
    return mp3[mp3.index(mp3[:2], mp3.index(b"Xing")) :]


def samples_that_are_none() -> None:
    for name, value in {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}.items():
        samples = sound(name)
        samples[2000] = value
        case(f"{name}.wav", encoded(samples, subtype="FLOAT"), "NaN or infinite samples")
    both = np.stack([sound("NaN"), np.full(len(sound("NaN")), np.nan)], axis=1)
    case("NaN in one channel.wav", encoded(both, subtype="DOUBLE"), "NaN or infinite samples")
    case("silence.wav", encoded(np.zeros(8000)), "silent")
    case("silence.mp3", encoded(np.zeros(44_100), 44_100, "MP3"), "silent")
    case("opposite channels.wav", encoded(np.stack([sound("a"), -sound("a")], axis=1), subtype="FLOAT"), "silent")


def no_audio() -> None:
    rng = np.random.default_rng(0)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("a.wav", encoded(sound("a")))
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + rng.bytes(500)
    html = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>\n" * 20
    for name, data in {
        "text.wav": b"hello " * 200, "text.flac": b"hello " * 200, "text.ogg": b"hello " * 200, "a page.mp3": html,
        "random.wav": rng.bytes(5000), "random.mp3": rng.bytes(5000), "picture.flac": png, "zip.wav": zipped.getvalue(),
        "one byte.wav": b"R", "json.opus": b'{"error": "not found"}',
    }.items():  # fmt: skip
        case(name, data, "not audio")
    for name, data in {"text.m4a": b"hello " * 200, "random.aac": rng.bytes(5000), "a page.webm": html}.items():
        case(name, data, "corrupt or not audio")
