"""Formats that need care: MP3s, Oggs and FLACs that libsndfile would read in part, and those that FFmpeg reads."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from slm import _sndfile
from slm.audio import AudioInfo, AudioStream, find_audio, probe, read_audio
from slm.errors import AudioError
from tests.encode import encode_with_ffmpeg
from tests.test_audio import FORMATS, RATE, cut, reason, sine, write

SPEECH = Path(__file__).parent / "data" / "speech"


def test_an_mp3_of_varying_bitrate_without_a_header_is_read_to_its_end(tmp_path):
    loud, quiet = 0.5 * np.random.default_rng(0).standard_normal(2 * RATE), sine(8.0, level=0.001)
    path = write(tmp_path / "a.mp3", np.concatenate([loud, quiet]), format="MP3", bitrate_mode="VARIABLE")
    data = path.read_bytes()
    header = data.index(b"Xing")
    path.write_bytes(data[data.index(data[:2], header) :])
    assert soundfile.info(str(path)).duration < 9.0  # the guess that must not be believed
    assert probe(path).duration_s == len(read_audio(path, RATE)) / RATE == pytest.approx(10.0, abs=0.1)


def test_mp3s_that_are_joined_are_read_to_the_end_of_the_last(tmp_path):
    """libsndfile reads what the first one's header tells, in silence."""
    one = write(tmp_path / "one.mp3", sine(1.0), format="MP3").read_bytes()
    two = write(tmp_path / "two.mp3", sine(1.5, hz=1000), format="MP3").read_bytes()
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    for between in (b"", tag):
        (tmp_path / "both.mp3").write_bytes(one + between + two)
        assert soundfile.info(str(tmp_path / "both.mp3")).duration == 1.0
        got = read_audio(tmp_path / "both.mp3", RATE)
        assert len(got) == probe(tmp_path / "both.mp3").num_frames == 2.5 * RATE
        both = np.concatenate([read_audio(tmp_path / f"{name}.mp3", RATE) for name in ("one", "two")])
        assert np.array_equal(got, both)
        assert np.array_equal(read_audio(tmp_path / "both.mp3", RATE, 0.5, 1.5), both[RATE // 2 : 3 * RATE // 2])
    for behind in (tag, b"TAG" + bytes(125)):
        (tmp_path / "tagged.mp3").write_bytes(tag + one + behind)
        assert len(read_audio(tmp_path / "tagged.mp3", RATE)) == RATE
    slow = write(tmp_path / "slow.mp3", sine(1.0, 24_000), 24_000, format="MP3").read_bytes()
    (tmp_path / "both.mp3").write_bytes(one + slow)
    assert reason(tmp_path / "both.mp3") == "the sample rate changes inside the file: 48000 to 24000 Hz"


def test_a_damaged_page_of_an_ogg_is_found_wherever_it_is(tmp_path):
    """Without its first page an Ogg looks like one that was recorded from a running stream."""
    for suffix in ("ogg", "opus"):
        path = write(
            tmp_path / f"a.{suffix}", 0.1 * np.random.default_rng(0).standard_normal(3 * RATE), **FORMATS[suffix]
        )
        whole = path.read_bytes()
        pages = [found.start() for found in re.finditer(b"OggS", whole)]
        assert len(pages) > 3
        for page in pages[2:]:
            first = page + 27 + whole[page + 26]  # behind the page's header
            path.write_bytes(whole[:first] + bytes([whole[first] ^ 1]) + whole[first + 1 :])
            assert reason(path).startswith("corrupt: the Ogg page at byte")
            path.write_bytes(whole[:page] + b"x" + whole[page + 1 :])
            assert "corrupt" in reason(path)


def test_corrupt_flac_and_lost_ogg_pages_are_found_out(tmp_path):
    for suffix in ("flac", "ogg", "opus"):
        noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
        path = write(tmp_path / f"a.{suffix}", noise, **FORMATS[suffix])
        data = bytearray(path.read_bytes())
        for i in range(len(data) // 2, len(data) // 2 + 200):
            data[i] ^= 0x5A
        path.write_bytes(data)
        assert "corrupt" in reason(path)


def pages_of(ogg):
    """By the sizes that each header tells (RFC 3533)."""
    pages = []
    while ogg:
        num_segments = ogg[26]
        size = 27 + num_segments + sum(ogg[27 : 27 + num_segments])
        pages.append(ogg[:size])
        ogg = ogg[size:]
    return pages


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_an_ogg_that_was_cut_between_two_pages_is_found_out(tmp_path, suffix):
    """libsndfile reads what is there, in silence."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * RATE)
    path = write(tmp_path / f"a.{suffix}", noise, **FORMATS[suffix])
    pages = pages_of(path.read_bytes())
    assert len(read_audio(path, 16_000)) == 48_000
    for count in range(3, len(pages)):
        path.write_bytes(b"".join(pages[:count]))
        assert soundfile.info(str(path)).frames > 0
        assert reason(path) == "truncated: its Ogg stream has no end"
        stream = AudioStream(path.name, partial(open, path, "rb"))
        assert reason(stream) == "truncated: its Ogg stream has no end"
    assert len(read_audio(path, 16_000, 0.0, 0.5)) == 8000  # what is there still serves a segment


def test_each_stream_of_an_ogg_must_have_an_end(tmp_path):
    """Two side by side: the first is read."""
    rng = np.random.default_rng(0)
    first, second = (
        write(tmp_path / f"{name}.ogg", 0.1 * rng.standard_normal(3 * RATE), **FORMATS["ogg"]) for name in "ab"
    )
    a, b = pages_of(first.read_bytes()), pages_of(second.read_bytes())
    both = tmp_path / "both.ogg"
    both.write_bytes(b"".join([a[0], b[0], *a[1:], *b[1:]]))
    assert np.array_equal(read_audio(both, RATE), read_audio(first, RATE))
    for pages in ([a[0], b[0], *a[1:-1], *b[1:]], [a[0], b[0], *a[1:], *b[1:-1]]):
        both.write_bytes(b"".join(pages))
        assert reason(both) == "truncated: its Ogg stream has no end"


def test_real_oggs_have_their_ends():
    """All speech that is in the repository."""
    speech = [path for path in find_audio(SPEECH) if path.suffix in (".ogg", ".opus")]
    assert len(speech) > 100
    for path in speech:
        assert len(read_audio(path, 16_000)) > 1600


def test_a_chained_ogg_is_refused(tmp_path):
    """libsndfile reads the first link only, in silence."""
    for suffix in ("ogg", "opus"):
        one = write(tmp_path / f"one.{suffix}", sine(0.5), **FORMATS[suffix])
        two = write(tmp_path / f"two.{suffix}", sine(0.5, hz=1000), **FORMATS[suffix])
        one.write_bytes(one.read_bytes() + two.read_bytes())
        assert reason(one).startswith("chained Ogg")
        assert len(read_audio(two, 16_000)) == 8000


def test_a_flac_from_a_pipe_has_no_length_and_is_read_to_its_end(tmp_path):
    pytest.importorskip("av")
    path = write(tmp_path / "a.flac", np.stack([sine(1.0), np.zeros(RATE)], 1), subtype="PCM_24")
    expected = read_audio(path, 16_000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # total samples: the low 4 bits here and the 4 bytes that follow
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert probe(path) == AudioInfo(RATE, RATE, 2)
    assert np.abs(read_audio(path, 16_000) - expected).max() < 1e-6
    assert np.abs(read_audio(path, RATE, 0.25, 0.5) - sine(1.0)[RATE // 4 : RATE // 2] / 2).max() < 1e-6


def test_an_mp3_is_decoded_no_further_than_its_segment(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp3", sine(20.0), format="MP3", bitrate_mode="VARIABLE")
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], data.index(b"Xing")) :])
    monkeypatch.setattr(_sndfile, "_BLOCK_FRAMES", 4800)
    decoded = []
    monkeypatch.setattr(_sndfile, "mix_down", lambda block, _: decoded.append(len(block)) or block[:, 0])
    assert len(read_audio(path, 16_000, 1.0, 2.0)) == 16_000
    assert sum(decoded) / RATE == pytest.approx(2.25, abs=0.2)  # and what the resampler hears behind the segment
    assert "segment outside" in reason(path, start_s=19.0, end_s=22.0)


def test_a_misnamed_mp3_is_read_by_its_content(tmp_path):
    path = write(tmp_path / "a.wav", sine(1.0), format="MP3")
    assert len(read_audio(path, 16_000)) == 16_000


def test_what_changes_inside_a_file(tmp_path):
    """Streams of AAC put one behind the other: another number of channels is mixed down, another rate is refused."""
    aac = ("aac", RATE, "fltp", "adts")
    mono = encode_with_ffmpeg(tmp_path / "mono.aac", sine(1.0), RATE, *aac)
    stereo = encode_with_ffmpeg(tmp_path / "stereo.aac", sine(1.0), RATE, *aac, layout="stereo")
    slow = encode_with_ffmpeg(tmp_path / "slow.aac", sine(1.0), RATE, "aac", 24_000, "fltp", "adts")
    (tmp_path / "layouts.aac").write_bytes(mono.read_bytes() + stereo.read_bytes())
    (tmp_path / "rates.aac").write_bytes(mono.read_bytes() + slow.read_bytes())
    assert len(read_audio(tmp_path / "layouts.aac", 16_000)) / 16_000 == pytest.approx(2.0, abs=0.1)
    assert probe(tmp_path / "layouts.aac").duration_s == pytest.approx(2.0, abs=0.1)
    assert reason(tmp_path / "rates.aac") == "the sample rate changes inside the file: 48000 to 24000 Hz"
    with pytest.raises(AudioError, match="sample rate changes"):
        probe(tmp_path / "rates.aac")


@pytest.mark.parametrize(
    ("name", "settings", "least_db"),
    [
        ("a.m4a", ("aac", RATE, "fltp", None), 25),
        ("a.aac", ("aac", RATE, "fltp", "adts"), 25),
        ("a.webm", ("libopus", RATE, "flt", None), 25),
        ("a.g722", ("g722", 16_000, "s16", "g722"), 25),
        ("a.mp4", ("aac", RATE, "fltp", "mp4"), 25),
        ("a.wma", ("wmav2", RATE, "fltp", "asf"), 15),
        ("a.mka", ("pcm_s16le", RATE, "s16", "matroska"), 80),
        ("lossless.m4a", ("alac", RATE, "s16p", "ipod"), 80),
        ("a.ac3", ("ac3", RATE, "fltp", "ac3"), 25),
        ("a.mp2", ("mp2", RATE, "s16", "mp2"), 15),
    ],
)
def test_formats_of_ffmpeg(tmp_path, name, settings, least_db):
    rate_hz = settings[1]
    path = encode_with_ffmpeg(tmp_path / name, chirp(RATE), RATE, *settings)
    got = read_audio(path, rate_hz)
    assert find_audio(tmp_path) == [path]
    assert probe(path).channels == 1
    assert probe(path).duration_s == pytest.approx(1.0, abs=0.1)
    assert len(got) / rate_hz == pytest.approx(1.0, abs=0.1)
    assert signal_to_noise_db(chirp(rate_hz), got, most_delay=rate_hz // 10) > least_db
    if name in ("a.mp4", "a.mka"):  # known by their first bytes too
        assert np.array_equal(read_audio(path.rename(tmp_path / "b.wav"), rate_hz), got)


def chirp(rate_hz):
    """From 200 to 3000 Hz in a second, faded in and out: it fits itself at one delay only."""
    t = np.arange(rate_hz) / rate_hz
    return (0.3 * np.sin(np.pi * t) ** 2 * np.sin(2 * np.pi * (200 + 1400 * t) * t)).astype(np.float32)


def signal_to_noise_db(signal, got, most_delay):
    """At the delay (of a codec without a header, either way) where they fit best."""
    padded = np.pad(got, (most_delay, most_delay + max(0, len(signal) - len(got))))
    at = np.argmax(np.correlate(padded, signal, "valid"))
    noise = padded[at : at + len(signal)] - signal
    return 10 * np.log10((signal**2).sum() / (noise**2).sum())


def test_broken_files_of_ffmpeg(tmp_path):
    whole = encode_with_ffmpeg(tmp_path / "a.m4a", sine(1.0), RATE, "aac", RATE, "fltp", movflags="faststart")
    assert "corrupt" in reason(cut(whole, 0.6))
    (tmp_path / "text.m4a").write_text("hello " * 100)
    assert "not audio" in reason(tmp_path / "text.m4a")
